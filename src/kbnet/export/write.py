"""Writes exported files. Each is first compared with PyTorch on several sizes, and then appears atomically."""

import contextlib
import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from kbnet import __version__, files
from kbnet.errors import InvalidInputError, MissingExtraError
from kbnet.export.parity import compare
from kbnet.export.saving import saving
from kbnet.export.traced import BASES_AT_ONCE
from kbnet.inference.runners.graphs import PREFIX, GraphFacts, Run
from kbnet.models import matching_presets
from kbnet.models.description import describe_network
from kbnet.nn import Network
from kbnet.nn.conformity import departure

if TYPE_CHECKING:
    from kbnet.export.quantising import Quality

Format = Literal["onnx", "openvino", "torch-export"]
_LONGEST = 2**16  # largest side of an OpenVINO uint8 graph in pixels

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
    """Collect the facts of a graph to export from this network; see `GraphFacts`."""
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
    """Export a network, and return the largest difference from PyTorch for values in [0,1].

    The network itself doesn't change: this exports a float32 copy on the CPU.

    Args:
        network: the network.
        path: path of the file to write; its suffix must match `format`.
        facts: options of the graph, from `graph_facts`.
        format: "onnx", "openvino" or "torch-export".
        overwrite: whether to replace an existing file.

    Raises:
        InvalidInputError: options contradict each other, the format is unknown, or the network isn't exactly what its
            settings describe: it has hooks, or wrapped, replaced or patched layers. (A torch.export program supports
            such layers, because it is traced.)
        ExportError: the graph's outputs differ from PyTorch's by more than 1e-4; nothing is written.
        MissingExtraError: a package of the `export` extra isn't installed.
        OutputExistsError: the file exists and `overwrite` is false.
        OutputError: the file can't be written.
    """
    if format not in ENDINGS:
        raise InvalidInputError(f"expected a format ({', '.join(ENDINGS)}), got {format!r}")
    if facts.dtype != "float32" and format != "torch-export":
        raise InvalidInputError(
            f"{format} files hold float32: ONNX Runtime has no bfloat16 kernels, and for OpenVINO you choose it at run "
            "time (kbnet restore --dtype bfloat16)"
        )
    if format != "torch-export":
        _refuse_unknown(network)
    write = {"onnx": _write_onnx, "openvino": _write_openvino, "torch-export": _write_torch}[format]
    with _appearing(path, format, overwrite=overwrite) as target:
        network = _copied(network)
        call, facts = write(network, target, facts)
        return compare(network, facts, call)


def export_int8(
    network: Network, path: Path, facts: GraphFacts, photographs: Path, *, overwrite: bool = False
) -> "Quality":
    """Export an OpenVINO graph with 8-bit convolutions, and return its quality on photos.

    Args:
        network: the network.
        path: path of the file to write, ending in .xml.
        facts: facts of a float32 graph without a shared context.
        photographs: folder of at least eight clean photos, or of pairs in `input` and `target`.
        overwrite: whether to replace an existing file.

    Raises:
        InvalidInputError: the options don't fit, the photos are unsuitable (see `quantising.Photographs`), or the
            network isn't exactly what its settings describe.
        ExportError: the float graph differs from PyTorch, or 8 bits cost more than 0.1 dB; nothing is written.
        MissingExtraError, OutputExistsError, OutputError: as in `export_model`; the extra is `int8`.
    """
    from kbnet.export.quantising import Photographs, check, quantised

    if facts.pooled or facts.dtype != "float32":
        raise InvalidInputError("8-bit graphs need float32 and no shared context; drop --context")
    _refuse_unknown(network)
    with _appearing(path, "openvino", overwrite=overwrite) as target:
        data = Photographs(photographs, facts)
        network = _copied(network)
        full, facts = _write_openvino(network, target, facts)
        compare(network, facts, full)

        import openvino

        from kbnet.inference.runners.runtimes import run_openvino

        model = quantised(openvino.Core().read_model(str(target)), data)
        small = target.with_name(f"int8-{target.name}")
        _save_openvino(model, small, replace(facts, dtype="int8"))
        quality = data.judge(full, run_openvino(small)[1])
        check(quality)
        for suffix in (".bin", ".xml"):
            files.place(small.with_suffix(suffix), target.with_suffix(suffix), overwrite=True)
    return quality


def _refuse_unknown(network: Network) -> None:
    if reason := departure(network, describe_network(network.config)):
        raise InvalidInputError(
            f"graphs support only unmodified layers, but {reason}; merge adapters into the weights, remove hooks and "
            "wrappers, or export with --format torch-export, which traces the network"
        )


def _copied(network: Network) -> Network:
    """Copy the network to export, so that the caller's doesn't change."""
    return copy.deepcopy(network).to(torch.device("cpu"), torch.float32).eval()


@contextlib.contextmanager
def _appearing(path: Path, format: Format, *, overwrite: bool) -> Iterator[Path]:
    """Provide a temporary path for the file; on success it is moved to `path`, otherwise it is removed."""
    if path.suffix.lower() != ENDINGS[format]:
        raise InvalidInputError(f"expected a name ending in {ENDINGS[format]} for {format}, got {path}")
    targets = [path] if format != "openvino" else [path.with_suffix(".bin"), path]
    for target in targets:
        files.check(target, overwrite=overwrite)
    with files.workspace(path) as folder:
        yield folder / path.name  # under its final name, which an .xml file may contain
        if format == "openvino":
            _place_pair(folder, path, overwrite=overwrite)
        else:
            files.place(folder / path.name, path, overwrite=overwrite)


def _place_pair(folder: Path, path: Path, *, overwrite: bool) -> None:
    """Put an .xml and its .bin in place so that no reader sees one beside the other of another export.

    An .xml that is replaced goes first and the new one comes last. In between, also after a kill, there is no model.
    """
    weights = path.with_suffix(".bin")
    before = path.read_bytes() if overwrite and path.is_file() else None
    if before is not None:
        files.discard(path)
    try:
        files.place(folder / weights.name, weights, overwrite=overwrite)
    except BaseException:
        if before is not None:
            files.write(before, path)  # the .bin beside it is still its own
        raise
    try:
        files.place(folder / path.name, path, overwrite=overwrite)
    except BaseException:
        if not overwrite:  # a file has appeared under this name: half of a pair is of no use
            weights.unlink(missing_ok=True)
        raise


def _write_onnx(network: Network, path: Path, facts: GraphFacts) -> tuple[Run, GraphFacts]:
    from kbnet.inference.runners.runtimes import run_onnx

    facts = _save_onnx(network, path, facts)
    _, run = run_onnx(path)
    return run, facts


def _save_onnx(
    network: Network,
    path: Path,
    facts: GraphFacts,
    *,
    optional: bool = True,
    at_once: int = BASES_AT_ONCE,
    target: Path | None = None,
) -> GraphFacts:
    try:
        import onnx

        from kbnet.export.network import onnx_graph
    except ModuleNotFoundError as error:
        if (error.name or "kbnet").partition(".")[0] == "kbnet":
            raise
        raise MissingExtraError(str(error.name), "export") from None

    model, facts = onnx_graph(network, facts, optional=optional, at_once=at_once)
    with saving(target or path):
        onnx.save_model(model, str(path))
    return facts


def _write_openvino(network: Network, path: Path, facts: GraphFacts) -> tuple[Run, GraphFacts]:
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtraError("openvino", "export") from None
    from kbnet.inference.runners.runtimes import run_openvino

    source = path.with_suffix(".onnx")
    facts = _save_onnx(network, source, facts, optional=False, at_once=1, target=path)
    model = openvino.Core().read_model(str(source))
    if facts.uint8:
        # Without bounds, the plugin's size computations overflow for dynamic sides.
        side = openvino.Dimension(1, _LONGEST)
        sides = [openvino.Dimension(facts.tile)] * 2 if facts.tile else [side, side]
        model.reshape({"image": openvino.PartialShape([*sides, openvino.Dimension(network.config.channels)])})
    _save_openvino(model, path, facts)
    source.unlink()
    _, run = run_openvino(path)
    return run, facts


def _save_openvino(model: Any, path: Path, facts: GraphFacts) -> None:
    import openvino

    model.set_rt_info(json.dumps(facts.to_strings()), PREFIX.rstrip("."))
    with saving(path):
        openvino.save_model(model, str(path), compress_to_fp16=False)


def _write_torch(network: Network, path: Path, facts: GraphFacts) -> tuple[Run, GraphFacts]:
    from kbnet.export.traced import save_traced

    return save_traced(network, path, facts), facts
