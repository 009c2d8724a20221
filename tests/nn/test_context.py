"""Where the averages over the image come from, and that they can be taken from elsewhere."""

import pytest
import torch

from kbnet.models import KBNetL, KBNetLConfig, KBNetS, KBNetSConfig
from kbnet.nn import FullFrame, Gather, Local, Shared
from kbnet.nn.context import sliding_mean

S = KBNetSConfig(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1), bases=4)
L = KBNetLConfig(width=8, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 4), bases=4)
NETWORKS = {"kbnet-s": lambda: KBNetS(S), "kbnet-l": lambda: KBNetL(L)}


def network(family):
    """A network whose residual branches count as much as its trunk, so that a wrong average is seen."""
    torch.manual_seed(0)
    model = NETWORKS[family]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("scale"):
                parameter.fill_(0.5)
    return model


def brute_force_mean(u, window):
    """Each pixel's mean over a window as large as fits, moved inwards at the borders."""
    height, width = u.shape[2:]
    rows, cols = min(window, height), min(window, width)
    y = torch.empty_like(u)
    for i in range(height):
        for j in range(width):
            top = min(max(i - (rows - 1) // 2, 0), height - rows)
            left = min(max(j - (cols - 1) // 2, 0), width - cols)
            y[:, :, i, j] = u[:, :, top : top + rows, left : left + cols].mean((2, 3))
    return y


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 6, 7, 8, 100])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 7), (6, 4)])
def test_the_sliding_mean_equals_a_mean_taken_at_every_pixel(size, window):
    u = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(sliding_mean(u, window).expand_as(u), brute_force_mean(u, window))


def test_a_window_that_covers_the_image_gives_one_global_mean():
    u = torch.randn(2, 3, 5, 7)
    assert torch.equal(sliding_mean(u, 7), u.mean((2, 3), keepdim=True))


def test_the_sliding_mean_loses_no_digits_over_a_long_row():
    u = torch.rand(1, 1, 1, 300_000) + 1000  # a float32 running sum reaches 3e8, where it steps by 32
    inner = sliding_mean(u, 4)[..., 1:-2]
    expected = u.double().unfold(3, 4, 1).mean(-1)
    torch.testing.assert_close(inner.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_sliding_mean_keeps_the_dtype(dtype):
    assert sliding_mean(torch.ones(1, 1, 5, 5, dtype=dtype), 3).dtype == dtype


@pytest.mark.parametrize("family", NETWORKS)
def test_without_a_context_a_network_sees_its_own_input(family):
    model, image = network(family), torch.rand(2, 3, 16, 24)
    with torch.inference_mode():
        assert torch.equal(model(image), model(image, FullFrame()))


@pytest.mark.parametrize("family", NETWORKS)
def test_gathering_over_one_crop_that_is_the_whole_image_changes_nothing(family):
    model, image = network(family), torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        torch.testing.assert_close(model(image, Gather()), model(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", NETWORKS)
def test_shared_averages_reproduce_the_full_frame_exactly(family):
    model, image = network(family), torch.rand(1, 3, 16, 24)
    gather = Gather()
    with torch.inference_mode():
        expected = model(image, gather)
        shared = Shared(gather.means)
        assert torch.equal(model(image, shared), expected)
        assert shared.site == len(gather.means) > 0
        assert torch.equal(model(image, shared), expected)  # a second pass starts at the first site again


@pytest.mark.parametrize("family", NETWORKS)
def test_the_middle_of_a_tile_with_shared_averages_equals_the_full_frame_there(family):
    model, image = network(family), torch.rand(1, 3, 16, 288)
    image[..., 240:] += 2  # so that the averages of the tile and of the image differ
    gather = Gather()
    with torch.inference_mode():
        whole = model(image, gather)
        tile = image[..., :240]
        with_shared, alone = model(tile, Shared(gather.means)), model(tile)
    # Past the reach of the convolutions from the cut at 240, only the averages could make a difference.
    kept = (..., slice(0, 64))
    torch.testing.assert_close(with_shared[kept], whole[kept], rtol=1e-4, atol=1e-4)
    assert (alone[kept] - whole[kept]).abs().max() > 1e-3  # without them it does make one


@pytest.mark.parametrize("family", NETWORKS)
def test_a_gathered_average_is_the_same_for_all_crops_of_the_batch(family):
    model = network(family)
    one = torch.rand(1, 3, 16, 16)
    gather = Gather()
    with torch.inference_mode():
        model(one, single := Gather())
        model(one.repeat(3, 1, 1, 1), gather)
    assert len(gather.means) == len(single.means)
    for repeated, alone in zip(gather.means, single.means, strict=True):
        assert repeated.shape == alone.shape
        torch.testing.assert_close(repeated, alone, rtol=1e-4, atol=1e-4)


def test_gather_averages_over_the_crops():
    gather = Gather()
    gather.begin(4)
    crops = torch.rand(3, 2, 4, 4)
    torch.testing.assert_close(gather.pool(crops), crops.mean((0, 2, 3))[None, :, None, None])


@pytest.mark.parametrize("level", [1, 2, 4])
def test_gather_leaves_out_a_halo_that_shrinks_with_the_level(level):
    gather = Gather(halo=8)
    gather.begin(64)
    u = torch.full((1, 2, 64 // level, 48 // level), torch.nan)
    halo = 8 // level
    u[:, :, halo:-halo, halo:-halo] = 3.0
    assert torch.equal(gather.pool(u), torch.full((1, 2, 1, 1), 3.0))


def test_gather_forgets_the_averages_of_the_pass_before():
    model, gather = network("kbnet-s"), Gather()
    with torch.inference_mode():
        model(torch.rand(1, 3, 8, 8), gather)
        sites = len(gather.means)
        model(torch.rand(1, 3, 8, 8), gather)
    assert len(gather.means) == sites


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("window", [24, 25, 1000])
def test_a_local_window_over_the_whole_image_is_the_full_frame(family, window):
    model, image = network(family), torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        torch.testing.assert_close(model(image, Local(window)), model(image), rtol=1e-5, atol=1e-5)


def local_pool(u, window, level=1):
    local = Local(window)
    local.begin(u.shape[2] * level)
    return local.pool(u)


@pytest.mark.parametrize("level", [1, 2, 4])
def test_a_small_local_window_is_a_mean_around_every_pixel_and_shrinks_with_the_level(level):
    u = torch.rand(1, 2, 40, 48, dtype=torch.float64)
    torch.testing.assert_close(local_pool(u, 9 * level, level), sliding_mean(u, 9))


@pytest.mark.parametrize("window", [3, 16, 40, 64])
@pytest.mark.parametrize("size", [(65, 70), (80, 101), (1, 90), (129, 3)])
def test_a_local_mean_of_a_flat_image_is_flat_to_the_last_pixel(size, window):
    pooled = local_pool(torch.full((1, 2, *size), 0.7, dtype=torch.float64), window)
    torch.testing.assert_close(pooled.expand(1, 2, *size), torch.full((1, 2, *size), 0.7, dtype=torch.float64))


@pytest.mark.parametrize("window", [32, 64, 100])
def test_a_large_local_window_is_near_the_mean_around_every_pixel(window):
    torch.manual_seed(0)
    coarse = torch.rand(1, 4, 7, 9, dtype=torch.float64)
    u = torch.nn.functional.interpolate(coarse, size=(150, 203), mode="bicubic") + 0.2 * torch.rand(1, 4, 150, 203)
    # Nine cells of an eighth of the window: a little wider, and not the same near the borders; else a mean like any.
    pooled, exact = local_pool(u, window), sliding_mean(u, window // 8 * 9)
    error, spread = (pooled - exact).square().mean().sqrt(), exact.std()
    assert error < 0.15 * spread


def test_with_a_local_window_kbnet_s_gives_tile_and_full_frame_the_same_inside():
    model, image = network("kbnet-s"), torch.rand(1, 3, 32, 256)
    with torch.inference_mode():
        whole, tile = model(image, Local(16)), model(image[..., :192], Local(16))
    torch.testing.assert_close(tile[..., :64], whole[..., :64], rtol=1e-4, atol=1e-4)
