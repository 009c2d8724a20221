"""Graphs of 8 bits: what they are calibrated and judged on, what they lose, and when they are refused."""

import os
import subprocess
import sys

import numpy as np
import pytest
from graph_files import small
from typer.testing import CliRunner

from kbnet.cli import app
from kbnet.errors import ExportError, InvalidInputError, OutputExistsError
from kbnet.export import export_int8, graph_facts
from kbnet.export.quantising import Photographs, Quality, check
from kbnet.imaging import Photo, write_photo
from kbnet.inference import Restorer
from kbnet.inference.runners.runtimes import open_exported
from kbnet.models import create_model

pytest.importorskip("nncf")


def photograph(seed, side=160):
    """Smooth shapes with edges, uint8 [S,S,3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = sum(np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in random.uniform(-4, 4, (4, 3)))
    colours = random.uniform(0.2, 0.8, 3) + 0.15 * np.sign(waves)[..., None] * random.uniform(-1, 1, 3)
    return np.rint(np.clip(colours + 0.02 * waves[..., None], 0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(8):
        write_photo(Photo(photograph(number)), folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def graph(tmp_path_factory, photos):
    path = tmp_path_factory.mktemp("int8") / "denoise.xml"
    result = CliRunner().invoke(
        app, ["export", "denoise", "-o", str(path), "--dtype", "int8", "--calibrate", str(photos)]
    )
    assert result.exit_code == 0, result.output
    return path, result


@pytest.mark.slow
def test_a_graph_of_8_bits_restores_nearly_as_well_and_is_half_as_large(graph, photos):
    path, result = graph
    assert "dB in 8 bits" in result.stderr
    assert sorted(p.name for p in path.parent.iterdir()) == ["denoise.bin", "denoise.xml"]
    assert path.with_suffix(".bin").stat().st_size < 0.6 * 4 * 2356731
    assert open_exported(path).facts.dtype == "int8"
    clean = photograph(100)
    noisy = clean + np.random.default_rng(0).normal(0, 25, clean.shape)
    noisy = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    def error(model):
        return float(np.square(Restorer.from_pretrained(model)(noisy).astype(float) - clean).mean())

    full, quantised = error("denoise"), error(path)
    assert full * 0.999 < quantised < full * 10 ** (0.2 / 10) < error_of(noisy, clean) / 5
    assert not np.array_equal(Restorer.from_pretrained("denoise")(noisy), Restorer.from_pretrained(path)(noisy))


def error_of(image, clean):
    return float(np.square(image.astype(float) - clean).mean())


def test_a_loss_above_a_tenth_of_a_decibel_is_refused():
    check(Quality(20, 30, 29.91, 4))
    check(Quality(20, 30, 30.2, 4))
    with pytest.raises(ExportError, match=r"8 bits cost 0.11 dB \(29.89 instead of 30.00 dB on 4 crops;"):
        check(Quality(20, 30, 29.89, 4))
    with pytest.raises(ExportError):
        check(Quality(20, 30, float("nan"), 4))


@pytest.mark.slow
def test_a_graph_that_loses_too_much_is_not_written(tmp_path, photos, monkeypatch):
    from kbnet.export import quantising

    monkeypatch.setattr(quantising, "ALLOWED_LOSS", -1.0)
    network = small("nano")
    with pytest.raises(ExportError, match="nothing was written"):
        export_int8(network, tmp_path / "g.xml", graph_facts(network, task="denoise-gaussian", window=64), photos)
    assert list(tmp_path.iterdir()) == []


def test_loss_is_judged_on_photographs_that_are_not_calibrated_on(photos):
    network = create_model("kbnet-nano")
    data = Photographs(photos, graph_facts(network, task="denoise-gaussian"))
    crops = data.calibration()
    assert {crop.shape for crop in crops} == {(1, 3, 128, 128)}
    given = []

    def run(inputs):
        given.append(inputs["image"])
        return [inputs["image"]]

    quality = data.judge(run, lambda inputs: [inputs["image"] * 0])
    assert quality.full == pytest.approx(quality.degraded)  # what returns its input scores what it was given
    assert quality.quantised < quality.full - 5
    assert quality.crops == 2 * 4  # photos 0 and 4
    means = {float(np.median(crop)) for crop in given}
    assert all(abs(float(np.median(crop)) - mean) > 1e-6 for crop in crops for mean in means)


@pytest.mark.parametrize("uint8", [False, True])
def test_pairs_are_given_as_they_are(tmp_path, uint8):
    for name in ("input", "target"):
        (tmp_path / name).mkdir()
    for number in range(8):
        clean = photograph(number)
        write_photo(Photo(clean), tmp_path / "target" / f"{number}.png")
        write_photo(Photo(255 - clean), tmp_path / "input" / f"{number}.png")
    data = Photographs(tmp_path, graph_facts(create_model("kbnet-nano"), task="mine", uint8=uint8))
    whole = 255 if uint8 else 1

    def darker(inputs):
        return [((whole - inputs["image"]) * 0.98).astype(inputs["image"].dtype)]

    quality = data.judge(lambda inputs: [inputs["image"]], darker)
    assert quality.full == pytest.approx(quality.degraded)
    assert quality.quantised > 30 > quality.full + 5  # inverting them makes them clean
    first = data.calibration()[0]
    assert first.shape == ((128, 128, 3) if uint8 else (1, 3, 128, 128))
    assert first.dtype == (np.uint8 if uint8 else np.float32)
    write_photo(Photo(photograph(0, side=140)), tmp_path / "input" / "0.png", overwrite=True)
    with pytest.raises(InvalidInputError, match="found 7 pairs of equal size"):
        Photographs(tmp_path, graph_facts(create_model("kbnet-nano"), task="mine"))


def test_what_cannot_be_calibrated_is_refused(tmp_path, photos):
    network = create_model("kbnet-nano")

    def facts(**fields):
        return graph_facts(network, **{"task": "denoise"} | fields)

    with pytest.raises(InvalidInputError, match="the task '' has no known degradation for clean photos"):
        Photographs(photos, facts(task=""))
    with pytest.raises(InvalidInputError, match=r"at least 8 photos with at least 512 pixels .* found 0"):
        Photographs(photos, facts(tile=512))
    with pytest.raises(InvalidInputError, match="drop --context"):
        export_int8(network, tmp_path / "g.xml", facts(pooled=True), photos)
    (tmp_path / "g.bin").write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        export_int8(network, tmp_path / "g.xml", facts(), photos)
    assert (tmp_path / "g.bin").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "options", [["-o", "g.onnx", "--dtype", "int8", "--calibrate", "."], ["-o", "g.xml", "--dtype", "int8"]]
)
def test_options_that_do_not_go_together_are_named(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["export", "denoise", *options])
    assert result.exit_code == 2
    assert "--dtype" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_reported_to_the_makers_of_nncf():
    # in a process of its own, since NNCF keeps quiet under pytest anyway
    code = """
import contextlib
from kbnet.export import quantising
with contextlib.suppress(AttributeError):
    quantising.quantised(None, None)
from nncf.telemetry.wrapper import NNCFTelemetryStub, telemetry
raise SystemExit(0 if isinstance(telemetry, NNCFTelemetryStub) else "reports are on")
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NNCF")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
