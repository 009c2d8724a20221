"""`kbnet inspect`: pictures of what happens inside, one subcommand each."""

from pathlib import Path
from typing import Annotated

import typer

from kbnet.cli._terminal import one_line

app = typer.Typer(help="Look inside: what training makes of a photo.", rich_markup_mode=None)


@app.callback()
def _group() -> None:
    # without it, the only subcommand would be taken for the whole group
    pass


@app.command("degradations")
def degradations(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A clean photo; its middle is shown.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default="PHOTO-degradations.png, beside it"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything random; the same gives the same.")] = 0,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels of the photo shown, each way.")] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Draw a contact sheet of every degradation at several severities, each with its PSNR. Needs the `eval` extra."""
    target = output or photo.with_name(f"{photo.stem}-degradations.png")

    from kbnet.cli._sheet import degradation_panels, draw
    from kbnet.errors import OutputExistsError
    from kbnet.imaging import Photo, read_photo, write_photo

    if target.exists() and not overwrite:
        raise OutputExistsError(f"{one_line(str(target))}: the file exists; choose another name or give --overwrite")
    sheet = draw(degradation_panels(read_photo(photo), seed=seed, size=size))
    write_photo(Photo(sheet), target, overwrite=overwrite)
    typer.echo(f"contact sheet: {one_line(str(target))}", err=True)
