"""Pictures restored by rows: equal to those restored in memory, resumable, and within a limit of memory."""

import os
import stat
import sys
from functools import partial

import numpy as np
import pytest
import pyvips
from small_networks import kbnet_l, kbnet_s, loud, on_cpu

from kbnet.errors import (
    ImageTooLargeError,
    InvalidInputError,
    OutputExistsError,
    UnreadableImageError,
    UnsupportedImageError,
)
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference.jobs import Job, run_jobs
from kbnet.inference.streaming import restore_streamed

NETWORK = loud(kbnet_s, 3)


def pixels(height, width, channels=3, dtype=np.uint8):
    top = np.iinfo(dtype).max
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(0).integers(0, top + 1, shape, dtype=dtype)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.tif"
    write_photo(Photo(pixels(203, 150)), path)
    return path


def levels_apart(path, expected):
    """Largest difference in levels of the file's depth."""
    return int(np.abs(read_photo(path).pixels.astype(np.int64) - expected.astype(np.int64)).max())


@pytest.mark.parametrize("context", ["local", "global", "tile"])
@pytest.mark.parametrize("size", [(203, 150), (64, 300), (1, 90), (50, 40)], ids=str)
def test_the_result_is_the_restorers_own(tmp_path, context, size):
    restorer = on_cpu(NETWORK, tile=64, overlap=16, context=context, window=32)
    source, target = tmp_path / "in.png", tmp_path / "out.tif"
    image = pixels(*size)
    write_photo(Photo(image), source)
    progress = []
    done = restore_streamed(restorer, source, target, progress=lambda *call: progress.append(call))
    assert levels_apart(target, restorer(image)) <= 1
    assert (done.height, done.width, done.resumed) == (*size, 0)
    assert progress == [(i, done.tiles) for i in range(done.tiles + 1)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.png", "out.tif"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes and owners of POSIX")
@pytest.mark.parametrize("name", ["in.tif", "out.tif"])
def test_a_job_by_rows_keeps_times_mode_owner_and_orientation(source, name):
    """Also where the result replaces its input."""
    sidecar = b'<x tiff:Orientation="6"/>'  # the result is not turned either
    source.with_name("in.tif.xmp").write_bytes(sidecar)
    source.chmod(0o640)
    if os.geteuid() == 0:  # only root may give files away
        os.chown(source, 1234, 2345)
    os.utime(source, ns=(10**18, 11 * 10**17))
    before, target = source.stat(), source.with_name(name)
    by_rows = partial(restore_streamed, on_cpu(NETWORK, tile=64, context="tile"))
    jobs, options = [Job(source, target)], {"overwrite": True, "keep_time": True, "sidecars": True}
    (result,) = run_jobs(jobs, pytest.fail, stream=by_rows, **options)
    assert (result.error, result.notes) == (None, ())
    after = target.stat()
    assert (after.st_mtime_ns, stat.S_IMODE(after.st_mode)) == (before.st_mtime_ns, 0o640)
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert target.with_name(f"{name}.xmp").read_bytes() == sidecar


@pytest.mark.slow
def test_kbnet_l_and_a_blend(tmp_path, source):
    restorer = on_cpu(loud(kbnet_l), tile=96, overlap=32, context="global")
    restore_streamed(restorer, source, tmp_path / "out.png", strength=0.5)
    assert levels_apart(tmp_path / "out.png", restorer(read_photo(source).pixels, strength=0.5)) <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", ["tif", "png"])
def test_depth_gray_alpha_and_profile_are_kept(tmp_path, dtype, channels, ending):
    image, alpha = pixels(90, 70, channels, dtype), pixels(90, 70, 1, dtype)
    profile = pyvips.Image.black(1, 1, bands=3).copy(interpretation="srgb")
    profile = (
        bytes(profile.icc_transform("srgb", input_profile="srgb").get("icc-profile-data")) if channels == 3 else None
    )
    source, target = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    write_photo(Photo(image, alpha=alpha, icc_profile=profile), source)
    restorer = on_cpu(NETWORK, tile=64, overlap=16, context="tile")
    restore_streamed(restorer, source, target)
    found = read_photo(target)
    assert (found.pixels.dtype, found.pixels.shape) == (image.dtype, image.shape)
    np.testing.assert_array_equal(found.alpha, alpha)
    assert found.icc_profile == profile
    assert levels_apart(target, restorer(image)) <= 1


def test_the_tiff_is_tiled_big_and_a_pyramid(tmp_path):
    source, target = tmp_path / "in.png", tmp_path / "out.tif"
    write_photo(Photo(pixels(700, 600)), source)
    restore_streamed(on_cpu(NETWORK, tile=256, context="tile"), source, target)
    assert target.read_bytes()[:4] in (b"II\x2b\0", b"MM\0\x2b")  # 43 is BigTIFF, 42 the classic one
    image = pyvips.Image.new_from_file(str(target))
    assert image.get("n-subifds") == 2
    half = pyvips.Image.tiffload(str(target), subifd=0)
    assert (half.width, half.height) == (300, 350)


@pytest.mark.parametrize("context", ["local", "global"])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_picture(tmp_path, source, context):
    restorer = on_cpu(NETWORK, tile=64, overlap=16, context=context, window=32)
    restore_streamed(restorer, source, tmp_path / "whole.tif")
    target = tmp_path / "out.tif"

    def stop(done, total):
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_streamed(restorer, source, target, progress=stop)
    assert not target.exists()
    # what the interruption left half written does not count: the row of tiles at hand is computed again
    folder = tmp_path / ".out.tif.kbnet-rows"
    with (folder / "rows.raw").open("ab") as file:
        file.write(b"\xff" * 1000)
    done = restore_streamed(restorer, source, target)
    assert 0 < done.resumed < done.tiles
    np.testing.assert_array_equal(read_photo(target).pixels, read_photo(tmp_path / "whole.tif").pixels)
    assert not folder.exists()


def test_a_run_of_something_else_is_not_gone_on_with(tmp_path, source):
    target = tmp_path / "out.tif"

    def stop(done, total):
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_streamed(on_cpu(NETWORK, tile=64, overlap=16, context="tile"), source, target, progress=stop)
    other = on_cpu(loud(kbnet_s, 2), tile=64, overlap=16, context="tile")
    assert restore_streamed(other, source, target).resumed == 0
    assert levels_apart(target, other(read_photo(source).pixels)) <= 1


def test_what_cannot_be_streamed_is_refused(tmp_path, source):
    restorer = on_cpu(NETWORK, tile=64, context="tile")
    target = tmp_path / "out.tif"
    with pytest.raises(InvalidInputError, match="an ensemble rotates the whole image"):
        restore_streamed(on_cpu(NETWORK, tile=64, ensemble=True), source, target)
    with pytest.raises(InvalidInputError, match="the full frame doesn't fit"):
        restore_streamed(on_cpu(NETWORK, tile=0), source, target)
    with pytest.raises(InvalidInputError, match="expected a strength"):
        restore_streamed(restorer, source, target, strength=2)
    with pytest.raises(UnsupportedImageError, match=r"ending in \.tif, \.tiff or \.png"):
        restore_streamed(restorer, source, tmp_path / "out.jpg")
    with pytest.raises(ImageTooLargeError, match="203 exceeds the --max-pixels limit of 100"):
        restore_streamed(restorer, source, target, max_pixels=100)
    target.write_bytes(b"old")
    with pytest.raises(OutputExistsError):
        restore_streamed(restorer, source, target)
    assert target.read_bytes() == b"old"
    interlaced, animation = tmp_path / "i.png", tmp_path / "a.webp"
    pyvips.Image.black(100, 100, bands=3).copy(interpretation="srgb").pngsave(str(interlaced), interlace=True)
    with pytest.raises(UnsupportedImageError, match="interlaced"):
        restore_streamed(restorer, interlaced, tmp_path / "new.tif")
    write_photo(Photo(pixels(20, 20)), animation)
    with pytest.raises(UnsupportedImageError, match="--stream expects TIFF, PNG or JPEG, got webp"):
        restore_streamed(restorer, animation, tmp_path / "new.tif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.webp", "i.png", "in.tif", "out.tif"]


def test_a_file_that_is_cut_short_is_told_and_leaves_no_result(tmp_path):
    source = tmp_path / "in.png"
    write_photo(Photo(pixels(400, 300)), source)
    source.write_bytes(source.read_bytes()[:-100_000])
    with pytest.raises(UnreadableImageError, match=r"in\.png"):
        restore_streamed(on_cpu(NETWORK, tile=64, context="tile"), source, tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


MEGAPIXELS = """
import resource, sys
from pathlib import Path
import torch
from kbnet.inference import Restorer
from kbnet.inference.streaming import restore_streamed
from kbnet.models import create_model
torch.set_num_threads(1)
torch.manual_seed(0)
network = create_model(
    "kbnet-nano", width=2, group_channels=2, encoder_blocks=(0,), decoder_blocks=(1,), middle_blocks=0, bases=1
)
restorer = Restorer(network, device="cpu", tile=512, overlap=64, context="local", window=32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
restore_streamed(restorer, Path(sys.argv[1]), Path(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_twenty_megapixels_take_far_less_memory_than_their_pixels(tmp_path, run_python):
    import torch

    from kbnet.inference import Restorer
    from kbnet.models import create_model

    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    height, width = 10_000, 2_000
    ramp = pyvips.Image.xyz(width, height)
    noisy = (ramp.bandjoin(ramp[0] + ramp[1]) + pyvips.Image.gaussnoise(width, height, sigma=25)).linear(0.01, 60)
    noisy.cast("uchar").copy(interpretation="srgb").tiffsave(str(source), compression="none")
    # as floats the picture has 240 MB, and its sums as many again
    assert int(run_python(MEGAPIXELS, str(source), str(target))) < 160e6
    torch.manual_seed(0)
    network = create_model(
        "kbnet-nano", width=2, group_channels=2, encoder_blocks=(0,), decoder_blocks=(1,), middle_blocks=0, bases=1
    )
    restorer = Restorer(network, device="cpu", tile=512, overlap=64, context="local", window=32)
    # the centre, with more around it than the network and its windows see
    crop = (900, 4800, 300, 300)
    around = pyvips.Image.new_from_file(str(source)).crop(crop[0] - 192, crop[1] - 192, 684, 684)
    expected = restorer(np.ascontiguousarray(around.numpy()))[192:-192, 192:-192]
    found = pyvips.Image.new_from_file(str(target)).crop(*crop).numpy()
    assert np.abs(found.astype(int) - expected).max() <= 1
