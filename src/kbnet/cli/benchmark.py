"""`kbnet benchmark`: the speed of this machine, compared with reference machines."""

import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kbnet.cli._terminal import print_columns, print_json

if TYPE_CHECKING:
    from kbnet.inference import Restorer
    from kbnet.models import CatalogueEntry

_PHOTO = 12  # megapixels of a typical phone photo
_SIDES = (1024, 512, 256)  # pixels; the largest that fits a network's share of the time is used
_REPEATS = 5


@dataclass(frozen=True)
class Machine:
    """A machine's time per megapixel, by network."""

    name: str
    seconds: Mapping[str, float]
    source: str = ""


def benchmark(
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Measure only this model.", show_default="every included network"),
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32 or bfloat16.")] = "auto",
    seconds: Annotated[float, typer.Option(metavar="N", min=0, help="Total measuring time, in seconds.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")] = False,
) -> None:
    """Measure how fast this machine restores photos, in about a minute.

    Each network restores a one-megapixel image several times; the best run counts. Close other programs first: they
    slow it down.
    """
    from kbnet.inference import Restorer

    entries = _networks(model)
    found: dict[str, float] = {}
    settings: dict[str, Any] = {}
    for entry in entries:
        name = entry if isinstance(entry, str) else entry.name
        network = entry if isinstance(entry, str) else entry.preset
        if not as_json:
            typer.echo(f"measuring {network} ...", err=True)
        restorer = Restorer.from_pretrained(name, device=device, dtype=dtype)
        found[network] = seconds_per_megapixel(restorer, seconds / len(entries))
        settings = restorer.describe()
    here = Machine(_describe(settings), found)
    if as_json:
        print_json({"machine": here.name, "seconds_per_megapixel": dict(found), **_environment()})
    else:
        _show(here, reference_machines())


def reference_machines() -> list[Machine]:
    """The reference machines."""
    text = (resources.files("kbnet.cli") / "machines.toml").read_text(encoding="utf-8")
    return [Machine(**entry) for entry in tomllib.loads(text)["machines"]]


def seconds_per_megapixel(
    restorer: "Restorer | Callable[[Any], Any]", limit: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds per megapixel, the best of a few runs within about `limit` seconds, on the largest image that fits."""
    import numpy as np

    generator = np.random.default_rng(0)
    started = clock()

    def timed(side: int) -> float:
        # flat areas, an edge and noise; the content doesn't affect the time
        picture = np.full((side, side, 3), 96, np.uint8)
        picture[:, side // 2 :] = 160
        picture += generator.integers(0, 32, picture.shape, dtype=np.uint8)
        start = clock()
        restorer(picture)
        return clock() - start

    timed(_SIDES[-1])  # warm up: the first run selects kernels and allocates memory
    small = timed(_SIDES[-1])
    side = next((s for s in _SIDES if small * (s / _SIDES[-1]) ** 2 * 2 <= limit), _SIDES[-1])
    best = timed(side)
    for _ in range(_REPEATS - 1):
        if clock() - started + best > limit:
            break
        best = min(best, timed(side))
    return best / (side**2 / 1e6)


def _networks(model: str | None) -> "list[CatalogueEntry | str]":
    """One included model for each colour network, or the given model."""
    from kbnet.models import PRESETS, find, list_models

    if model is not None:
        return [find(model) or model]
    first: dict[str, CatalogueEntry | str] = {}
    for entry in list_models():
        if PRESETS[entry.preset].channels == 3:
            first.setdefault(entry.preset, entry)
    return list(first.values())


def _describe(settings: Mapping[str, Any]) -> str:
    from kbnet.engine.threads import default_threads
    from kbnet.environment import processor

    if str(settings["device"]).startswith("cuda"):
        import torch

        return f"this machine: {torch.cuda.get_device_name(settings['device'])}, {settings['dtype']}"
    return f"this machine: {processor().partition(' (')[0]}, {default_threads()} threads, {settings['dtype']}"


def _environment() -> dict[str, Any]:
    from kbnet.environment import environment

    return environment("kbnet benchmark --json")


def _show(here: Machine, others: list[Machine]) -> None:
    networks = list(here.seconds)
    rows = []
    for machine in (here, *(m for m in others if set(m.seconds) & set(networks))):
        figures = (f"{machine.seconds[n]:.2f} s" if n in machine.seconds else "-" for n in networks)
        rows.append((machine.name, *figures))
    typer.echo("Seconds per megapixel:\n")
    print_columns(("MACHINE", *networks), rows, right=networks)
    typer.echo("")
    for network, seconds in here.seconds.items():
        typer.echo(f"A {_PHOTO}-megapixel photo takes about {_PHOTO * seconds:.0f} s with {network} on this machine.")
