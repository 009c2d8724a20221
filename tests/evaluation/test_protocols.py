"""Every protocol on a tiny set in its published layout: what returns its input scores what arithmetic says."""

import numpy as np
import pytest
from evaluation_files import decibels, save, save_blocks, save_pairs, texture
from skimage.color import rgb2ycbcr
from skimage.metrics import structural_similarity

from kbnet.errors import InvalidInputError
from kbnet.evaluation import BENCHMARKS, Request, find_benchmark, limited, run, summarise

RAIN_SETS = ("test100", "rain100h", "rain100l", "test2800", "test1200")


def identity(image):
    return image.copy()


def measure(name, folder, restore=identity, **request):
    """Rows of a benchmark on a folder."""
    benchmark = find_benchmark(name)
    request = Request(folder, benchmark.channels or 3, request.pop("sigmas", benchmark.sigmas), **request)
    samples = benchmark.collect(request)
    return [row for row, _ in run(samples, restore, benchmark.score, scored_input=benchmark.restores)]


def test_the_table_has_every_protocol_of_the_paper():
    assert {"cbsd68", "kodak24", "mcmaster", "urban100", "set12", "bsd68", "urban100-gray"} <= {*BENCHMARKS}
    assert {"sidd", "sidd-benchmark", "sensenoise", "dpdd", *RAIN_SETS} <= {*BENCHMARKS}
    for benchmark in BENCHMARKS.values():
        assert min(len(benchmark.layout), len(benchmark.source), len(benchmark.protocol)) > 10
    with pytest.raises(InvalidInputError, match=r"gaussian, cbsd68, .*\), got 'sid'"):
        find_benchmark("sid")


@pytest.mark.parametrize("name", ["cbsd68", "set12"])
@pytest.mark.parametrize("sigma", [5, 15, 25])
def test_gaussian_noise_scores_its_own_deviation(name, sigma, tmp_path):
    channels = BENCHMARKS[name].channels
    pixels = texture(120, 130, channels)
    save(tmp_path / "1.png", pixels)
    noise = np.random.RandomState(0).normal(0, sigma / 255, pixels.shape)
    rounded = np.rint(np.clip(np.float32(pixels / np.float32(255)) + noise, 0, 1) * 255) - pixels
    (row,) = measure(name, tmp_path, sigmas=(float(sigma),))
    assert row.input == row.output
    assert row.output["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean(rounded**2)), abs=1e-3)
    assert row.output["psnr"] == pytest.approx(10 * np.log10(255**2 / (sigma**2 + 1 / 12)), abs=0.15)


def test_gaussian_rows_are_photo_by_sigma_and_each_sigma_has_its_mean(tmp_path):
    for number in range(3):
        save(tmp_path / "set" / f"{number}.png", texture(seed=number))
    rows = measure("cbsd68", tmp_path)
    assert [row.name for row in rows] == [f"sigma {s}/{n}" for s in (15, 25, 50) for n in range(3)]
    means = summarise(rows)
    assert [*means] == ["sigma 15", "sigma 25", "sigma 50"]
    psnr = [round(row.output["psnr"], 4) for row in rows[3:6]]  # as a results file holds them
    assert means["sigma 25"]["output"]["psnr"] == round(np.mean(psnr), 4)


def test_a_colour_photo_becomes_gray_as_opencv_makes_it_for_a_gray_set(tmp_path):
    save(tmp_path / "1.png", np.full((16, 16, 3), (200, 100, 50), np.uint8))
    given = []
    measure("urban100-gray", tmp_path, lambda image: given.append(image) or image, sigmas=(0.0,))
    assert given[0].shape == (16, 16)
    assert np.unique(np.rint(given[0] * 255)).tolist() == [(200 * 9797 + 100 * 19234 + 50 * 3737) >> 15]


@pytest.mark.parametrize("name", RAIN_SETS)
@pytest.mark.parametrize("root", ["", "{}/", "test/{}/"])
def test_rain_is_measured_on_y_as_matlab_rounds_it(name, root, tmp_path):
    clean = save_pairs(tmp_path / root.format(BENCHMARKS[name].title), difference=20)
    rows = measure(name, tmp_path)
    assert [row.photo for row in rows] == ["1", "2", "3"]
    for row, pixels in zip(rows, clean, strict=True):
        before, after = (np.rint(rgb2ycbcr(image)[..., 0]) for image in (pixels + np.uint8(20), pixels))
        assert row.output["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean((before - after) ** 2)), abs=1e-6)
        # Y spans 219 of 255 levels, so the same difference is less on it
        assert row.output["psnr"] == pytest.approx(decibels(20 * 219 / 255), abs=0.25)
        assert row.input == row.output


def test_rain_in_the_layout_of_its_first_publication(tmp_path):
    save_pairs(tmp_path, input="rain", target="norain", name="rain-{:03}.png", clean_name="norain-{:03}.png")
    assert [row.photo for row in measure("rain100l", tmp_path)] == ["rain-001", "rain-002", "rain-003"]


def test_sidds_blocks_are_measured_in_floating_point(tmp_path):
    degraded = save_blocks(tmp_path, difference=3)
    rows = measure("sidd", tmp_path)
    assert [row.photo for row in rows] == ["01-01", "01-02", "01-03", "02-01", "02-02", "02-03"]
    for row, block in zip(rows, degraded.reshape(-1, *degraded.shape[2:]), strict=True):
        assert row.output["psnr"] == pytest.approx(decibels(3), abs=1e-4)
        a, b = block / 255, (block - np.uint8(3)) / 255
        for measure_name, span in (("ssim", 1), ("ssim range 2", 2)):
            expected = structural_similarity(a, b, data_range=span, channel_axis=2)
            assert row.output[measure_name] == pytest.approx(expected, abs=1e-6)
    # not rounded: half a level less of difference shows
    better = measure("sidd", tmp_path, lambda image: image - np.float32(0.5 / 255))
    assert better[0].output["psnr"] == pytest.approx(decibels(2.5), abs=1e-3)
    clipped = measure("sidd", tmp_path, lambda image: image + 9)
    assert clipped[0].output["psnr"] < decibels(60)


def test_sensenoise_is_what_its_list_names(tmp_path):
    for number in range(1, 5):
        save(tmp_path / "set" / "noisy" / f"{number}_noisy.png", texture(seed=number) + np.uint8(5))
        save(tmp_path / "set" / "gt" / f"{number}_gt.png", texture(seed=number))
    (tmp_path / "set" / "test.txt").write_text("2_gt.png\n4_noisy.png\n")
    rows = measure("sensenoise", tmp_path)
    assert [row.photo for row in rows] == ["2_noisy", "4_noisy"]
    assert rows[0].output["psnr"] == pytest.approx(decibels(5), abs=1e-9)
    rounded = measure("sensenoise", tmp_path, lambda image: image - np.float32(0.4 / 255))
    assert rounded[0].output == rows[0].output


@pytest.mark.parametrize("places", [("test_c/source", "test_c/target"), ("test/inputC", "test/target")])
def test_dpdd_is_split_by_its_labels_and_keeps_16_bits(places, tmp_path):
    for number in range(4):
        pixels = texture(seed=number, dtype=np.uint16)
        save(tmp_path / places[0] / f"1P0A{number}.png", pixels + np.uint16(100 * (number + 1)))
        save(tmp_path / places[1] / f"1P0B{number}.png", pixels)
    np.save(tmp_path / "indoor_labels.npy", np.array([1, 4]))
    np.save(tmp_path / "outdoor_labels.npy", np.array([2, 3]))
    rows = measure("dpdd", tmp_path)
    assert [row.groups for row in rows] == [
        ("indoor", "all"),
        ("outdoor", "all"),
        ("outdoor", "all"),
        ("indoor", "all"),
    ]
    for number, row in enumerate(rows):
        assert row.output["psnr"] == pytest.approx(decibels(100 * (number + 1), 65535), abs=1e-2)
        assert row.output["mae"] == pytest.approx(100 * (number + 1) / 65535, rel=1e-3)
    means = summarise(rows)
    assert [*means] == ["indoor", "outdoor", "all"]
    assert [means[group]["pictures"] for group in means] == [2, 2, 4]
    assert means["outdoor"]["output"]["mae"] == pytest.approx(250 / 65535, abs=1e-6)


def test_dpdd_without_labels_is_one_whole_and_wrong_labels_are_refused(tmp_path, caplog):
    save_pairs(tmp_path / "test_c", input="source")
    assert [*summarise(measure("dpdd", tmp_path))] == ["all"]
    assert "no indoor_labels.npy" in caplog.text
    np.save(tmp_path / "indoor_labels.npy", np.array([0, 1]))
    with pytest.raises(InvalidInputError, match="from 1 to 3"):
        measure("dpdd", tmp_path)
    (tmp_path / "indoor_labels.npy").write_bytes(b"no array")
    with pytest.raises(InvalidInputError, match="expected an array of numbers"):
        measure("dpdd", tmp_path)


def test_levins_pictures_are_compared_at_their_best_shift(tmp_path):
    sharp = np.random.default_rng(0).integers(0, 256, (60, 60)).astype(np.uint8)
    save(tmp_path / "gt" / "im1.png", sharp)
    save(tmp_path / "im1_kernel1_img.png", np.roll(sharp, (3, -2), (0, 1)))
    save(tmp_path / "im1_kernel2_img.png", np.roll(sharp, (-9, 9), (0, 1)) // 2 + 60)
    first, second = measure("levin09", tmp_path)
    assert first.output["psnr"] == float("inf")
    assert (first.gain, first.worse, first.as_json()["output"]) == (0.0, False, {"psnr": "inf"})
    assert 10 < second.output["psnr"] < 20
    assert second.groups == ("kernel2", "all")


@pytest.mark.parametrize("difference", [1, 10])
def test_pairs_of_any_kind_are_measured_in_rgb(difference, tmp_path):
    clean = save_pairs(tmp_path, difference=difference, name="a/{}.png")
    rows = measure("pairs", tmp_path)
    assert [row.photo for row in rows] == ["1", "2", "3"]
    assert [row.output["psnr"] for row in rows] == [pytest.approx(decibels(difference), abs=1e-9)] * 3
    expected = structural_similarity(
        clean[0] + np.uint8(difference), clean[0], gaussian_weights=True, use_sample_covariance=False, channel_axis=2
    )
    assert rows[0].output["ssim"] == pytest.approx(expected, abs=1e-9)


def test_colour_pairs_are_measured_in_gray_for_a_gray_set(tmp_path):
    clean = save_pairs(tmp_path, 1, difference=10)
    given = []
    (row,) = measure("pairs-gray", tmp_path, lambda image: given.append(image) or image)
    assert given[0].shape == clean[0].shape[:2]
    assert row.groups == ("gray",)
    assert row.output["psnr"] == pytest.approx(decibels(10), abs=0.2)  # gray is rounded


def test_a_pair_of_two_sizes_and_a_broken_picture_are_named_and_the_others_measured(tmp_path):
    save_pairs(tmp_path, 4)
    save(tmp_path / "input" / "2.png", texture(20, 20))
    (tmp_path / "target" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    rows = measure("pairs", tmp_path)
    assert [row.error is None for row in rows] == [True, False, False, True]
    assert "expected a pair of the same size, got 20x20" in rows[1].error
    assert "3.png" in rows[2].error
    assert summarise(rows)["all"]["pictures"] == 2


def test_a_gray_picture_beside_a_colour_one_counts_three_times(tmp_path):
    gray = texture(channels=1)
    save(tmp_path / "input" / "1.png", gray)
    save(tmp_path / "target" / "1.png", np.repeat(gray[..., None] + np.uint8(6), 3, axis=2))
    (row,) = measure("pairs", tmp_path)
    assert row.output["psnr"] == pytest.approx(decibels(6), abs=1e-9)


def test_a_clean_photo_is_compared_with_itself_alone(tmp_path):
    save(tmp_path / "1.jpg", texture())
    save(tmp_path / "2.png", texture(seed=1))
    rows = measure("clean", tmp_path)
    assert [(row.input, row.output["psnr"], row.worse) for row in rows] == [({}, float("inf"), False)] * 2
    brighter = measure("clean", tmp_path, lambda image: image + np.float32(2 / 255))
    means = summarise(brighter)
    assert means["clean"]["output"]["psnr"] == pytest.approx(decibels(2), abs=1e-4)
    assert means["clean"]["lowest"]["psnr"] == pytest.approx(decibels(2), abs=1e-4)


def test_a_picture_that_got_worse_is_told(tmp_path):
    save_pairs(tmp_path, 3, difference=4)
    rows = measure("pairs", tmp_path, lambda image: image - np.float32(1 / 255))
    assert [row.worse for row in rows] == [False] * 3
    rows = measure("pairs", tmp_path, lambda image: image + np.float32(1 / 255))
    assert [row.worse for row in rows] == [True] * 3
    assert rows[0].gain == pytest.approx(decibels(5) - decibels(4), abs=1e-6)
    assert summarise(rows)["all"]["worse"] == 3


def test_a_limit_keeps_the_first_pictures_under_all_conditions(tmp_path):
    for number in range(3):
        save(tmp_path / f"{number}.png", texture(seed=number))
    samples = find_benchmark("cbsd68").collect(Request(tmp_path, 3, (15.0, 50.0)))
    assert [s.name for s in limited(samples, 2)] == ["sigma 15/0", "sigma 15/1", "sigma 50/0", "sigma 50/1"]
    assert limited(samples, None) == samples


def test_pictures_whose_names_differ_by_their_ending_alone_keep_it(tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        save(tmp_path / name, texture())
    assert [row.photo for row in measure("clean", tmp_path)] == ["a.jpg", "a.png", "b"]


def test_a_restorer_that_overwrites_its_input_does_not_change_the_score_before_it(tmp_path):
    save_pairs(tmp_path, 1, difference=4)

    def destroy(image):
        image[:] = 0
        return image

    (row,) = measure("pairs", tmp_path, destroy)
    assert row.input["psnr"] == pytest.approx(decibels(4), abs=1e-9)


@pytest.mark.parametrize("name", sorted(name for name, one in BENCHMARKS.items() if one.needs_data))
def test_an_empty_folder_is_refused_in_one_line(name, tmp_path):
    with pytest.raises(InvalidInputError) as caught:
        measure(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).isprintable()
