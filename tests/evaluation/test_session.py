"""What an evaluation says of itself, and the names that its figures have elsewhere."""

import numpy as np
import pytest
from evaluation_files import decibels, save, save_pairs, texture

from kbnet.errors import InvalidInputError
from kbnet.evaluation import measured_figures, open_session, run
from kbnet.evaluation.session import Session


def results_of(session, restore=None):
    scored = session.benchmark.restores
    return session.results(
        "kbnet evaluate",
        [row for row, _ in run(session.samples(), restore or (lambda x: x), session.score, scored_input=scored)],
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "Mine"
    save(folder / "1.png", texture(60, 64))
    return folder


@pytest.mark.parametrize(
    ("benchmark", "names"),
    [
        ("gaussian", ["Mine sigma 15", "Mine sigma 25", "Mine sigma 50"]),
        ("blur", ["Mine defocus", "Mine motion", "Mine blur"]),
        ("clean", ["Mine clean"]),
    ],
)
def test_figures_are_named_by_set_and_condition(benchmark, names, photos):
    found = measured_figures(results_of(open_session(benchmark, photos, "denoise")))
    assert [name for name in found if "," not in name] == names
    assert all(found[f"{name}, lowest"] <= found[name] for name in names)
    assert all((f"{name}, input" in found) == (benchmark != "clean") for name in names)


@pytest.mark.parametrize(("benchmark", "name"), [("pairs", "Some-dev"), ("rain100l", "Some-dev Y")])
def test_figures_of_pairs_are_named_by_the_set_and_y_where_it_is_meant(benchmark, name, tmp_path):
    save_pairs(tmp_path / "Some-dev", difference=10)
    found = measured_figures(results_of(open_session(benchmark, tmp_path / "Some-dev", "denoise")))
    assert [*found] == [name, f"{name}, input", f"{name}, lowest"]
    if benchmark == "pairs":
        assert found[name] == found[f"{name}, input"] == pytest.approx(decibels(10), abs=1e-4)


def test_the_model_and_how_it_is_used_are_told_and_the_tiles_are_the_protocols(tmp_path):
    save_pairs(tmp_path / "test_c", 1, input="source")
    session = open_session("dpdd", tmp_path, "denoise", context="global", strength=0.5)
    assert session.published_tiles
    told = session.settings()
    assert (told["model"], told["context"], told["strength"], told["tile"]) == ("kbnet-nano-denoise", "global", 0.5, 0)
    assert open_session("dpdd", tmp_path, "denoise", tile="auto").settings()["published_tiles"] is False
    assert "blur" not in told
    assert told != open_session("dpdd", tmp_path, "denoise", context="local", strength=0.5).settings()


def test_published_tiles_are_what_the_model_is_given(tmp_path, monkeypatch):
    save_pairs(tmp_path / "test_c", 1, input="source")
    session = open_session("dpdd", tmp_path, "denoise")
    seen = []
    monkeypatch.setattr(Session, "_restore", lambda session, image: (seen.append(image.shape), image)[1])
    image = np.zeros((40, 48, 3), np.float32)
    assert session.restore(image).shape == image.shape
    assert set(seen) == {(1024, 1024, 3)}


def test_options_that_a_benchmark_does_not_take_are_refused(photos):
    for options in ({"sigmas": [5.0]}, {"kernels": photos}):
        with pytest.raises(InvalidInputError, match="so it takes no"):
            open_session("clean", photos, **options)
    with pytest.raises(InvalidInputError, match="is not a folder"):
        open_session("clean", photos / "gone")
