"""Writing exported files: each is compared with PyTorch on several sizes first, and appears whole or not at all."""

import json
import secrets
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch

from kbnet import __version__
from kbnet.errors import InvalidInputError, MissingExtraError, OutputError, OutputExistsError
from kbnet.export.parity import compare
from kbnet.inference.exported import PREFIX, GraphFacts, Run
from kbnet.models import Network, matching_presets

Format = Literal["onnx", "openvino", "torch-export"]
_LONGEST = 2**16  # pixels a side, of an OpenVINO graph of uint8

ENDINGS: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}


def graph_facts(
    network: Network,
    *,
    name: str = "",
    task: str = "",
    license: str = "",
    weights_sha256: str = "",
    window: int = 0,
    pooled: bool = False,
    tile: int = 0,
    uint8: bool = False,
    dtype: str = "float32",
) -> GraphFacts:
    """Facts of a graph to be made of this network; see `GraphFacts`."""
    return GraphFacts(
        family=network.family,
        settings=json.dumps(asdict(network.config)),
        name=name,
        preset=(matching_presets(network.config) or [""])[0],
        task=task,
        license=license,
        weights_sha256=weights_sha256,
        window=window,
        pooled=pooled,
        tile=tile,
        uint8=uint8,
        dtype=dtype,
        kbnet_version=__version__,
    )


def export_model(
    network: Network, path: Path, facts: GraphFacts, *, format: Format = "onnx", overwrite: bool = False
) -> float:
    """Write a graph of the network, and return its largest difference from PyTorch on values in [0,1].

    Raises:
        InvalidInputError: facts that contradict each other, or an unknown format.
        ExportError: the graph's results differ from PyTorch's by more than 1e-4; nothing is written.
        MissingExtraError: a package of the `export` extra is not installed.
        OutputExistsError: a file is there and `overwrite` is not set.
        OutputError: it cannot be written.
    """
    if format not in ENDINGS:
        raise InvalidInputError(f"expected a format among {', '.join(ENDINGS)}, got {format!r}")
    if path.suffix.lower() != ENDINGS[format]:
        raise InvalidInputError(f"expected a name ending in {ENDINGS[format]} for {format}, got {path}")
    targets = [path] if format != "openvino" else [path.with_suffix(".bin"), path]
    for target in targets:
        if target.exists() and not overwrite:
            raise OutputExistsError(f"{target} is there already; give another name, or --overwrite")
    if facts.dtype != "float32" and format != "torch-export":
        raise InvalidInputError(
            f"{format} files hold float32: ONNX Runtime has no bfloat16 kernels, and OpenVINO is told at run time to "
            "compute in it (kbnet restore --dtype bfloat16)"
        )
    write = {"onnx": _write_onnx, "openvino": _write_openvino, "torch-export": _write_torch}[format]
    network = network.to(torch.device("cpu"), torch.float32).eval()
    # In the same folder, since a rename does not cross file systems; under its own name, which an .xml may refer to.
    folder = path.parent / f".kbnet-{secrets.token_hex(8)}.part"
    try:
        folder.mkdir()
        call, facts = write(network, folder / path.name, facts)
        difference = compare(network, facts, call)
        for target in targets:
            (folder / target.name).replace(target)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return difference


def _write_onnx(network: Network, path: Path, facts: GraphFacts) -> tuple[Run, GraphFacts]:
    from kbnet.inference.runtimes import run_onnx

    facts = _save_onnx(network, path, facts)
    _, run = run_onnx(path)
    return run, facts


def _save_onnx(network: Network, path: Path, facts: GraphFacts, *, optional: bool = True) -> GraphFacts:
    try:
        import onnx

        from kbnet.export.network import onnx_graph
    except ModuleNotFoundError as error:
        if (error.name or "kbnet").partition(".")[0] == "kbnet":
            raise
        raise MissingExtraError(str(error.name), "export") from None

    model, facts = onnx_graph(network, facts, optional=optional)
    onnx.save_model(model, str(path))
    return facts


def _write_openvino(network: Network, path: Path, facts: GraphFacts) -> tuple[Run, GraphFacts]:
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtraError("openvino", "export") from None
    from kbnet.inference.runtimes import run_openvino

    source = path.with_suffix(".onnx")
    facts = _save_onnx(network, source, facts, optional=False)
    model = openvino.Core().read_model(str(source))
    if facts.uint8:
        # without bounds its plugin multiplies unknown sides beyond its integers
        side = openvino.Dimension(1, _LONGEST)
        sides = [openvino.Dimension(facts.tile)] * 2 if facts.tile else [side, side]
        model.reshape({"image": openvino.PartialShape([*sides, openvino.Dimension(network.config.channels)])})
    model.set_rt_info(json.dumps(facts.to_strings()), PREFIX.rstrip("."))
    openvino.save_model(model, str(path), compress_to_fp16=False)
    source.unlink()
    _, run = run_openvino(path)
    return run, facts


def _write_torch(network: Network, path: Path, facts: GraphFacts) -> tuple[Run, GraphFacts]:
    from kbnet.export.traced import save_traced

    return save_traced(network, path, facts), facts
