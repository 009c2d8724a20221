"""`kbnet inspect`: pictures of what happens inside, one subcommand each."""

from pathlib import Path
from typing import Annotated

import typer

from kbnet.cli._terminal import one_line, print_json

app = typer.Typer(
    help="Look inside: a network at work, what networks cost, what training makes of a photo.", rich_markup_mode=None
)


@app.command("model")
def model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped model, a task, or a weights file.")],
    photo: Annotated[Path, typer.Argument(metavar="IMAGE", help="A photo that the network is to restore.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default="IMAGE-NAME-BLOCK.png, beside it"),
    ] = None,
    block: Annotated[
        str | None,
        typer.Option(help="Which block, as encoder.0.0; a wrong name lists them.", show_default="the last one"),
    ] = None,
    pixel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y",
            help="A pixel whose kernel is drawn, from the left and from the top; up to six times.",
            show_default="one on an edge, one in a flat area, one in a texture",
        ),
    ] = None,
    group: Annotated[
        int | None,
        typer.Option(min=0, help="Group of channels that is drawn.", show_default="where kernels differ most"),
    ] = None,
    size: Annotated[
        int, typer.Option(min=32, max=2048, help="Pixels of the photo looked at, each way: its middle, or at X,Y.")
    ] = 384,
    context: Annotated[
        str | None,
        typer.Option(help="Averages over the image: global or local.", show_default="the model's own"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Draw a block of a network at work: its bases, coefficients, kernels and branches. Needs the `eval` extra."""
    from kbnet.cli._inspection import Subject
    from kbnet.imaging import Photo, write_photo

    subject = Subject.load(name, photo, block=block, pixels=pixel or [], size=size, context=context)
    target = output or photo.with_name(f"{photo.stem}-{subject.name}-{subject.block}.png")
    _refuse_existing(target, overwrite)
    write_photo(Photo(subject.draw(group)), target, overwrite=overwrite)
    typer.echo(f"figure: {one_line(str(target))}", err=True)


@app.command("cost")
def cost(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NETWORK]...", help="Presets, or peers by their names.", show_default="all"),
    ] = None,
    size: Annotated[str, typer.Option(metavar="WxH", help="Of the image; multiples of 16.")] = "256x256",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Count parameters, multiply-adds and memory of networks, those of other papers too; nothing is computed.

    Multiply-adds (MACs) are counted whole: convolutions, kernel basis attention (KBA), and the products of transposed
    attention. Published figures of KBNet and Restormer are those of the convolutions alone. Peers are laid out from
    their papers' descriptions. Memory is that of float32 tensors computed layer by layer; "stored kernels" is what
    the authors' way of computing KBA takes, "training" what a forward pass keeps for the backward pass.
    """
    from kbnet.cli._costs import parse_size, print_costs
    from kbnet.evaluation.costs import network_costs

    width, height = parse_size(size)
    rows = network_costs(names or (), height, width)
    if as_json:
        print_json({"networks": [row.as_dict() for row in rows]})
    else:
        print_costs(rows)


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
    from kbnet.imaging import Photo, read_photo, write_photo

    _refuse_existing(target, overwrite)
    sheet = draw(degradation_panels(read_photo(photo), seed=seed, size=size))
    write_photo(Photo(sheet), target, overwrite=overwrite)
    typer.echo(f"contact sheet: {one_line(str(target))}", err=True)


def _refuse_existing(target: Path, overwrite: bool) -> None:
    from kbnet.errors import OutputExistsError

    if target.exists() and not overwrite:
        raise OutputExistsError(f"{one_line(str(target))}: the file exists; choose another name or give --overwrite")
