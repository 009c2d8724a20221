"""Kernels of apertures, paths, frames and files; trajectories; turning cameras."""

import io
import math
import pickle

import numpy as np
import pytest
import scipy.io as scipy_io
import torch
from degradation_images import generator, scene

from kbnet.degradations import Motion, load_kernels
from kbnet.degradations.blur import blur
from kbnet.degradations.kernels import centred, disk_kernel, frames_kernel, path_kernel, polygon_kernel
from kbnet.degradations.motion import random_trajectory, turning_kernels
from kbnet.errors import InvalidInputError, UnreadableImageError
from kbnet.imaging import Photo, write_photo


def centroid(kernel):
    half = kernel.shape[0] // 2
    position = torch.arange(-half, half + 1).double()
    kernel = kernel.double()
    return [float((kernel.sum(1) * position).sum()), float((kernel.sum(0) * position).sum())]


def check_kernel(kernel, tolerance=1e-4):
    assert kernel.dtype == torch.float32
    assert kernel.shape[0] == kernel.shape[1]
    assert kernel.shape[0] % 2 == 1
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert centroid(kernel) == pytest.approx([0, 0], abs=tolerance)


@pytest.mark.parametrize("radius", [0.0, 0.2, 0.5, 0.8, 1.0, 2.5, 3.3, 10.0])
def test_disks_have_the_area_of_their_radius(radius):
    kernel = disk_kernel(radius)
    check_kernel(kernel)
    if radius >= 1:
        assert 1 / kernel.max() == pytest.approx(math.pi * radius**2, rel=0.03)
    assert torch.allclose(kernel, kernel.T)
    assert torch.allclose(kernel, kernel.flip(0))


def test_disks_grow_without_jumps():
    sums = []
    for step in range(60):
        kernel = disk_kernel(0.05 * step)
        half = kernel.shape[0] // 2
        position = torch.arange(-half, half + 1).float()
        sums.append(float((kernel.sum(1) * position**2).sum()))
    growth = np.diff(sums)
    assert growth.min() >= -1e-3
    assert growth.max() < 0.2


@pytest.mark.parametrize("blades", [3, 5, 6, 8])
def test_polygons_have_the_disks_area_and_their_symmetry(blades):
    kernel = polygon_kernel(8.0, blades, 0.3)
    check_kernel(kernel, tolerance=0.05)
    assert 1 / kernel.max() == pytest.approx(math.pi * 64, rel=0.03)
    turned = polygon_kernel(8.0, blades, 0.3 + 2 * math.pi / blades)
    assert torch.allclose(kernel, turned, atol=3e-5)
    assert not torch.allclose(kernel, polygon_kernel(8.0, blades, 0.3 + math.pi / blades), atol=1e-4)


def test_other_apertures_are_refused():
    with pytest.raises(InvalidInputError, match="at least 3 blades"):
        polygon_kernel(3.0, 2)
    for radius in (-1.0, float("nan"), 1e9):
        with pytest.raises(InvalidInputError, match="radius"):
            disk_kernel(radius)


def test_a_straight_path_gives_a_line_of_its_length():
    path = torch.stack([torch.zeros(11), torch.linspace(0, 10, 11)], 1)
    kernel = path_kernel(path)
    check_kernel(kernel)
    middle = kernel[kernel.shape[0] // 2]
    assert middle.sum() == pytest.approx(1)
    assert middle[middle > 0.05] == pytest.approx(torch.full((9,), 0.1), abs=0.01)


def test_paths_are_followed_to_a_fraction_of_a_pixel():
    for shift in (0.0, 0.3, 0.77):
        path = torch.tensor([[0.0, 0.0], [0.0, 1.0 + shift]])
        kernel = path_kernel(path)
        check_kernel(kernel)
        position = torch.arange(-(kernel.shape[0] // 2), kernel.shape[0] // 2 + 1).double()
        variance = float((kernel.sum(0).double() * position**2).sum())
        assert variance == pytest.approx((1 + shift) ** 2 / 12, abs=0.26)  # plus at most 1/4 of sharing
    assert torch.equal(path_kernel(torch.tensor([[3.0, 4.0]])), torch.ones(1, 1))


def test_dwelling_makes_that_part_brighter():
    path = torch.tensor([[0.0, 0.0], [0.0, 8.0], [0.0, 16.0]])
    kernel = path_kernel(path, torch.tensor([3.0, 1.0]))
    check_kernel(kernel)
    columns = kernel.sum(0)[kernel.sum(0) > 0.01]
    assert columns[2] == pytest.approx(3 * float(columns[-3]), rel=0.1)


def test_wrong_paths_are_refused():
    path = torch.tensor([[0.0, 0.0], [0.0, 8.0]])
    assert path_kernel(path, side=15).shape == (15, 15)
    for arguments in ({"side": 5}, {"side": 16}, {"dwell": torch.ones(2)}):
        with pytest.raises(InvalidInputError):
            path_kernel(path, **arguments)
    for wrong in (torch.zeros(0, 2), torch.zeros(3), torch.full((2, 2), float("nan"))):
        with pytest.raises(InvalidInputError, match="path"):
            path_kernel(wrong)


def test_trajectories_have_their_length_and_wander():
    for seed in range(10):
        path = random_trajectory(30.0, generator(seed), shake=0.3, impulses=1.0)
        assert path.shape == (49, 2)
        assert float(path.diff(dim=0).norm(dim=1).sum()) == pytest.approx(30, rel=1e-3)
        assert path[-1].norm() < 30
        check_kernel(path_kernel(path))
    straight = random_trajectory(30.0, generator(), shake=0.0, pull=0.0)
    assert straight[-1].norm() == pytest.approx(30, rel=1e-4)


def test_impulses_turn_the_path_about():
    def reach(impulses):
        paths = [random_trajectory(30.0, generator(s), shake=0.05, impulses=impulses) for s in range(30)]
        return sum(float(path[-1].norm()) for path in paths) / 30

    assert reach(3.0) < 0.7 * reach(0.0)


def test_a_turning_camera_moves_the_corners_around_its_axis():
    time = torch.linspace(-0.5, 0.5, 21)
    points = torch.tensor([[0.0, 0.0], [0.0, 100.0], [-100.0, 0.0], [100.0, 100.0]])
    still = torch.zeros(21, 2)
    kernels = turning_kernels(still, 0.1 * time, torch.zeros(21), points)
    for kernel in kernels:
        check_kernel(kernel)
    assert kernels[0].max() == pytest.approx(1)  # the axis stands still
    right, up = kernels[1], kernels[2]
    assert (right.sum(1) > 0.02).sum() > 8 > 3 > (right.sum(0) > 0.02).sum()  # what lies beside it goes up and down
    assert (up.sum(0) > 0.02).sum() > 8 > 3 > (up.sum(1) > 0.02).sum()
    zoomed = turning_kernels(still, torch.zeros(21), 0.1 * time, points)
    assert (zoomed[1].sum(0) > 0.02).sum() > 8 > 3 > (zoomed[1].sum(1) > 0.02).sum()


def test_frames_are_separate_points_around_the_middle_one():
    path = torch.stack([torch.zeros(13), torch.linspace(0, 24, 13)], 1)
    kernel = frames_kernel(path, 7)
    wanted = torch.zeros(25, 25)
    wanted[12, ::4] = 1 / 7
    assert torch.allclose(kernel, wanted, atol=1e-6)
    # the middle in time, not in length: whoever speeds up has come a quarter of the way by then
    speeding = torch.stack([torch.zeros(13), 24 * torch.linspace(0, 1, 13).square()], 1)
    assert torch.nonzero(frames_kernel(speeding, 3)[18] > 0.01).flatten().tolist() == [12, 18, 36]
    assert torch.equal(frames_kernel(torch.zeros(1, 2), 11), torch.ones(1, 1))


@pytest.mark.parametrize(("path", "count"), [(torch.zeros(9, 2), 8), (torch.zeros(9, 3), 7), (torch.zeros(0, 2), 7)])
def test_frames_refuse_what_has_no_middle(path, count):
    with pytest.raises(InvalidInputError, match="expected"):
        frames_kernel(path, count)


def test_video_blur_is_the_mean_of_moved_pictures_in_srgb():
    clean = scene()
    motion = Motion(length=12, frames=3, shake=0, frames_share=1, turning_share=0, object_share=0)
    found = motion(clean, generator(5))

    # a straight path of 12 pixels in three frames: the picture and two moved to either side, on a line of any direction
    middle = found[:, 20:-20, 20:-20]
    errors = []
    for angle in np.arange(0, math.pi, math.pi / 90):
        path = torch.tensor([[-6.0], [0.0], [6.0]]) * torch.tensor([[math.sin(angle), math.cos(angle)]])
        guess = blur(clean, frames_kernel(path, 3), linear=False)[:, 20:-20, 20:-20]
        errors.append(float((guess - middle).abs().mean()))
    assert min(errors) < 1 / 255 < 4 / 255 < max(errors)


@pytest.mark.parametrize("share", ["turning_share", "object_share", "linear_share", "frames_share"])
def test_options_change_the_result(share):
    clean = scene()
    others = {"turning_share": 0, "object_share": 0, "linear_share": 0, "frames_share": 0}
    without, with_it = (Motion(length=20, turning=2, **others | {share: n}) for n in (0, 1))
    assert not torch.equal(without(clean, generator(1)), with_it(clean, generator(1)))


def test_centred_kernels_keep_their_shape():
    kernel = torch.zeros(9, 12)
    kernel[1, 8], kernel[2, 8], kernel[3, 8] = 1, 2, 1
    assert torch.allclose(centred(kernel), torch.tensor([[0, 0.25, 0], [0, 0.5, 0], [0, 0.25, 0]]))
    for wrong in (torch.zeros(3, 3), -torch.eye(3), torch.full((3, 3), float("nan")), torch.ones(3)):
        with pytest.raises(InvalidInputError, match="kernel"):
            centred(wrong)


def test_kernels_are_read_from_matlab_files_pictures_and_folders(tmp_path):
    first = path_kernel(random_trajectory(12.0, generator())).double().numpy()
    scipy_io.savemat(tmp_path / "a.mat", {"kernel": first}, do_compression=True)
    cells = np.empty((1, 3), dtype=object)
    cells[0, :] = [np.pad(disk_kernel(r).numpy(), 2) for r in (1.0, 2.0, 3.0)]
    scipy_io.savemat(tmp_path / "b.mat", {"kernels": cells})
    write_photo(Photo((disk_kernel(4.0) / disk_kernel(4.0).max() * 255).numpy().astype(np.uint8)), tmp_path / "c.png")
    (tmp_path / "notes.txt").write_text("not a kernel")
    kernels = load_kernels(tmp_path)
    assert len(kernels) == 5
    for kernel in kernels:
        check_kernel(kernel, tolerance=0.51)
    assert torch.allclose(kernels[2], disk_kernel(2.0), atol=1e-6)
    assert torch.allclose(kernels[4], disk_kernel(4.0), atol=1e-3)
    assert len(load_kernels(tmp_path / "a.mat")) == 1

    degrade = Motion(kernels=str(tmp_path), kernels_share=1, linear_share=0, highlight_gain=1)
    point = torch.zeros(1, 41, 41)
    point[:, 20, 20] = 1
    results = [degrade(point, generator(seed)) for seed in range(12)]
    assert len({tuple(result.flatten().tolist()) for result in results}) > 5
    for result in results:
        assert result.sum() == pytest.approx(1, abs=0.25)  # of 8-bit levels


class Hostile:
    def __reduce__(self):
        return (print, ("this was executed",))


def test_files_that_hold_no_kernel_are_refused_and_nothing_in_them_is_run(tmp_path, capsys):
    def refused(name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInputError, match=message):
            load_kernels(tmp_path / name)

    def matlab(**variables):
        stream = io.BytesIO()
        scipy_io.savemat(stream, variables)
        return stream.getvalue()

    refused("a.mat", pickle.dumps(Hostile()), "not a readable MATLAB file")
    refused("b.mat", b"", "not a readable MATLAB file")
    refused("c.mat", matlab(kernel=np.ones((9, 9)))[:150], "not a readable MATLAB file")
    refused("d.mat", matlab(kernel=np.ones((300, 3))), "at most 255")
    refused("e.mat", matlab(kernel=np.ones((300, 300))), "at most 255")
    refused("f.mat", matlab(kernel="text"), "expected matrices of real numbers")
    refused("g.mat", matlab(kernel=-np.eye(3)), "g.mat: expected a kernel")
    refused("h.mat", matlab(kernel=np.zeros((3, 3))), "h.mat: expected a kernel")
    refused("i.mat", bytes(2 << 20), "at most 1048576 bytes")
    refused(
        "j.mat",
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400),
        "7.3 file, which is not supported; save it with -v7",
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="found none"):
        load_kernels(tmp_path / "empty")
    with pytest.raises(InvalidInputError, match="No such file"):
        load_kernels(tmp_path / "missing.mat")
    (tmp_path / "k.png").write_bytes(b"not a picture")
    with pytest.raises(UnreadableImageError):
        load_kernels(tmp_path / "k.png")
    assert capsys.readouterr().out == ""
