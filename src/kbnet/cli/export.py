"""`kbnet export`: a network as a file for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class FormatChoice(StrEnum):
    """What is written."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH_EXPORT = "torch-export"


class DtypeChoice(StrEnum):
    """What the file computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model or task, or a weights file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File to write: .onnx, .xml (OpenVINO) or .pt2.")
    ],
    format: Annotated[
        FormatChoice | None,
        typer.Option(
            help="ONNX, OpenVINO (.xml and .bin), or a torch.export program.", show_default="from the name of FILE"
        ),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Accept any height and width; the default without --tile.")
    ] = False,
    tile: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Accept images of N x N pixels only, for runtimes that need a fixed size."
        ),
    ] = 0,
    context: Annotated[
        bool,
        typer.Option(
            "--context",
            help="Make averages over the whole picture optional inputs and outputs, so that tiles fit together.",
        ),
    ] = False,
    window: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Average over a window of N pixels around each pixel; 0 averages over the whole input.",
            show_default="the model's; 0 with --context",
        ),
    ] = None,
    uint8: Annotated[
        bool,
        typer.Option("--uint8", help="Use uint8 [H,W,C] for input and output; the graph scales, clips and rounds."),
    ] = False,
    dtype: Annotated[
        DtypeChoice,
        typer.Option(help="Data type; bfloat16 needs torch-export, int8 needs OpenVINO and --calibrate."),
    ] = DtypeChoice.FLOAT32,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="At least eight photos for int8: clean ones, which are degraded to suit the task, or pairs in "
            "DIR/input and DIR/target. Every fourth is kept for checking; a loss above 0.1 dB is refused.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Export a model to ONNX, OpenVINO or torch.export.

    The graph uses standard operators and holds facts about the model as metadata. It is first run at several sizes and
    compared with PyTorch; one that differs by more than 1e-4 is not written. `kbnet restore --model FILE` runs .onnx
    and .xml. Needs the `export` extra.
    """
    if dynamic and tile:
        raise typer.BadParameter("a graph takes any size or one: give --dynamic or --tile", param_hint="'--tile'")
    chosen = format.value if format else _format_of(output)
    small = dtype is DtypeChoice.INT8
    if small and chosen != "openvino":
        raise typer.BadParameter(f"graphs of 8 bits are OpenVINO's, got {chosen}: name an .xml", param_hint="'--dtype'")
    if small != (calibrate is not None):
        raise typer.BadParameter("int8 is calibrated: give both --dtype int8 and --calibrate", param_hint="'--dtype'")

    import hashlib

    from kbnet.export import export_int8, export_model, graph_facts
    from kbnet.models import find, load_file, resolve

    path, entry = resolve(model), find(model)
    network = load_file(path)
    if window is None:
        local = entry is not None and entry.context == "local" and not context
        window = entry.window if entry is not None and local and chosen != "torch-export" else 0
    facts = graph_facts(
        network,
        name=entry.name if entry else path.stem,
        task=entry.task if entry else "",
        license=entry.license if entry else "",
        weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        window=window,
        pooled=context,
        tile=tile,
        uint8=uint8,
        dtype="float32" if small else dtype.value,
    )
    if calibrate is not None:
        quality = export_int8(network, output, facts, calibrate, overwrite=overwrite)
        judged = (
            f"restores at {quality.quantised:.2f} dB in 8 bits and at {quality.full:.2f} dB in float32, from "
            f"{quality.degraded:.2f} dB ({quality.crops} crops that were not calibrated on)"
        )
    else:
        difference = export_model(network, output, facts, format=chosen, overwrite=overwrite)  # type: ignore[arg-type]  # one of the three
        judged = f"differs from PyTorch by at most {difference:.1g}"
    averages = (
        "shared by tiles" if context else f"over a window of {window} pixels" if window else "over the whole input"
    )
    size = f"{tile} x {tile} pixels" if tile else "any size"
    typer.echo(
        f"{model} → {output}  {chosen}, {size}, averages {averages}; {judged}",
        err=True,
    )
    if not (context or window):
        typer.echo(
            "kbnet: note: this graph averages over its own input, so only plain tiles are offered, with seams in large "
            "pictures; give --context for tiles that fit together",
            err=True,
        )


def _format_of(output: Path) -> str:
    formats = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch-export"}
    if output.suffix.lower() not in formats:
        raise typer.BadParameter(
            f"expected a name ending in {', '.join(formats)}, or a --format; got {output}", param_hint="'--output'"
        )
    return formats[output.suffix.lower()]
