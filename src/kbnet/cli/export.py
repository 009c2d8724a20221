"""`kbnet export`: writes a model for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class FormatChoice(StrEnum):
    """File format."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH_EXPORT = "torch-export"


class ProgramChoice(StrEnum):
    """Program that the file is for."""

    DARKTABLE = "darktable"


class DtypeChoice(StrEnum):
    """Data type of the computation."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model or task name, or weights file.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="File to write: .onnx, .xml (OpenVINO), .pt2 or .dtmodel."),
    ],
    format: Annotated[
        FormatChoice | None,
        typer.Option(
            help="ONNX, OpenVINO (.xml and .bin), or a torch.export program.", show_default="by the extension of FILE"
        ),
    ] = None,
    program: Annotated[
        ProgramChoice | None,
        typer.Option(
            "--for",
            metavar="PROGRAM",
            help="Write a package for a program: darktable (5.6 or later; only for denoisers).",
            show_default="darktable if FILE ends in .dtmodel",
        ),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Accept any height and width. This is the default without --tile.")
    ] = False,
    tile: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Accept only N x N pixels, for runtimes that need a fixed size."),
    ] = 0,
    context: Annotated[
        bool,
        typer.Option(
            "--context",
            help="Make averages over the whole image optional inputs and outputs, so that tiles join without seams.",
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
            help="Folder of at least eight photos for int8: clean photos, which kbnet degrades to suit the task, or "
            "pairs in DIR/input and DIR/target. Every fourth one tests the result; a loss above 0.1 dB is refused.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Export a model to ONNX, OpenVINO, torch.export or darktable.

    The graph uses standard operators and contains facts about the model as metadata. Before writing, kbnet compares it
    with PyTorch at several sizes and refuses differences above 1e-4. `kbnet restore --model FILE` runs .onnx and .xml
    files. Needs the `export` extra.
    """
    if dynamic and tile:
        raise typer.BadParameter("conflicts with --dynamic; leave one of them out", param_hint="'--tile'")
    packaged = program is ProgramChoice.DARKTABLE or (format is None and output.suffix.lower() == ".dtmodel")
    if packaged:
        given = {"--format": format, "--dynamic": dynamic, "--tile": tile, "--context": context, "--uint8": uint8}
        _refuse(given | {"--dtype": dtype is not DtypeChoice.FLOAT32, "--calibrate": calibrate})
    chosen = "darktable" if packaged else format.value if format else _format_of(output)
    small = dtype is DtypeChoice.INT8
    if small and chosen != "openvino":
        raise typer.BadParameter(
            f"int8 needs OpenVINO, got {chosen}; use a file name ending in .xml", param_hint="'--dtype'"
        )
    if small != (calibrate is not None):
        raise typer.BadParameter(
            "--dtype int8 and --calibrate need each other; add the other or leave out both", param_hint="'--dtype'"
        )

    import hashlib

    from kbnet.export import darktable, export_darktable, export_int8, export_model, graph_facts
    from kbnet.models import find, resolve
    from kbnet.models.usage import usage_of
    from kbnet.nn import load_file

    path, entry, usage = resolve(model), find(model), usage_of(model)
    network = load_file(path)
    if window is None:
        local = usage is not None and usage.context == "local" and not context
        window = usage.window if usage is not None and local and chosen != "torch-export" else 0
    facts = graph_facts(
        network,
        name=entry.name if entry else path.stem,
        task=usage.task if usage else "",
        license=entry.license if entry else "",
        weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        window=window,
        pooled=context,
        tile=darktable.SIDE if packaged else tile,
        uint8=uint8,
        dtype="float32" if small else dtype.value,
    )
    if calibrate is not None:
        quality = export_int8(network, output, facts, calibrate, overwrite=overwrite)
        judged = (
            f"{quality.quantised:.2f} dB in 8 bits, {quality.full:.2f} dB in float32, {quality.degraded:.2f} dB before "
            f"({quality.crops} crops held out from calibration)"
        )
    elif packaged:
        judged = f"differs from PyTorch by at most {export_darktable(network, output, facts, overwrite=overwrite):.1g}"
    else:
        difference = export_model(network, output, facts, format=chosen, overwrite=overwrite)  # type: ignore[arg-type]  # one of the three
        judged = f"differs from PyTorch by at most {difference:.1g}"
    averages = (
        "shared by tiles" if context else f"over a window of {window} pixels" if window else "over the whole input"
    )
    size = f"{facts.tile} x {facts.tile} pixels" if facts.tile else "any size"
    typer.echo(
        f"{model} → {output}  {chosen}, {size}, averages {averages}; {judged}",
        err=True,
    )
    if not (context or window):
        cure = "--window 128" if packaged else "--context"
        typer.echo(
            "kbnet: note: this graph averages over each tile separately, so large photos can show seams; to avoid "
            f"them, add {cure}",
            err=True,
        )


def _refuse(given: dict[str, object]) -> None:
    """Refuse options that a program's package decides by itself."""
    for option, value in given.items():
        if value:
            raise typer.BadParameter("conflicts with a package for darktable", param_hint=f"'{option}'")


def _format_of(output: Path) -> str:
    formats = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch-export"}
    if output.suffix.lower() not in formats:
        raise typer.BadParameter(
            f"expected a file name ending in {', '.join(formats)}, .dtmodel, or --format; got {output}",
            param_hint="'--output'",
        )
    return formats[output.suffix.lower()]
