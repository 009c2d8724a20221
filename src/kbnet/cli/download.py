"""`kbnet download`: the authors' weights from a mirror."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="kbnet-l-derain or kbnet-s-real.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The .safetensors file to write.", show_default="NAME.safetensors"
        ),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL of the folder that contains the file.", show_default="OpenModelDB's"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Download the authors' weights from a mirror.

    The authors' links no longer work. The mirror is run by a third party and publishes no checksums, so kbnet checks
    the names and shapes of all tensors and executes no code in the file. Check the results yourself. To resume an
    interrupted download, repeat the command.
    """
    from kbnet.cli._terminal import message_console
    from kbnet.nn.download import MIRROR
    from kbnet.nn.download import download as fetch

    target = output or Path(f"{name}.safetensors")
    shown = sys.stderr.isatty() and not quiet

    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(24),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=message_console(),
        transient=True,
        disable=not shown,
    ) as bar:
        task = bar.add_task("", total=None)
        fetch(
            name,
            target,
            mirror=mirror or MIRROR,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total or None),
        )
    if not quiet:
        typer.echo(f"{mirror or MIRROR} → {target}; restore with --model {target}", err=True)
