"""The table of `kbnet inspect cost`."""

import re
from collections.abc import Sequence

from kbnet.cli._terminal import table_console
from kbnet.errors import InvalidInputError
from kbnet.evaluation.costs import NetworkCost


def parse_size(text: str) -> tuple[int, int]:
    """Parse "WxH" into width and height.

    Raises:
        InvalidInputError: the text doesn't have that form.
    """
    found = re.fullmatch(r"(\d{1,5})\s*[x×]\s*(\d{1,5})", text.strip())
    if found is None:
        raise InvalidInputError(f"expected --size WxH, such as 256x256; got {text!r}")
    return int(found[1]), int(found[2])


def print_costs(rows: Sequence[NetworkCost]) -> None:
    """Print a table: kbnet's networks first, then those of other papers."""
    from rich.table import Table

    first = rows[0]
    table = Table("network", title=f"Cost of one image of {first.width} x {first.height}")
    for heading in (
        "parameters, M", "GMACs, convolutions", "KBA", "attention", "all", "published",
        "kMACs per pixel", "activations, MB", "stored kernels, MB", "training, MB",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    ours = True
    for row in rows:
        if ours and row.source != "kbnet":
            table.add_section()
            ours = False
        by_kernels = row.activation_bytes_by_kernels
        published = row.macs_published if (row.width, row.height) == (256, 256) else None
        table.add_row(
            row.network if row.source == "kbnet" else f"{row.network} ({row.source})",
            f"{row.parameters / 1e6:.2f}",
            f"{row.macs_convolutions / 1e9:.2f}",
            f"{row.macs_kba / 1e9:.2f}" if row.macs_kba else "–",
            f"{row.macs_attention / 1e9:.2f}" if row.macs_attention else "–",
            f"{row.macs_all / 1e9:.2f}",
            f"{published / 1e9:g}" if published else "–",
            f"{row.macs_per_pixel / 1e3:.0f}",
            f"{row.activation_bytes / 1e6:.0f}",
            f"{by_kernels / 1e6:.0f}" if by_kernels else "–",
            f"{row.training_bytes / 1e6:.0f}",
        )
    console = table_console()
    console.print(table)
    console.print(
        "The published figures of KBNet and Restormer count convolutions only: their counters miss kernel basis "
        "attention (KBA) and the products of transposed attention.",
        highlight=False,
    )
