"""Peers and comparisons: each does what its name says, rows are kept and measured again only where they must be."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from kbnet.errors import InvalidInputError, MissingExtraError
from kbnet.evaluation import comparison
from kbnet.evaluation.comparison import Comparison, Method, peer_method, restorer_method, score
from kbnet.evaluation.peers import PEERS, find_peers
from kbnet.metrics import noisy, psnr, to_uint8
from kbnet.models import create_model, save_file

HERE = {"processor": "any", "threads": 1}


def smooth(height=48, width=56, channels=3):
    """A picture that any denoiser can make better: gentle waves."""
    y, x = np.mgrid[:height, :width] / 12
    waves = np.stack([np.sin(x + c) * np.cos(y - c) for c in range(channels)], -1)
    picture = np.rint(128 + 70 * waves).astype(np.uint8)
    return picture[..., 0] if channels == 1 else picture


@pytest.mark.parametrize("channels", [1, 3], ids=["gray", "colour"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "bm3d" else []) for name in PEERS]
)
def test_a_peer_takes_unclipped_noise_away(name, channels):
    peer = PEERS[name]
    if importlib.util.find_spec(peer.module) is None:
        pytest.skip(f"{peer.package} is not installed")
    clean = smooth(channels=channels)
    image = noisy(clean, 25)
    kept = image.copy()
    restored = peer.denoise(image, 25)
    assert restored.shape == image.shape
    assert np.array_equal(image, kept)
    assert psnr(to_uint8(restored), clean) > psnr(to_uint8(image), clean) + 4
    # Told that there is hardly any noise, it leaves the picture alone.
    assert psnr(to_uint8(peer.denoise(clean.astype(np.float32) / 255, 0.5)), clean) > 40
    assert peer.version()


def test_every_peer_says_how_it_is_told_sigma_and_whose_it_is():
    for name, peer in PEERS.items():
        assert peer.name == name
        assert "sigma" in peer.settings
        assert peer.source
        assert peer.threads in ("1", "all")
    assert "non-commercial" in PEERS["bm3d"].source


def test_a_missing_package_and_a_wrong_name_are_one_line(monkeypatch):
    for peer in PEERS.values():
        monkeypatch.setitem(sys.modules, peer.module, None)
        with pytest.raises(MissingExtraError, match=r"pip install 'kbnet\[peers\]'"):
            find_peers([peer.name])
    with pytest.raises(InvalidInputError, match=r"unknown peer magic; expected all or some of .*bm3d"):
        find_peers(["magic", "bm3d"])
    assert find_peers([]) == []


def identity(name="nothing", calls=None, **conditions):
    def denoise(image, sigma):
        if calls is not None:
            calls.append((image.shape, sigma))
        return image

    return Method(name, denoise, {"settings": "none", **conditions}, {"label": name, "told_sigma": True})


def test_a_method_that_does_nothing_scores_the_noise():
    # On mid gray hardly any value is clipped, so the figure is that of the noise and of rounding to 8 bits.
    clean = np.full((256, 256), 128, np.uint8)
    row = score(identity(), clean, 15)
    assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / (15**2 + 1 / 12)), abs=0.05)
    assert row["psnr"] == round(psnr(to_uint8(noisy(clean, 15)), clean), 4)
    assert row["megapixels"] == 0.065536
    assert row["seconds"] >= 0


def test_time_is_a_megapixels_and_of_the_denoiser_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(comparison.time, "process_time", lambda: 2 * now[0])

    def denoise(image, sigma):
        now[0] += 3.0
        return image

    row = score(Method("slow", denoise, {}, {}), np.zeros((100, 200), np.uint8), 15)
    assert (row["seconds"], row["cpu_seconds"]) == (150.0, 300.0)


@pytest.fixture
def sets():
    return {"colour": {f"{n}.png": smooth(16 + n, 20) for n in range(3)}, "gray": {"a.png": smooth(16, 20, 1)}}


def measured(path, sets, methods, sigmas=(15, 25)):
    made = Comparison(path, sets, {"facts": {"command": "a command"}})
    return [(row["method"], row["set"], row["sigma"], row["image"]) for row in made.run(methods, sigmas)]


def test_a_comparison_measures_every_row_once_and_goes_on(tmp_path, sets):
    path, calls = tmp_path / "results" / "peers.json", []
    whole = Comparison(path, sets, {"facts": {"command": "a command"}})
    run = whole.run([identity(calls=calls), identity("other")], (15, 25))
    first = [next(run) for _ in range(3)]
    run.close()  # as if it were interrupted
    assert len(json.loads(path.read_text())["rows"]) == 3
    rest = measured(path, sets, [identity(calls=calls), identity("other")])
    assert len(rest) == 2 * 2 * 4 - 3
    assert len(calls) == 2 * 4 + 2  # and a warm-up in each run
    assert not {(r["method"], r["set"], r["sigma"], r["image"]) for r in first} & set(rest)
    assert measured(path, sets, [identity(), identity("other")]) == []
    assert [p.name for p in path.parent.iterdir()] == ["peers.json"]


def test_a_killed_run_keeps_what_was_written_before(tmp_path, sets, monkeypatch):
    monkeypatch.setattr(comparison, "_WRITE_EVERY", -1.0)
    path, seen = tmp_path / "peers.json", []

    def denoise(image, sigma):
        seen.append(len(json.loads(path.read_text())["rows"]) if path.exists() else 0)
        return image

    measured(path, sets, [Method("watching", denoise, {}, {"label": "watching", "told_sigma": True})], (15,))
    assert seen == [0, 0, 1, 2, 3]


def test_rows_measured_under_other_conditions_are_measured_again(tmp_path, sets):
    path = tmp_path / "peers.json"
    assert len(measured(path, sets, [identity(threads=2), identity("other", threads=2)])) == 16
    assert {row[0] for row in measured(path, sets, [identity(threads=1), identity("other", threads=2)])} == {"nothing"}
    assert json.loads(path.read_text())["methods"]["nothing"]["conditions"] == {"settings": "none", "threads": 1}


def test_rows_not_asked_for_now_are_kept(tmp_path, sets):
    path = tmp_path / "peers.json"
    measured(path, sets, [identity()])
    few = {"colour": {"0.png": sets["colour"]["0.png"]}}
    assert measured(path, few, [identity("other")], (50,)) == [("other", "colour", 50, "0.png")]
    found = json.loads(path.read_text())
    assert len(found["rows"]) == 9
    counts = {(row["set"], row["sigma"], row["method"]): row["images"] for row in found["summary"]}
    assert counts[("colour", 15, "nothing")] == 3
    assert counts[("colour", 50, "other")] == 1


def test_rows_of_another_set_of_that_name_are_measured_again(tmp_path, sets):
    path = tmp_path / "peers.json"
    measured(path, sets, [identity(), identity("other")])
    images = sets["colour"]
    few = {"colour": {"0.png": 255 - images["0.png"], "1.png": images["1.png"]}}
    assert measured(path, few, [identity()]) == [("nothing", "colour", sigma, "0.png") for sigma in (15, 25)]
    kept = {(row["method"], row["set"], row["image"]) for row in json.loads(path.read_text())["rows"]}
    # of the methods not asked for, too, and of images that the set may not have any more
    assert {(method, image) for method, name, image in kept if name == "colour"} == {
        ("nothing", "0.png"),
        ("nothing", "1.png"),
        ("other", "1.png"),
    }
    assert {(method, image) for method, name, image in kept if name == "gray"} == {
        ("nothing", "a.png"),
        ("other", "a.png"),
    }


def test_rows_that_do_not_say_what_they_were_measured_on_are_measured_again_when_asked_for(tmp_path, sets):
    path = tmp_path / "peers.json"
    measured(path, sets, [identity(), identity("other")])
    older = json.loads(path.read_text())
    for row in older["rows"]:
        del row["sha256"]
    path.write_text(json.dumps(older))
    again = measured(path, sets, [identity()], (15,))
    assert len(again) == 4
    assert {row[0] for row in again} == {"nothing"}
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 16
    assert {(row["method"], row["sigma"]) for row in rows if "sha256" in row} == {("nothing", 15)}


def test_a_summary_is_the_mean_of_decibels_and_the_time_of_all_pixels(tmp_path):
    made = Comparison(tmp_path / "peers.json", {}, {})
    common = {"set": "a", "method": "m", "sigma": 25}
    made.rows = [
        {**common, "image": "1", "psnr": 30.0, "seconds": 1.0, "cpu_seconds": 2.0, "megapixels": 1.0},
        {**common, "image": "2", "psnr": 40.0, "seconds": 5.0, "cpu_seconds": 2.0, "megapixels": 3.0},
        {**common, "image": "1", "psnr": 20.0, "seconds": 0.1, "cpu_seconds": 0.1, "megapixels": 1.0, "method": "n"},
    ]
    quick, slow = made.summary()
    assert (quick["method"], quick["psnr"], quick["images"]) == ("n", 20.0, 1)
    assert slow == {**common, "images": 2, "psnr": 35.0, "seconds": 4.0, "cpu_seconds": 2.0}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rows": []}', "not JSON"])
def test_another_file_is_not_overwritten(tmp_path, content):
    path = tmp_path / "peers.json"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match="move it away"):
        Comparison(path, {}, {})
    assert path.read_text() == content


def test_a_gray_network_is_not_judged_on_colour(tmp_path, sets):
    weights = tmp_path / "gray.safetensors"
    save_file(
        create_model("kbnet-nano-gray", width=8, encoder_blocks=(1,), decoder_blocks=(1,), middle_blocks=1), weights
    )
    method = restorer_method(str(weights), HERE)
    assert (method.name, method.colour) == ("gray", False)
    assert len(method.conditions["sha256"]) == 64
    assert method.conditions["tile"] == 0
    assert {row[1] for row in measured(tmp_path / "peers.json", sets, [method], (15,))} == {"gray"}


def test_what_a_method_says_of_a_peer():
    method = peer_method(PEERS["total-variation"], HERE)
    assert method.conditions["settings"] == PEERS["total-variation"].settings
    assert method.conditions["package"].startswith("scikit-image ")
    assert method.conditions["threads"] == 1
    assert method.facts["told_sigma"]
