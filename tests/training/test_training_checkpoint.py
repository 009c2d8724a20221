"""A run's checkpoint: there and whole at every moment, and never run."""

import os

import pytest
import torch

from kbnet.errors import OutputError, TrainingError
from kbnet.training import checkpoint, curves


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_without_a_checkpoint_gives_none(tmp_path):
    assert checkpoint.load(tmp_path) is None
    assert checkpoint.load(tmp_path / "not there") is None


def test_what_was_saved_is_loaded_and_the_one_before_is_kept(tmp_path):
    folder = tmp_path / "new" / "run"
    for step in range(3):
        checkpoint.save(folder, {"step": step, "model": {"a": torch.full((2,), float(step))}})
    assert checkpoint.load(folder)["step"] == 2
    assert torch.equal(checkpoint.load(folder)["model"]["a"], torch.full((2,), 2.0))
    assert torch.load(folder / checkpoint.PREVIOUS, weights_only=True)["step"] == 1
    assert names(folder) == [checkpoint.PREVIOUS, checkpoint.NAME]


def test_the_best_one_is_kept_under_its_own_name_and_may_be_kept_twice(tmp_path):
    for step in range(3):
        checkpoint.save(tmp_path, {"step": step})
        if step < 2:
            checkpoint.keep_best(tmp_path)
            checkpoint.keep_best(tmp_path)
    assert checkpoint.load(tmp_path, checkpoint.BEST)["step"] == 1
    assert checkpoint.load(tmp_path)["step"] == 2
    assert names(tmp_path) == [checkpoint.BEST, checkpoint.PREVIOUS, checkpoint.NAME]


def test_saving_works_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    for step in range(3):
        checkpoint.save(tmp_path, {"step": step})
    assert checkpoint.load(tmp_path)["step"] == 2
    assert torch.load(tmp_path / checkpoint.PREVIOUS, weights_only=True)["step"] == 1


def test_a_write_that_fails_halfway_keeps_the_checkpoint_before_it_and_leaves_nothing_else(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"step": 1})

    def full_disk(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, {"step": 2})
    assert checkpoint.load(tmp_path) == {"step": 1}
    assert names(tmp_path) == [checkpoint.NAME]


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["link", "replace", "fsync"])
def test_a_process_killed_at_any_point_of_saving_leaves_a_whole_checkpoint(killed_in, tmp_path, run_python):
    checkpoint.save(tmp_path, {"step": 0})
    checkpoint.save(tmp_path, {"step": 1})
    run_python(
        """
import os, pathlib, sys
from kbnet.training import checkpoint

def die(*_):
    os._exit(0)  # as SIGKILL would: nothing is cleaned up

if sys.argv[2] == "replace":
    pathlib.Path.replace = die
else:
    setattr(os, sys.argv[2], die)
checkpoint.save(pathlib.Path(sys.argv[1]), {"step": 2})
raise SystemExit("it was to die in " + sys.argv[2])
""",
        str(tmp_path),
        killed_in,
    )
    assert checkpoint.load(tmp_path) == {"step": 1}
    checkpoint.save(tmp_path, {"step": 2})
    assert checkpoint.load(tmp_path) == {"step": 2}


def test_a_full_disk_says_which_file_and_keeps_the_checkpoint_before_it(tmp_path, file_size_limit):
    checkpoint.save(tmp_path, {"step": 1})
    with file_size_limit(5000), pytest.raises(OutputError, match=r"checkpoint\.pt: can't be written: file too large"):
        checkpoint.save(tmp_path, {"step": 2, "model": {"a": torch.zeros(100_000)}})
    assert checkpoint.load(tmp_path) == {"step": 1}
    assert names(tmp_path) == [checkpoint.NAME]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/run: can't be written"):
        checkpoint.save(tmp_path / "file" / "run", {"step": 1})


def test_curves_that_cannot_be_written_end_no_training(tmp_path, file_size_limit, caplog):
    lines = curves.Curves(tmp_path, 0)
    lines.write({"step": 1, "loss": 0.5})
    with file_size_limit(30):
        lines.write({"step": 2, "loss": 0.5})
        lines.write({"step": 3, "loss": 0.5})
    lines.write({"step": 4, "loss": 0.5})
    assert [entry["step"] for entry in curves.read(tmp_path)] == [1, 4]
    assert [record.getMessage() for record in caplog.records] == [
        f"the curves are incomplete: {tmp_path}/metrics.jsonl: can't be written: file too large; write elsewhere or "
        "raise the file size limit"
    ]


def test_curves_are_doubted(tmp_path):
    lines = curves.Curves(tmp_path, 0)
    for step in (1, 2, 3):
        lines.write({"step": step})
    lines.close()
    with (tmp_path / curves.NAME).open("ab") as file:
        file.write(b'\xff\xfe{\n[4]\n{"step": "5"}\n{"step": true}\n{"step": 6')
    assert [entry["step"] for entry in curves.read(tmp_path)] == [1, 2, 3]
    with curves.Curves(tmp_path, 2)._lines as kept:
        assert [entry["step"] for entry in kept.entries] == [1, 2]


@pytest.mark.parametrize("content", [[1, 2], {"step": "3"}, {"model": {}}, {}])
def test_a_checkpoint_of_another_kind_is_refused(tmp_path, content):
    torch.save(content, tmp_path / checkpoint.NAME)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is damaged .* replace it with checkpoint-previous\.pt"):
        checkpoint.load(tmp_path)


def test_a_damaged_checkpoint_is_refused_with_what_to_do(tmp_path):
    checkpoint.save(tmp_path, {"step": 1, "model": {"a": torch.zeros(1000)}})
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(
        TrainingError, match=r"checkpoint\.pt is damaged .* replace it with checkpoint-previous\.pt"
    ) as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    mark = tmp_path / "it ran"
    torch.save({"step": Trap(mark)}, tmp_path / checkpoint.NAME)
    with pytest.raises(TrainingError, match="is damaged"):
        checkpoint.load(tmp_path)
    assert not mark.exists()
