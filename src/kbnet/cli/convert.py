"""`kbnet convert`: the authors' checkpoints to our weights files, and back."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kbnet.models import Network


class Layout(StrEnum):
    """Where the authors' file keeps its tensors."""

    NET = "net"
    MODEL = "model"
    PARAMS = "params"


class StoredDtype(StrEnum):
    """Of the weights in a .safetensors."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="IN", help="A .pth file of the authors, a .safetensors file, or the name of a model."),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="File to write: .safetensors, or .pth for the authors' code.")
    ],
    layout: Annotated[
        Layout | None,
        typer.Option(help="Layout of a .pth file.", show_default="the one the authors use for this network"),
    ] = None,
    dtype: Annotated[
        StoredDtype | None,
        typer.Option(help="Of the stored weights; float16 halves the file.", show_default="as in the input"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Convert weights between the authors' .pth and .safetensors.

    The extension of OUT sets the direction. A .safetensors file also holds the network's settings. Nothing inside a
    .pth file is executed.
    """
    ending = target.suffix.lower()
    if ending not in (".safetensors", ".pth"):
        raise typer.BadParameter(f"expected a name ending in .safetensors or .pth, got {target}", param_hint="OUT")
    if ending == ".safetensors" and layout is not None:
        raise typer.BadParameter("only a .pth has a layout", param_hint="'--layout'")

    if ending == ".pth" and dtype is not None:
        raise typer.BadParameter("a .pth keeps the network's own", param_hint="'--dtype'")

    import torch

    from kbnet.models import count_parameters, load_file, resolve, save_file, save_official

    network = load_file(resolve(source))
    if ending == ".safetensors":
        save_file(network, target, overwrite=overwrite, dtype=None if dtype is None else getattr(torch, dtype.value))
    else:
        save_official(network, target, (layout or _usual_layout(network)).value, overwrite=overwrite)
    typer.echo(f"{source} → {target}  {network.family}, {count_parameters(network):,} parameters", err=True)


def _usual_layout(network: "Network") -> Layout:
    """As the authors' test scripts expect: Gaussian noise, real noise, and the tasks of KBNet-L."""
    if network.family == "kbnet-l":
        return Layout.PARAMS
    return Layout.MODEL if getattr(network.config, "lightweight", False) else Layout.NET
