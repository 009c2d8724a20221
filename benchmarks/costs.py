"""Count parameters, multiply-adds and memory of all presets and of other papers' networks: results/costs.json.

    python benchmarks/costs.py

Computes only shapes, so the figures don't depend on the machine. Also writes docs/costs.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from facts import RESULTS, write
from kbnet.evaluation.costs import NetworkCost, network_costs

DOCS = Path(__file__).parents[1] / "docs"

COLUMNS = (
    "network",
    "parameters, M",
    "convolutions",
    "kernel basis attention",
    "attention products",
    "**all**",
    "published",
    "activations",
    "with stored kernels",
    "kept for training",
)
HEAD = """# What networks cost

`python benchmarks/costs.py` generates this page and `benchmarks/results/costs.json`. `kbnet inspect cost` computes the
same for any of these networks at any size. The figures are for one image of {width} x {height}: multiply-adds (MACs) in
billions, memory in megabytes for float32.

"""
TAIL = """
**Convolutions** is the figure that papers of this family publish. Their counter misses kernel basis attention, which is
a custom function in the authors' code, and the products of transposed attention. In total, KBNet-S takes 1.7 to 1.8
times the multiply-adds of its convolutions, KBNet-L 2.0 times, and Restormer 1.1 times.

**Kernel basis attention** counts, per pixel, N·C·G·k² multiply-adds to mix N kernels, C·G·k² to apply the mixture,
and N·C for the bias. Tests compare this count with PyTorch's `FlopCounterMode` in two ways: with the
formula registered for the operator, and with the operator written as matrix products, which the counter supports.

**Activations** is the peak memory of computed tensors in inference, layer by layer, without scratch memory inside
operators. **With stored kernels** is the same, but with every pixel's kernel stored, as in the authors' code. **Kept
for training** is what the forward pass of a training step keeps for the backward pass. The compiled kernels run whole
networks in one call; `benchmarks/results/memory.json` and `networks.json` contain measurements of their memory.

**Networks of other papers** are built from the papers' descriptions (`src/kbnet/evaluation/described.py`), without
weights; their parameter counts agree with the published numbers within 0.25%. **Published** quotes multiply-adds from
the papers. Networks that can't be built from their papers alone are not listed.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of costs.md")
    parser.add_argument("--networks", nargs="+", default=[], help="only these networks")
    options = parser.parse_args()
    rows = network_costs(options.networks)
    path = write("costs", {"networks": [row.as_dict() for row in rows]}, options.results)
    options.output.mkdir(parents=True, exist_ok=True)
    document = options.output / "costs.md"
    document.write_text(markdown(rows), encoding="utf-8")
    print(path, document)


def markdown(rows: Sequence[NetworkCost]) -> str:
    """The page."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    lines += [
        (
            row.network if row.source == "kbnet" else f"{row.network} ({row.source})",
            f"{row.parameters / 1e6:.2f}",
            giga(row.macs_convolutions),
            giga(row.macs_kba),
            giga(row.macs_attention),
            f"**{giga(row.macs_all)}**",
            f"{row.macs_published / 1e9:g}" if row.macs_published else "–",
            mega(row.activation_bytes),
            mega(row.activation_bytes_by_kernels),
            mega(row.training_bytes),
        )
        for row in rows
    ]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return HEAD.format(width=rows[0].width, height=rows[0].height) + table + TAIL


def giga(macs: int) -> str:
    """Billions with three to four digits; a dash for zero."""
    return "–" if not macs else f"{macs / 1e9:.1f}" if macs >= 1e10 else f"{macs / 1e9:.2f}"


def mega(size: int | None) -> str:
    """Megabytes; a dash for None."""
    return "–" if size is None else f"{size / 1e6:.0f}"


if __name__ == "__main__":
    main()
