"""`kbnet inspect`: subcommands that show how networks and degradations work."""

from pathlib import Path
from typing import Annotated

import typer

from kbnet.cli._help import Command, Group
from kbnet.cli._terminal import one_line, print_json

app = typer.Typer(
    cls=Group,
    help="Show how networks and degradations work, and what networks cost.",
    rich_markup_mode=None,
)


@app.command("model", cls=Command)
def model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Model or task name, or weights file.")],
    photo: Annotated[Path, typer.Argument(metavar="IMAGE", help="Photo to restore.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Image to write.", show_default="IMAGE-NAME-BLOCK.png"),
    ] = None,
    block: Annotated[
        str | None,
        typer.Option(
            metavar="BLOCK",
            help="Block, such as encoder.0.0. An unknown name lists all blocks.",
            show_default="the last block",
        ),
    ] = None,
    pixel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y",
            help="Draw the kernel of this pixel, counted from the top left. Repeat it for up to six pixels.",
            show_default="one on an edge, one in a flat area, one in a texture",
        ),
    ] = None,
    group: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Channel group to draw.", show_default="the one whose kernels vary most"),
    ] = None,
    size: Annotated[
        int,
        typer.Option(
            metavar="N", min=32, max=2048, help="Use N x N pixels from the middle of the photo, or around X,Y."
        ),
    ] = 384,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="global|local",
            help="Take averages over the whole image or a window around each pixel.",
            show_default="the model's setting",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Draw what a block computes on a photo.

    Shows its bases, coefficients, kernels and branches. Needs the `eval` extra.
    """
    from kbnet.cli._inspection import Subject
    from kbnet.imaging import Photo, write_photo

    subject = Subject.load(name, photo, block=block, pixels=pixel or [], size=size, context=context)
    target = output or photo.with_name(f"{photo.stem}-{subject.name}-{subject.block}.png")
    _refuse_existing(target, overwrite)
    write_photo(Photo(subject.draw(group)), target, overwrite=overwrite)
    typer.echo(f"figure: {one_line(str(target))}", err=True)


@app.command("cost", cls=Command)
def cost(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NETWORK", help="Networks of kbnet or other papers.", show_default="all"),
    ] = None,
    size: Annotated[str, typer.Option(metavar="WxH", help="Image size; both sides are multiples of 16.")] = "256x256",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")] = False,
) -> None:
    """Count parameters, multiply-adds and memory of networks.

    The networks don't run. Multiply-adds (MACs) include convolutions, kernel basis attention (KBA) and the products of
    transposed attention; the published figures of KBNet and Restormer count convolutions only. Networks of other papers
    are built from their descriptions. Memory is for float32 tensors, layer by layer: "stored kernels" is what KBA needs
    if it is computed like the authors do, "training" is what a forward pass keeps for the backward pass.
    """
    from kbnet.cli._costs import parse_size, print_costs
    from kbnet.evaluation.costs import network_costs

    width, height = parse_size(size)
    rows = network_costs(names or (), height, width)
    if as_json:
        print_json({"networks": [row.as_dict() for row in rows]})
    else:
        print_costs(rows)


@app.command("degradations", cls=Command)
def degradations(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="Clean photo; the centre is used.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Image to write.", show_default="PHOTO-degradations.png"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**31 - 1, help="Random seed.")] = 0,
    size: Annotated[int, typer.Option(metavar="N", min=16, max=1024, help="Use N x N pixels of the photo.")] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Draw a contact sheet of all degradations.

    Each is shown at several severities with its PSNR. Needs the `eval` extra.
    """
    target = output or photo.with_name(f"{photo.stem}-degradations.png")

    from kbnet.cli._sheet import degradation_panels, draw
    from kbnet.imaging import Photo, read_photo, write_photo

    _refuse_existing(target, overwrite)
    sheet = draw(degradation_panels(read_photo(photo), seed=seed, size=size))
    write_photo(Photo(sheet), target, overwrite=overwrite)
    typer.echo(f"contact sheet: {one_line(str(target))}", err=True)


def _refuse_existing(target: Path, overwrite: bool) -> None:
    from kbnet.errors import OutputExistsError

    if target.exists() and not overwrite:
        raise OutputExistsError(f"{one_line(str(target))}: the file exists; choose another name or add --overwrite")
