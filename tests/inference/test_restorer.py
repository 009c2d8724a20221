"""The Restorer: tiles against the full frame, what averages are taken over, progress, ensemble, refusals."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from kbnet.errors import CheckpointError, InvalidInputError, UnknownModelError
from kbnet.inference import Restorer, restore, restorer
from kbnet.inference.tiles import plan, reflect_pad
from kbnet.models import create_model, save_file
from kbnet.nn import KernelBasisAttention


def kbnet_s(levels=2, channels=3):
    blocks = (1,) * levels
    return create_model(
        "kbnet-nano",
        channels=channels,
        width=8,
        encoder_blocks=blocks,
        decoder_blocks=blocks,
        middle_blocks=1,
        bases=4,
    )


def kbnet_l():
    return create_model(
        "kbnet-l-derain", width=12, blocks=(1, 1, 1, 1), refinement_blocks=1, bases=4, heads=(1, 2, 2, 4)
    )


def loud(build, *arguments):
    """A network whose residual branches count as much as its trunk, so that what they average over is seen."""
    torch.manual_seed(0)
    network = build(*arguments)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("scale"):
                parameter.fill_(1)
    return network


def blind_to_neighbours(network):
    """The same with only the middle tap of every kernel: nothing but averages ties pixels together any more."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size in ((3, 3), (5, 5)):
                middle = layer.weight.flatten(2)[..., layer.weight[0, 0].numel() // 2].clone()
                layer.weight.zero_()
                layer.weight[..., layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = middle
            if isinstance(layer, KernelBasisAttention):
                kernels = layer.weight.unflatten(2, layer.taps)
                middle = kernels[..., 1, 1].clone()
                kernels.zero_()
                kernels[..., 1, 1] = middle
    return network


NETWORKS = {"kbnet-s": loud(kbnet_s), "kbnet-l": loud(kbnet_l)}
QUIET = loud(kbnet_s)
FAMILIES = pytest.mark.parametrize("family", NETWORKS)
# Brighter on the right, so that a tile's averages are not the image's.
HALVES = np.random.default_rng(0).random((48, 240, 3), np.float32) * 0.3
HALVES[:, 120:] += 0.6


def noise(*shape):
    return np.random.default_rng(1).random(shape, np.float32)


def on_cpu(network, **options):
    return Restorer(network, **{"device": "cpu", "tile": 0} | options)


def largest_difference(a, b):
    return float(np.abs(a - b).max())


def recorded(restore, image, **options):
    """The result and the progress calls."""
    calls = []
    result = restore(image, progress=lambda done, total: calls.append((done, total)), **options)
    return result, calls


def tiles_of(height, width, *tiling):
    return len(plan(height, *tiling)) * len(plan(width, *tiling))


# Full frame -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["global", "local", "tile"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (17, 33), (40, 24)], ids=str)
def test_the_full_frame_is_one_pass_over_the_image_mirrored_to_multiples_of_eight(size, context):
    # Four levels: the network's own multiple is 16, and the last tile of a plan would end before 40.
    network, image = loud(kbnet_s, 4), noise(*size, 3)
    result, calls = recorded(on_cpu(network, context=context, window=10**4), image)
    assert calls == [(1, 1)]
    batch = reflect_pad(torch.from_numpy(image).permute(2, 0, 1)[None], 8)
    with torch.inference_mode():
        expected = network(batch)[0, :, : size[0], : size[1]].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_tile_auto_takes_an_image_that_fits_at_once_and_cuts_one_that_does_not(monkeypatch):
    auto = on_cpu(QUIET, tile="auto", overlap=32)
    asked = []
    monkeypatch.setattr(restorer, "auto_tile", lambda network, device: asked.append((network, device)) or 128)
    image = noise(40, 200)
    assert recorded(auto, image[:, :128])[1] == [(1, 1)]
    assert asked == [(QUIET, torch.device("cpu"))]
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
                expected[window] += network(batch[window]) * row.weights[:, None] * col.weights
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
    monkeypatch.setattr(restorer, "auto_tile", lambda network, device: next(sides))
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


@pytest.mark.parametrize("tile", [0, 64])
@FAMILIES
def test_bfloat16_is_close_to_float32_and_not_the_same(family, tile):
    image = noise(40, 80, 3)
    exact, rounded = (on_cpu(NETWORKS[family], dtype=dtype, tile=tile)(image) for dtype in (torch.float32, "bfloat16"))
    assert rounded.dtype == np.float32
    change = np.abs(exact - image).mean()
    assert 0 < np.abs(rounded - exact).mean() < 0.02 * change  # bfloat16 has eight bits: 0.004 a rounding


@pytest.mark.parametrize("dtype", ["float16", torch.float16])
def test_float16_is_refused_with_the_reason(dtype):
    with pytest.raises(InvalidInputError, match=r"float16 overflows in these networks .* use bfloat16"):
        on_cpu(QUIET, dtype=dtype)


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_in_one_line(device):
    with pytest.raises(InvalidInputError, match=f"^expected a device of this machine, got '{device}': .*$") as refusal:
        Restorer(QUIET, device=device)
    assert "\n" not in str(refusal.value)


def test_the_device_chosen_is_the_graphics_card_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Restorer(QUIET).device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert restorer._device("auto") == torch.device("cuda")


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


# Arguments ------------------------------------------------------------------------------------------------------------

REFUSED = {
    "tile too small": ({"tile": 63}, "expected tile 'auto', 0 for the full frame, or at least 64 pixels; got 63"),
    "negative tile": ({"tile": -64}, "at least 64 pixels; got -64"),
    "broken tile": ({"tile": 96.0}, "at least 64 pixels; got 96.0"),
    "true tile": ({"tile": True}, "at least 64 pixels; got True"),
    "other tile": ({"tile": "large"}, "at least 64 pixels; got 'large'"),
    "negative overlap": ({"overlap": -1}, "expected an overlap of 0 or more whole pixels, got -1"),
    "broken overlap": ({"overlap": 1.5}, "expected an overlap of 0 or more whole pixels, got 1.5"),
    "overlap of a whole tile": ({"tile": 64, "overlap": 64}, "expected an overlap from 0 to under the tile's 64"),
    "overlap without a step": ({"tile": 64, "overlap": 61}, "by at least 4, got 61; give a larger tile"),
    "context": ({"context": "galactic"}, "expected context 'auto', 'global', 'local' or 'tile', got 'galactic'"),
    "window": ({"window": 0}, "expected a window of at least 1 whole pixel, got 0"),
    "broken window": ({"window": 6.5}, "expected a window of at least 1 whole pixel, got 6.5"),
    "dtype": ({"dtype": "int8"}, "expected dtype 'auto', 'float32' or 'bfloat16', got 'int8'"),
    "torch dtype": ({"dtype": torch.float64}, "expected dtype .* got 'float64'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_contradictions_are_refused_when_the_restorer_is_built(name):
    options, line = REFUSED[name]
    with pytest.raises(InvalidInputError, match=line) as refusal:
        on_cpu(QUIET, **options)
    assert "\n" not in str(refusal.value)


def test_the_largest_overlap_that_leaves_a_step_is_accepted():
    image = noise(8, 80, 3)
    result, calls = recorded(on_cpu(QUIET, tile=64, overlap=60, context="tile"), image)
    assert len(calls) == 5  # one every 4 pixels, the network's multiple
    assert result.shape == image.shape


def test_describe_says_how_images_are_restored():
    described = on_cpu(
        QUIET, dtype="bfloat16", tile=96, overlap=20, context="local", window=40, ensemble=True, name="mine"
    )
    assert described.describe() == {
        "model": "mine",
        "device": "cpu",
        "dtype": "bfloat16",
        "tile": 96,
        "overlap": 20,
        "context": "local",
        "window": 40,
        "ensemble": True,
    }
    plain = Restorer(NETWORKS["kbnet-l"], device="cpu").describe()
    assert (plain["model"], plain["tile"], plain["overlap"]) == ("kbnet-l", "auto", 64)
    assert (plain["dtype"], plain["context"], plain["ensemble"]) == ("float32", "global", False)


def test_the_overlap_is_64_pixels_and_half_a_window_more_but_no_more_than_half_a_tile():
    assert on_cpu(QUIET, tile=640).describe()["overlap"] == 64
    assert on_cpu(QUIET, tile=640, context="local", window=64).describe()["overlap"] == 96
    small = on_cpu(QUIET, tile=96, context="tile")
    assert small.describe()["overlap"] == 48
    _, calls = recorded(small, noise(8, 400))
    assert len(calls) == tiles_of(8, 400, 96, 48, 4) != tiles_of(8, 400, 96, 64, 4)


# Weights by name ------------------------------------------------------------------------------------------------------


def test_a_weights_file_is_restored_with(tmp_path):
    path = tmp_path / "own.safetensors"
    save_file(QUIET, path)
    loaded = Restorer.from_pretrained(path, device="cpu", tile=0)
    image = noise(9, 11, 3)
    np.testing.assert_allclose(loaded(image), on_cpu(QUIET)(image), atol=1e-6)
    assert loaded.describe()["model"] == str(path)
    assert loaded.context == "global"


def test_shipped_weights_bring_their_context_unless_another_is_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "shipped.safetensors"
    save_file(QUIET, path)
    entry = SimpleNamespace(name="shipped", context="local", window=48)
    monkeypatch.setattr(restorer, "find", {"denoise": entry}.get)
    monkeypatch.setattr(restorer, "resolve", {"denoise": path}.get)
    shipped = Restorer.from_pretrained("denoise", device="cpu")
    assert (shipped.name, shipped.context, shipped.window) == ("shipped", "local", 48)
    assert Restorer.from_pretrained("denoise", device="cpu", context="tile").context == "tile"
    image = noise(60, 70)
    np.testing.assert_allclose(restore(image), shipped(image), atol=1e-6)
    assert largest_difference(restore(image), image) > 0.1


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UnknownModelError, match="got 'no-such-model'"):
        Restorer.from_pretrained("no-such-model")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError):
        Restorer.from_pretrained(damaged)
