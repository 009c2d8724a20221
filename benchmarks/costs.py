"""Parameters, multiply-adds and memory of every preset and of networks of other papers, into results/costs.json.

    python benchmarks/costs.py

Nothing is computed but shapes, so the figures do not depend on the machine. Writes docs/costs.md too.
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

`python benchmarks/costs.py` writes this page and `benchmarks/results/costs.json`; `kbnet inspect cost` counts any of
these networks at any size. One image of {width} x {height}; multiply-adds (MACs) in billions, memory in megabytes of
float32.

"""
TAIL = """
**Convolutions** are what papers of this family publish. Their counter misses kernel basis attention, a custom
function in the authors' code, and the products of transposed attention. With everything counted, KBNet-S takes 1.7 to
1.8 times the multiply-adds of its convolutions, KBNet-L 2.0 times, and Restormer 1.1 times.

**Kernel basis attention** counts, per pixel, N·C·G·k² multiply-adds to mix N kernels, C·G·k² to apply the mixture,
and N·C for the bias. Tests compare this count with PyTorch's `FlopCounterMode` in two ways: through the formula
registered with the operator, and through the operator written as matrix products, which that counter knows.

**Activations** is the peak memory of computed tensors in inference, layer by layer, without scratch memory inside
operators. **With stored kernels** is the same if every pixel's kernel is stored, as in the authors' code. **Kept for
training** is what the forward pass of a training step keeps for the backward pass. The compiled kernels run whole
blocks in one call; their memory is measured in `benchmarks/results/memory.json` and `networks.json`.

**Networks of other papers** are built from the papers' descriptions (`src/kbnet/evaluation/described.py`), without
weights; their parameters agree with the published numbers within 0.25%. **Published** quotes multiply-adds from the
papers; a dash means that this page quotes none. Networks that can't be built from their papers alone are not listed.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of costs.md")
    parser.add_argument("--networks", nargs="+", default=[], help="some of them")
    options = parser.parse_args()
    rows = network_costs(options.networks)
    path = write("costs", {"networks": [row.as_dict() for row in rows]}, options.results)
    options.output.mkdir(parents=True, exist_ok=True)
    document = options.output / "costs.md"
    document.write_text(markdown(rows), encoding="utf-8")
    print(path, document)


def markdown(rows: Sequence[NetworkCost]) -> str:
    """The document."""
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
    """Billions with three to four digits, a dash for none."""
    return "–" if not macs else f"{macs / 1e9:.1f}" if macs >= 1e10 else f"{macs / 1e9:.2f}"


def mega(size: int | None) -> str:
    """Megabytes, a dash for what there is not."""
    return "–" if size is None else f"{size / 1e6:.0f}"


if __name__ == "__main__":
    main()
