"""`kbnet convert`: between the authors' checkpoints and kbnet's weights files."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kbnet.nn import Network


class Layout(StrEnum):
    """Layout of the authors' file: where its tensors are."""

    NET = "net"
    MODEL = "model"
    PARAMS = "params"


class StoredDtype(StrEnum):
    """Data type of the weights in a .safetensors file."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="IN", help="The authors' .pth file, a .safetensors file, or a model name."),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="File to write: .safetensors, or .pth for the authors' code.")
    ],
    layout: Annotated[
        Layout | None,
        typer.Option(help="Layout of a .pth file.", show_default="the authors' layout for this network"),
    ] = None,
    dtype: Annotated[
        StoredDtype | None,
        typer.Option(
            help="Data type of the stored weights; float16 halves the file size.", show_default="as in the input"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Convert weights between the authors' .pth and .safetensors.

    The extension of OUT sets the direction. A .safetensors file also contains the network's settings. No code in a
    .pth file is executed.
    """
    ending = target.suffix.lower()
    if ending not in (".safetensors", ".pth"):
        raise typer.BadParameter(f"expected a file name ending in .safetensors or .pth, got {target}", param_hint="OUT")
    if ending == ".safetensors" and layout is not None:
        raise typer.BadParameter("applies only to .pth files; leave it out", param_hint="'--layout'")

    if ending == ".pth" and dtype is not None:
        raise typer.BadParameter("applies only to .safetensors files; leave it out", param_hint="'--dtype'")

    from kbnet.models import resolve
    from kbnet.models.usage import usage_of
    from kbnet.needs_torch import torch
    from kbnet.nn import count_parameters, load_file, save_file, save_official

    network = load_file(resolve(source))
    if ending == ".safetensors":
        stored = None if dtype is None else getattr(torch, dtype.value)
        save_file(network, target, usage=usage_of(source), overwrite=overwrite, dtype=stored)
    else:
        save_official(network, target, (layout or _usual_layout(network)).value, overwrite=overwrite)
    typer.echo(f"{source} → {target}  {network.family}, {count_parameters(network):,} parameters", err=True)


def _usual_layout(network: "Network") -> Layout:
    """The layout that the authors' test scripts expect, for Gaussian noise, real noise and KBNet-L's tasks."""
    if network.family == "kbnet-l":
        return Layout.PARAMS
    return Layout.MODEL if getattr(network.config, "lightweight", False) else Layout.NET
