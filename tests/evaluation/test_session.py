"""What an evaluation says of itself, whether rows belong to its data, and the names that its figures have elsewhere."""

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_files import decibels, save, save_blocks, save_pairs, texture

from kbnet.cli import main
from kbnet.errors import InvalidInputError
from kbnet.evaluation import Request, Row, find_benchmark, measured_figures, open_session, run
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


def rows_of(session):
    rows = [row for row, _ in run(session.samples(), lambda image: image, session.score)]
    return {row.name: Row.from_json(json.loads(json.dumps(row.as_json()))) for row in rows}


def test_rows_of_another_folder_of_that_name_are_measured_again(tmp_path):
    for parent, seed in (("A", 0), ("B", 5)):
        save_pairs(tmp_path / parent / "target", 2)
        save(tmp_path / parent / "target" / "target" / "1.png", texture(seed=seed))
    session, other = (open_session("pairs", tmp_path / parent / "target", "denoise") for parent in "AB")
    assert session.settings() == other.settings()
    known = rows_of(session)
    session.chosen(session.samples(), known)
    assert [*known] == ["all/1", "all/2"]
    other.chosen(other.samples(), known)
    assert [*known] == ["all/2"]
    # a row that was kept although the limit excludes it is none of this data set either
    known = rows_of(session)
    limited = replace(other, limit=1)
    assert [sample.name for sample in limited.chosen(limited.samples(), known)] == ["all/1", "all/2"]
    save(tmp_path / "B" / "target" / "input" / "2.png", texture(seed=6))
    assert [sample.name for sample in limited.chosen(limited.samples(), known)] == ["all/1"]


def test_rows_that_do_not_say_what_they_were_measured_on_are_measured_again(photos):
    session = open_session("gaussian", photos, "denoise", sigmas=[25.0])
    known = {name: replace(row, data_sha256="") for name, row in rows_of(session).items()}
    assert [sample.name for sample in session.chosen(session.samples(), known)] == ["sigma 25/1"]
    assert known == {}


def test_a_row_of_a_file_that_is_gone_is_measured_again_and_then_says_so(tmp_path):
    save_pairs(tmp_path, 1)
    session = open_session("pairs", tmp_path, "denoise")
    known, samples = rows_of(session), session.samples()
    (tmp_path / "input" / "1.png").unlink()
    assert session.chosen(samples, known) == samples
    assert known == {}
    ((row, _),) = run(samples, lambda image: image, session.score)
    assert "1.png" in row.error


def test_a_resumed_evaluation_never_reports_the_figures_of_another_data_set(tmp_path, capsys):
    for parent, difference in (("A", 4), ("B", 40)):
        save_pairs(tmp_path / parent / "test", 2, difference=difference)
    figures = []
    for options in (["A"], ["B", "--resume"], ["B", "--resume"]):
        data = ["--data", str(tmp_path / options[0] / "test"), *options[1:]]
        given = ["evaluate", "--benchmark", "pairs", "--strength", "0", "-o", str(tmp_path / "r.json"), *data]
        assert main(given) == 0
        figures.append(json.loads((tmp_path / "r.json").read_text()))
    assert [f["means"]["all"]["output"]["psnr"] for f in figures] == [
        pytest.approx(decibels(difference), abs=1e-4) for difference in (4, 40, 40)
    ]
    assert figures[1]["images"] == figures[2]["images"]  # with the same times: not measured once more


@pytest.mark.parametrize("benchmark", ["gaussian", "gaussian-jpeg", "clean", "blur", "pairs", "sidd", "charts"])
def test_every_sample_is_known_by_all_that_it_is_made_from(benchmark, tmp_path):
    def digests(seed):
        folder = tmp_path / str(seed)
        if benchmark == "sidd":
            save_blocks(folder, 1, 2, difference=seed)
        elif benchmark == "pairs":
            save_pairs(folder, 2, difference=seed)
        else:
            for number in range(2):
                save(folder / f"{number}.png", texture(60, 64, seed=seed * 10 + number))
        return [one.digest() for one in find_benchmark(benchmark).collect(Request(folder, 3, (25.0,)))]

    first, second = digests(1), digests(2)
    assert first == digests(1)
    if benchmark == "charts":  # drawn by code
        assert first == second
    else:
        assert len({*first, *second}) == len(first) + len(second)


def test_a_photo_that_gets_another_kernel_is_another_sample(tmp_path):
    save(tmp_path / "b.png", texture(60, 64))
    before = {sample.name: sample.digest() for sample in open_session("blur", tmp_path).samples()}
    save(tmp_path / "a.png", texture(60, 64, seed=1))
    after = {sample.name: sample.digest() for sample in open_session("blur", tmp_path).samples()}
    assert all(after[name] != digest for name, digest in before.items())
