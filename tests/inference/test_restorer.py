"""The Restorer: tiles against the full frame, what averages are taken over, progress, ensemble, precision, threads."""

import copy
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from small_networks import (
    FAMILIES,
    HALVES,
    NETWORKS,
    QUIET,
    blind_to_neighbours,
    kbnet_s,
    largest_difference,
    loud,
    noise,
    on_cpu,
    recorded,
    tiles_of,
)
from torch import nn

from kbnet.errors import InvalidInputError, ModelError
from kbnet.inference import Restorer, devices, whole
from kbnet.inference.tiles import plan, reflect_pad
from kbnet.models import find
from kbnet.ops import native

# Full frame -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["global", "local", "tile"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (17, 33), (40, 24)], ids=str)
def test_the_full_frame_is_one_pass_over_the_image_mirrored_to_multiples_of_eight(size, context):
    # Four levels: the network's own multiple is 16, and the last tile of a plan would end before 40.
    network, image = loud(kbnet_s, 4), noise(*size, 3)
    result, calls = recorded(on_cpu(network, context=context, window=10**4), image)
    assert calls == [(1, 1)]
    batch = torch.from_numpy(reflect_pad(image.transpose(2, 0, 1)[None], 8))
    with torch.inference_mode():
        expected = network(batch)[0, :, : size[0], : size[1]].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_tile_auto_takes_an_image_that_fits_at_once_and_cuts_one_that_does_not(monkeypatch):
    auto = on_cpu(QUIET, tile="auto", overlap=32)
    asked = []
    monkeypatch.setattr(whole, "auto_tile", lambda runner, **_: asked.append((runner.network, runner.device)) or 128)
    image = noise(40, 200)
    assert recorded(auto, image[:, :128])[1] == [(1, 1)]
    assert asked == [(QUIET, "cpu")]
    count = tiles_of(40, 200, 128, 32, 4)
    assert count > 1
    assert recorded(auto, image)[1][-1] == (count, count)


# Tiles ----------------------------------------------------------------------------------------------------------------


@FAMILIES
def test_tiles_are_the_networks_output_weighted_by_the_plan(family):
    network, image = NETWORKS[family], noise(80, 136, 3)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = torch.zeros_like(batch)
    rows, cols = (plan(length, 64, 16, network.input_multiple) for length in (80, 136))
    with torch.inference_mode():
        for row in rows:
            for col in cols:
                window = (..., slice(row.start, row.stop), slice(col.start, col.stop))
                weights = torch.from_numpy(row.weights[:, None] * col.weights)
                expected[window] += network(batch[window]) * weights
    result = on_cpu(network, tile=64, overlap=16, context="tile")(image)
    np.testing.assert_allclose(result, expected[0].permute(1, 2, 0).numpy(), atol=1e-5)


@FAMILIES
def test_tiles_with_the_exact_global_context_equal_the_full_frame(family):
    # Five crops of 48 x 48 make up the whole image, and no kernel reaches over their edges: the gathered averages are
    # exactly those of the full frame, and nothing else ties tiles together.
    network = blind_to_neighbours(copy.deepcopy(NETWORKS[family]))
    full = on_cpu(network)(HALVES)
    shared = on_cpu(network, tile=64, context="global")(HALVES)
    alone = on_cpu(network, tile=64, context="tile")(HALVES)
    np.testing.assert_allclose(shared, full, atol=2e-6)
    assert largest_difference(alone, full) > 1e-3  # it does matter


@FAMILIES
def test_the_global_context_brings_tiles_several_times_closer_to_the_full_frame(family):
    network = NETWORKS[family]
    full = on_cpu(network)(HALVES)
    shared, alone = (on_cpu(network, tile=64, context=context)(HALVES) for context in ("global", "tile"))
    assert largest_difference(alone, full) > 0.04
    assert largest_difference(shared, full) < largest_difference(alone, full) / 3


def test_the_local_context_is_the_same_tiled_or_not():
    network = blind_to_neighbours(copy.deepcopy(NETWORKS["kbnet-s"]))
    # Without kernels only the windows reach over a cut: at each of the five averages by half of 8 pixels, less than a
    # quarter of the overlap, which has no weight.
    full, tiled = (on_cpu(network, tile=tile, overlap=96, context="local", window=8)(HALVES) for tile in (0, 192))
    np.testing.assert_allclose(tiled, full, atol=2e-6)
    assert largest_difference(full, on_cpu(network)(HALVES)) > 1e-3  # and it is not the average over the frame


def test_with_kernels_too_the_local_context_leaves_no_more_than_the_kernels_reach():
    local = {"context": "local", "window": 8, "overlap": 32}
    full, tiled = (on_cpu(NETWORKS["kbnet-s"], tile=tile, **local)(HALVES) for tile in (0, 64))
    alone = on_cpu(NETWORKS["kbnet-s"], tile=64, overlap=32, context="tile")(HALVES)
    assert largest_difference(tiled, full) < largest_difference(alone, on_cpu(NETWORKS["kbnet-s"])(HALVES)) / 10


def test_a_larger_overlap_brings_tiles_closer_to_the_full_frame():
    network = NETWORKS["kbnet-s"]
    full = on_cpu(network, context="local", window=8)(HALVES)
    differences = [
        largest_difference(on_cpu(network, tile=128, overlap=overlap, context="local", window=8)(HALVES), full)
        for overlap in (0, 32, 64)
    ]
    assert differences[0] > 10 * differences[1] > 10 * differences[2]


@pytest.mark.parametrize("context", ["global", "local", "tile"])
@FAMILIES
@pytest.mark.parametrize("size", [(83, 91), (1, 200), (91, 5)], ids=str)
def test_tiles_of_odd_sizes_cover_odd_images(family, size, context):
    network, image = NETWORKS[family], noise(*size, 3)
    result, calls = recorded(on_cpu(network, tile=77, overlap=25, context=context), image)
    assert result.shape == image.shape
    padded = [-(-length // 8) * 8 for length in size]
    count = tiles_of(*padded, 77, 25, network.input_multiple)
    assert count > 1
    assert calls == [(i, count) for i in range(1, count + 1)]
    assert np.isfinite(result).all()
    assert (
        largest_difference(result, on_cpu(network)(image)) < 0.5
    )  # the same picture: the network changes it by up to 2


@pytest.mark.parametrize("context", ["global", "local", "tile"])
@pytest.mark.parametrize("size", [(5, 150), (150, 5), (1, 150)], ids=str)
def test_an_image_thinner_than_the_networks_multiple_is_tiled_too(size, context):
    network = loud(kbnet_s, 4)  # a multiple of 16, and the image is padded to 8
    image = noise(*size, 3)
    result = on_cpu(network, tile=64, context=context)(image)
    assert result.shape == image.shape
    assert np.isfinite(result).all()


def test_a_network_that_changes_nothing_returns_the_image_from_tiles_too():
    network = copy.deepcopy(QUIET)
    nn.init.zeros_(network.last.weight)
    nn.init.zeros_(network.last.bias)
    image = np.random.default_rng(0).integers(0, 65536, (90, 133, 3), np.uint16)
    np.testing.assert_array_equal(on_cpu(network, tile=64)(image), image)


# Strength, ensemble, batches, progress --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_strength_blends_with_the_input(channels):
    restorer_, image = on_cpu(loud(kbnet_s, 2, channels)), noise(9, 11, 3)
    restored = restorer_(image)
    assert largest_difference(restored, image) > 0.1
    np.testing.assert_allclose(restorer_(image, strength=0), image, atol=1e-6)
    np.testing.assert_allclose(restorer_(image, strength=0.5), (image + restored) / 2, atol=1e-6)
    np.testing.assert_allclose(restorer_(image, strength=1.0), restored, atol=1e-6)
    gray = image[..., 0]
    np.testing.assert_allclose(restorer_(gray, strength=0.25), 0.75 * gray + 0.25 * restorer_(gray), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strength_zero_returns_integers_bit_for_bit(dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 11, 3), dtype, endpoint=True)
    np.testing.assert_array_equal(on_cpu(QUIET)(image, strength=0), image)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(InvalidInputError, match=f"expected a strength from 0 to 1, got {strength}"):
        on_cpu(QUIET)(noise(8, 8), strength=strength)


@pytest.mark.parametrize("options", [{"tile": 0}, {"tile": 64, "context": "tile"}], ids=str)
def test_the_ensemble_is_the_mean_over_the_eight_flips_and_quarter_turns(options):
    image = noise(21, 70, 3)
    plain = on_cpu(QUIET, **options)
    results = []
    for turns in range(4):
        turned = np.rot90(image, turns)
        results.append(np.rot90(plain(turned), -turns))
        results.append(np.rot90(plain(turned[:, ::-1])[:, ::-1], -turns))
    expected = np.mean(results, axis=0)
    np.testing.assert_allclose(on_cpu(QUIET, ensemble=True, **options)(image), expected, atol=1e-5)
    # Each of the eight counts: they differ from each other, and the mean from the plain result.
    assert min(largest_difference(a, b) for i, a in enumerate(results) for b in results[:i]) > 1e-2
    assert largest_difference(results[0], expected) > 1e-2


@pytest.mark.parametrize("options", [{"tile": 0}, {"tile": 64}, {"tile": 0, "ensemble": True}], ids=str)
def test_a_batch_is_restored_image_by_image(options):
    batch = torch.from_numpy(noise(3, 3, 20, 90))
    batch[1] += 1  # an average over the batch would tell the others
    restore_ = on_cpu(QUIET, **options)
    expected = torch.cat([restore_(image[None]) for image in batch])
    torch.testing.assert_close(restore_(batch), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("context", ["global", "local"])
@FAMILIES
def test_small_images_together_are_what_they_are_alone(family, context):
    restorer_ = on_cpu(NETWORKS[family], context=context, window=16)
    images = list(noise(whole.TOGETHER + 2, 33, 40, 3))
    together = restorer_.together(images, strength=0.7)
    assert len(together) == len(images)
    for image, one in zip(images, together, strict=True):
        assert largest_difference(one, restorer_(image, strength=0.7)) < 1e-5
    eight_bits = restorer_.together([(image * 255).clip(0, 255).astype(np.uint8) for image in images[:2]])
    assert [one.dtype for one in eight_bits] == [np.uint8, np.uint8]


def test_images_of_several_sizes_are_not_taken_together():
    restorer_ = on_cpu(QUIET)
    with pytest.raises(InvalidInputError, match=r"images of one size, got \[\[3, 8, 9\], \[3, 9, 8\]\]"):
        restorer_.together([noise(8, 9, 3), noise(9, 8, 3)])
    with pytest.raises(InvalidInputError, match="strength"):
        restorer_.together([noise(8, 9, 3)], strength=2)
    assert restorer_.together([]) == []


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("tile", [0, 64])
def test_progress_counts_every_tile_once(images, ensemble, tile):
    batch = torch.from_numpy(noise(images, 3, 40, 100))
    _, calls = recorded(on_cpu(QUIET, tile=tile, overlap=16, ensemble=ensemble, context="tile"), batch)
    count = images * (8 if ensemble else 1) * (tiles_of(40, 104, tile, 16, 4) if tile else 1)
    assert calls == [(i, count) for i in range(1, count + 1)]


def test_progress_keeps_its_total_when_memory_changes_on_the_way(monkeypatch):
    sides = iter([128, 192, 256, 320])
    monkeypatch.setattr(whole, "auto_tile", lambda runner, **_: next(sides))
    _, calls = recorded(on_cpu(QUIET, tile="auto", overlap=32), torch.zeros(2, 3, 16, 240))
    count = 2 * tiles_of(16, 240, 128, 32, 4)
    assert count > 2
    assert calls == [(i, count) for i in range(1, count + 1)]


def test_an_error_in_the_progress_callback_stops_the_work():
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_cpu(QUIET, tile=64)(noise(40, 100), progress=stop)


# Precision, device, threads -------------------------------------------------------------------------------------------


BY_LAYERS = "by layers"


@pytest.mark.parametrize("how", [BY_LAYERS, *(native.instruction_sets() if native.refuses_here() is None else ())])
@pytest.mark.parametrize("tile", [0, 64])
@FAMILIES
def test_bfloat16_is_close_to_float32_and_not_the_same_where_it_is_multiplied_in(family, tile, how, monkeypatch):
    monkeypatch.setenv(*("KBNET_FUSED", "off") if how == BY_LAYERS else ("KBNET_INSTRUCTION_SET", how))
    image = noise(40, 80, 3)
    multiplied = on_cpu(NETWORKS[family], dtype="bfloat16").dtype
    assert multiplied == ("bfloat16" if how == BY_LAYERS or how in native.bfloat16_instruction_sets() else "float32")
    exact, rounded = (on_cpu(NETWORKS[family], dtype=dtype, tile=tile)(image) for dtype in (torch.float32, "bfloat16"))
    assert rounded.dtype == np.float32
    change = np.abs(exact - image).mean()
    difference = np.abs(rounded - exact).mean()
    assert (difference > 0) == (multiplied == "bfloat16")
    assert difference < 0.02 * change  # bfloat16 has eight bits: 0.004 a rounding


@pytest.mark.parametrize("instruction_set", native.instruction_sets() if native.refuses_here() is None else ())
def test_auto_multiplies_in_bfloat16_where_that_is_fast_and_harmless(instruction_set, monkeypatch, tmp_path):
    monkeypatch.setenv("KBNET_INSTRUCTION_SET", instruction_set)
    fast = "bfloat16" if instruction_set in native.bfloat16_instruction_sets() else "float32"
    entry = find("denoise")
    for name, dtype, expected in (
        ("denoise", "auto", fast if entry.fast_dtype == "bfloat16" else "float32"),
        ("denoise", "float32", "float32"),
        ("denoise", "bfloat16", fast),
    ):
        assert Restorer.from_pretrained(name, dtype=dtype).describe()["dtype"] == expected
    others = shutil.copy(entry.path, tmp_path / "mine.safetensors")  # nobody measured these
    assert Restorer.from_pretrained(others).describe()["dtype"] == "float32"


@pytest.mark.parametrize("dtype", ["float16", torch.float16])
def test_float16_is_refused_with_the_reason(dtype):
    with pytest.raises(InvalidInputError, match=r"float16 overflows in these networks .* use bfloat16"):
        on_cpu(QUIET, dtype=dtype)


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_in_one_line(device):
    with pytest.raises(
        InvalidInputError, match=f"^expected a device that this machine has, got '{device}': .*$"
    ) as refusal:
        Restorer(QUIET, device=device)
    assert "\n" not in str(refusal.value)


def test_the_device_chosen_is_the_graphics_card_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Restorer(QUIET).device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.choose_device("auto") == "cuda"


@pytest.mark.parametrize("context", ["global", "local"])
def test_one_restorer_serves_several_threads(context):
    shared = on_cpu(QUIET, tile=64, context=context, window=16)
    # As unlike in brightness as they can be: with another thread's averages a result would be far off.
    images = [noise(40, 100, 3) * 0.2 + 0.25 * i for i in range(4)]
    expected = [shared(image) for image in images]
    tiles = threading.Barrier(4, timeout=60)

    def work(image):
        # All are between the same two tiles of their images at once, so that what they might share is mixed up.
        return shared(image, progress=lambda done, total: tiles.wait())

    with ThreadPoolExecutor(4) as pool:
        for one, result in zip(expected, pool.map(work, images), strict=True):
            np.testing.assert_allclose(result, one, atol=1e-5)


def test_the_network_is_put_into_eval_mode_and_learns_nothing():
    network = loud(kbnet_s).train()
    restore_ = on_cpu(network)
    assert not network.training
    restore_(torch.rand(1, 3, 8, 8, requires_grad=True))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_gray_image_goes_to_the_gray_network_of_a_task(monkeypatch):
    colour = Restorer(loud(kbnet_s), device="cpu", tile=0, name="colour")
    colour.gray = Restorer(loud(kbnet_s, 2, 1), device="cpu", tile=0, name="gray")
    rng = np.random.default_rng(0)
    gray, photo = rng.random((40, 56), dtype=np.float32), rng.random((40, 56, 3), dtype=np.float32)
    np.testing.assert_array_equal(colour(gray), colour.gray(gray))
    alone = Restorer(colour.network, device="cpu", tile=0)
    np.testing.assert_array_equal(colour(photo), alone(photo))
    assert np.abs(alone(gray) - colour(gray)).max() > 1e-3
    assert colour.suited(1) is colour.gray
    assert colour.suited(3) is colour
    assert alone.suited(1) is alone


def test_a_task_brings_its_gray_model_and_a_model_by_name_none():
    entry = find("denoise")
    by_task, by_name = Restorer.from_pretrained("denoise"), Restorer.from_pretrained(entry.name)
    assert by_name.gray is None
    assert (by_task.gray is None) == (not entry.gray)
    if by_task.gray is not None:
        assert by_task.gray.config.channels == 1
        assert by_task.gray.name == entry.gray
        assert by_task.gray is by_task.gray  # loaded once


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda restorer: pickle.loads(pickle.dumps(restorer))])
def test_a_restorer_can_be_copied_and_sent_to_another_process(duplicate):
    restorer, image = Restorer.from_pretrained("denoise", tile=64), noise(40, 70, 3)
    np.testing.assert_array_equal(duplicate(restorer)(image), restorer(image))


@pytest.mark.parametrize("options", [{"tile": 0}, {"tile": 64, "context": "global"}, {"tile": 64}], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_returns_no_numbers_is_an_error_and_not_a_black_picture(options, value):
    network = copy.deepcopy(NETWORKS["kbnet-s"])
    with torch.no_grad():
        network.last.bias[1] = value
    mine = Restorer(network, device="cpu", name="mine", **options)
    for image in (np.zeros((70, 90, 3), np.uint8), torch.zeros(2, 3, 70, 90)):
        with pytest.raises(ModelError, match="the network mine returned NaN or infinity for this image"):
            mine(image)
