"""Drawn charts: what they hold, and that what leaves them alone scores infinitely."""

from pathlib import Path

import numpy as np
import pytest
from evaluation_files import save, texture

from kbnet.errors import InvalidInputError
from kbnet.evaluation import Request, find_benchmark, run
from kbnet.evaluation.charts import HEIGHT, WIDTH, chart_samples, charts
from kbnet.evaluation.session import open_session
from kbnet.imaging import compress_jpeg


@pytest.mark.parametrize("channels", [1, 3])
def test_each_chart_is_measured_against_itself(channels):
    samples = chart_samples(Request(Path(), channels))
    assert [sample.photo for sample in samples] == [*charts()]
    for sample in samples:
        image, target = sample.load()
        assert target.shape == ((HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, 3))
        assert target.dtype == (np.uint16 if sample.photo.endswith("16-bit") else np.uint8)
        np.testing.assert_allclose(image, target / np.iinfo(target.dtype).max, atol=1e-6)
    benchmark = find_benchmark("charts")
    rows = [row for row, _ in run(samples, lambda image: image, benchmark.score, scored_input=False)]
    assert {row.output["psnr"] for row in rows} == {np.inf}


def test_the_charts_hold_what_their_names_say():
    drawn = charts()
    assert len(drawn) == 21
    assert drawn["white"].min() == 1
    assert drawn["dark gradient, 16-bit"].max() < 0.02
    assert len(np.unique(np.rint(drawn["dark gradient, 16-bit"] * 65535))) == WIDTH
    assert drawn["white points on black"].sum() / 3 == len(range(7, HEIGHT, 23)) * len(range(11, WIDTH, 29))
    assert np.abs(np.diff(drawn["checkerboard of 2 pixels"][0, :, 0])).sum() == WIDTH // 2 - 1
    assert 0.5 < drawn["small text"].mean() < 0.9


def test_charts_take_no_data_and_other_benchmarks_need_some(tmp_path):
    session = open_session("charts", model="kbnet-nano-denoise", limit=2)
    assert session.settings()["set"] == "charts"
    assert len(session.chosen(session.samples())) == 2
    with pytest.raises(InvalidInputError, match="draws its images, so it takes no --data"):
        open_session("charts", tmp_path)
    with pytest.raises(InvalidInputError, match="the benchmark clean needs --data FOLDER: a folder of clean"):
        open_session("clean")


def test_saved_noise_is_clipped_rounded_and_compressed(tmp_path):
    pixels = texture(64, 64)
    save(tmp_path / "1.png", pixels)
    noise = np.random.RandomState(0).normal(0, 25 / 255, pixels.shape)
    saved = np.rint(np.clip(np.float32(pixels / np.float32(255)) + noise, 0, 1) * 255).astype(np.uint8)
    (plain,) = find_benchmark("gaussian-8bit").collect(Request(tmp_path, 3, (25.0,)))
    image, target = plain.load()
    np.testing.assert_allclose(image * 255, saved, atol=1e-4)
    np.testing.assert_array_equal(target, pixels)
    (jpeg,) = find_benchmark("gaussian-jpeg").collect(Request(tmp_path, 3, (25.0,)))
    np.testing.assert_allclose(jpeg.load()[0] * 255, compress_jpeg(saved, 80), atol=1e-4)
    assert [plain.name, jpeg.name] == ["8 bits, sigma 25/1", "JPEG 80, sigma 25/1"]
