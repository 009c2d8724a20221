"""`kbnet models`: the included models and their cost, and the networks without weights."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kbnet.cli._terminal import print_block, print_columns, print_json

if TYPE_CHECKING:
    from kbnet.models import CatalogueEntry

_SIDE = 256  # the image size that papers state costs for


def models(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show measured quality, and networks without weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")] = False,
) -> None:
    """List the included models with cost and licence.

    COST is the number of multiply-adds per pixel of the photo. `kbnet info NAME` shows everything about one model.
    """
    from kbnet.models import PRESETS, list_models

    shipped = list_models()
    if as_json:
        networks = [_network_facts(name) for name in PRESETS]
        print_json({"networks": networks, "weights": [asdict(entry) for entry in shipped]})
        return
    costs = {name: _network_facts(name) for name in (PRESETS if verbose else {entry.preset for entry in shipped})}
    rows = [(_task(entry), entry.name, _cost(entry, costs[entry.preset]), entry.license) for entry in shipped]
    print_columns(("TASK", "MODEL", "COST", "LICENCE"), rows, right=("COST",))
    if not verbose:
        typer.echo("\nCOST: multiply-adds per pixel of the photo. Quality and more networks: kbnet models --verbose")
        return
    for entry in shipped:
        typer.echo("")
        print_block(_facts(entry, costs[entry.preset]))
    typer.echo("\nNetworks. GMACs are for one 256x256 image; papers of this family count only convolutions.\n")
    headings = ("NETWORK", "PARAMETERS", "GMACS", "CONVOLUTIONS", "MULTIPLE", "WEIGHTS")
    print_columns(headings, [_network_row(facts) for facts in costs.values()], right=headings[1:5])


def _task(entry: "CatalogueEntry") -> str:
    """The task, and in parentheses what selects these weights: --preset best, gray images or raw files."""
    variant = {"hq": "best", "": "other"}.get(entry.variant, entry.variant)
    return entry.task if entry.default else f"{entry.task} ({variant})"


def _cost(entry: "CatalogueEntry", network: dict[str, Any]) -> str:
    """Multiply-adds per pixel of the photo. A network for raw files runs on planes with a quarter of its pixels."""
    return f"{network['macs_per_pixel'] / (4 if entry.variant == 'raw' else 1) / 1e3:.0f}k"


def _facts(entry: "CatalogueEntry", network: dict[str, Any]) -> dict[str, str]:
    # `kbnet info` also shows the inputs' scores and the lowest image
    measured = (f"{name} {value:.2f}" for name, value in entry.metrics.items() if "," not in name)
    return {
        "model": entry.name,
        "task": _task(entry),
        "summary": entry.summary,
        "network": f"{entry.preset}, {entry.parameters / 1e6:.2f} M parameters, {_cost(entry, network)} MACs per pixel",
        "licence": entry.license,
        "measured": ", ".join(measured),
    }


def _network_row(facts: dict[str, Any]) -> tuple[str, ...]:
    return (
        facts["name"],
        f"{facts['parameters'] / 1e6:.2f} M",
        f"{facts['macs_all'] / 1e9:.2f}",
        f"{facts['macs_convolutions'] / 1e9:.2f}",
        str(facts["input_multiple"]),
        "included" if facts["weights"] else "--model",
    )


def _network_facts(name: str) -> dict[str, Any]:
    from kbnet.models import PRESETS, cost, list_models

    spent = cost(PRESETS[name], _SIDE, _SIDE)
    return {
        "name": name,
        "parameters": spent.parameters,
        "macs_convolutions": spent.convolutions,
        "macs_all": spent.total,
        "macs_per_pixel": round(spent.per_pixel),
        "input_multiple": PRESETS[name].input_multiple,
        "weights": [entry.name for entry in list_models() if entry.preset == name],
    }
