"""The kinds of runs that benchmarks/kills.py kills: their inputs, how users start them, and their expected outputs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kbnet.cli import main as command
from kbnet.imaging import Photo, write_photo
from kbnet.models import create_model, save_file

LOG = "output.log"

SETTINGS = {"width": 8, "encoder_blocks": (1,), "middle_blocks": 1, "decoder_blocks": (1,), "bases": 4}
RECIPE = """
[model]
preset = "kbnet-nano"
settings = {width = 4, encoder_blocks = [1], middle_blocks = 0, decoder_blocks = [1], bases = 2}
[degradation]
kind = "gaussian"
sigma = [0, 55]
[[phases]]
steps = 20
patch = 16
batch = 4
[optimizer]
lr = 1e-2
warmup_steps = 2
clip_norm = 1.0
[run]
seed = 1
ema = 0.9
validation_every = 5
validation_steps = 6
log_steps = 1
checkpoint_minutes = 0.001
"""


def picture(seed: int, height: int, width: int) -> Photo:
    """Noise on a slope."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(60, 190, width)[None, :, None] + np.zeros((height, 1, 3))
    return Photo(np.rint(np.clip(slope + rng.normal(0, 25, slope.shape), 0, 255)).astype(np.uint8))


def weights(folder: Path) -> str:
    """A small network."""
    torch.manual_seed(0)
    path = folder / "weights.safetensors"
    save_file(create_model("kbnet-nano", **SETTINGS), path)
    return str(path)


class Kind:
    """One kind of run: its inputs, how users start it, and its expected outputs."""

    name = ""

    def prepare(self, shared: Path) -> None:
        """Make the inputs, in a separate process."""

    def load(self) -> None:
        """Import what a run needs, in the process that all runs are forked from."""

    def start(self, shared: Path, folder: Path) -> int:
        """Run or resume in a separate process; return the exit code."""
        raise NotImplementedError

    def left(self, folder: Path) -> dict[str, str]:
        """All files in the folder, as name: digest."""
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            for path in folder.rglob("*")
            if path.name not in (LOG, "log.jsonl")
        }


class Folder(Kind):
    """`kbnet restore FOLDER --log`, always with the same command."""

    name = "folder"

    def prepare(self, shared: Path) -> None:
        (shared / "in").mkdir()
        for seed in range(24):
            write_photo(picture(seed, 64, 64), shared / "in" / f"{seed:02}.png")
        weights(shared)

    def start(self, shared: Path, folder: Path) -> int:
        places = [str(shared / "in"), "-o", str(folder / "out"), "--log", str(folder / "log.jsonl")]
        return command(["restore", *places, "--model", str(shared / "weights.safetensors"), "-q"])


class Stream(Kind):
    """`kbnet restore --stream` with one image."""

    name = "stream"

    def prepare(self, shared: Path) -> None:
        write_photo(picture(0, 600, 160), shared / "in.tif")
        weights(shared)

    def start(self, shared: Path, folder: Path) -> int:
        options = ["--stream", "--tile", "64", "--overlap", "16", "--context", "global", "-q"]
        model = ["--model", str(shared / "weights.safetensors")]
        done = command(["restore", str(shared / "in.tif"), "-o", str(folder / "out.tif"), *options, *model])
        # killed after the file was complete: the command reports that the file exists
        return 0 if (folder / "out.tif").exists() else done


class Training(Kind):
    """`kbnet train`, with --resume if there is a checkpoint."""

    name = "train"

    def prepare(self, shared: Path) -> None:
        (shared / "photos").mkdir()
        for seed in range(10):
            write_photo(picture(seed, 48, 48), shared / "photos" / f"{seed}.png")
        (shared / "recipe.toml").write_text(RECIPE, encoding="utf-8")

    def load(self) -> None:
        # Imports alone: a process in which gradients were computed has threads that a fork loses.
        import torch._dynamo  # noqa: F401  # by the first optimizer

        import kbnet.training.loop  # noqa: F401

    def start(self, shared: Path, folder: Path) -> int:
        run = folder / "run"
        go_on = ["--resume"] if (run / "checkpoint.pt").exists() else []
        options = ["--data", str(shared / "photos"), "--run", str(run), "--workers", "0", "-q"]
        return command(["train", str(shared / "recipe.toml"), *options, *go_on])

    def left(self, folder: Path) -> dict[str, str]:
        found = super().left(folder)
        run = folder / "run"
        for name in [name for name in found if "tfevents" in name]:
            del found[name]  # one for each start
        curve = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        plain = [{k: v for k, v in one.items() if k not in ("steps_per_second", "loader_share")} for one in curve]
        found["run/metrics.jsonl"] = hashlib.sha256(json.dumps(plain).encode()).hexdigest()
        for name in ("checkpoint.pt", "checkpoint-best.pt"):
            state = torch.load(run / name, weights_only=True)
            found[f"run/{name}"] = _digest_of(state)
        found["run/checkpoint-previous.pt"] = "of one of the steps before"  # which step depends on the time
        return found


def _digest_of(state: Any) -> str:
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for one in value:
                add(one)
        else:
            found.update(repr(value).encode())

    add(state)
    return found.hexdigest()


class Ray(Kind):
    """`kbnet.distributed` with a log, on a cluster that keeps running after its jobs."""

    name = "ray"

    def __init__(self) -> None:
        self.address = ""

    def prepare(self, shared: Path) -> None:
        (shared / "in").mkdir()
        for seed in range(24):
            write_photo(picture(seed, 160, 160), shared / "in" / f"{seed:02}.png")
        weights(shared)

    def load(self) -> None:
        import ray.data  # noqa: F401

        import kbnet.distributed.running  # noqa: F401

    def start(self, shared: Path, folder: Path) -> int:
        from kbnet.distributed import Settings, plan_rows, restore_rows

        settings = Settings(
            model=str(shared / "weights.safetensors"),
            options={"tile": 0},
            workers=2,
            attempts=5,
            address=self.address,
            log=folder / "log.jsonl",
        )
        rows = plan_rows([str(shared / "in")], str(folder / "out"), resume=True)
        failed = [outcome.error for outcome in restore_rows(rows, settings) if not outcome.ok]
        print(failed)
        return 1 if failed else 0
