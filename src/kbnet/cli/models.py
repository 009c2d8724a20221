"""`kbnet models`: the networks, what they cost, and which have weights."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from kbnet.cli._terminal import print_json, table_console

_SIDE = 256  # the size at which papers state costs


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """List the networks with their cost, and the weights that ship.

    Multiply-adds (MACs) are those of one 256x256 image: "convolutions" is what papers of this family state, "all"
    counts kernel basis attention and transposed attention too. Sides are padded to the multiple.
    """
    from kbnet.models import PRESETS, list_models

    networks = [_network_facts(name) for name in PRESETS]
    shipped = list_models()
    if as_json:
        print_json({"networks": networks, "weights": [asdict(entry) for entry in shipped]})
        return

    from rich.table import Table

    table = Table("network", title="Networks")
    for heading in ("parameters, M", "GMACs, convolutions", "GMACs, all", "kMACs a pixel, all", "multiple"):
        table.add_column(heading, justify="right")
    table.add_column("weights")
    for facts in networks:
        table.add_row(
            facts["name"],
            f"{facts['parameters'] / 1e6:.2f}",
            f"{facts['macs_convolutions'] / 1e9:.2f}",
            f"{facts['macs_all'] / 1e9:.2f}",
            f"{facts['macs_per_pixel'] / 1e3:.1f}",
            str(facts["input_multiple"]),
            ", ".join(facts["weights"]) or "with --model FILE",
        )
    console = table_console()
    console.print(table)
    if not shipped:
        return
    weights = Table("weights", "task", "network", "licence", "measured", title="Shipped weights (kbnet info NAME)")
    for entry in shipped:
        task = f"{entry.task} (default)" if entry.default else entry.alias
        # what the inputs score, and the worst picture, are left to `kbnet info`
        measured = ", ".join(f"{name} {value:.2f}" for name, value in entry.metrics.items() if "," not in name)
        weights.add_row(entry.name, task, entry.preset, entry.license, measured)
    console.print(weights)


def _network_facts(name: str) -> dict[str, Any]:
    import torch

    from kbnet.models import PRESETS, build, cost, list_models

    spent = cost(PRESETS[name], _SIDE, _SIDE)
    with torch.device("meta"):
        multiple = build(PRESETS[name]).input_multiple
    return {
        "name": name,
        "parameters": spent.parameters,
        "macs_convolutions": spent.convolutions,
        "macs_all": spent.total,
        "macs_per_pixel": round(spent.per_pixel),
        "input_multiple": multiple,
        "weights": [entry.name for entry in list_models() if entry.preset == name],
    }
