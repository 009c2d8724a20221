"""A model package for darktable's neural restore module (5.6 and later).

The layout follows darktable's `src/ai/README.md` and the packages of its repository darktable-ai: a zip archive named
`ID.dtmodel` that contains `ID/config.json` and `ID/model.onnx`. The graph maps `input` to `output`, float32
[1,3,768,768] of sRGB values in [0,1]; darktable cuts tiles of that size, which overlap by 64 pixels.
"""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.errors import InvalidInputError
from kbnet.export.parity import compare
from kbnet.export.saving import saving
from kbnet.export.write import export_model
from kbnet.inference.runners.graphs import GraphFacts
from kbnet.nn import Network

SIDE = 768
"""Side of darktable's tiles in pixels."""

SUFFIX = ".dtmodel"

_NAMES = {"image": "input", "restored": "output"}


def export_darktable(network: Network, path: Path, facts: GraphFacts, *, overwrite: bool = False) -> float:
    """Write a package for darktable, and return the largest difference from PyTorch for values in [0,1].

    Args:
        network: a denoiser of three channels.
        path: path of the file to write, ending in .dtmodel.
        facts: facts of a graph with `tile` = `SIDE`, float32, without a shared context.
        overwrite: whether to replace an existing file.

    Raises:
        InvalidInputError: the file name, the network or the facts don't suit darktable.
        ExportError, MissingExtraError, OutputExistsError, OutputError: as in `kbnet.export.export_model`.
    """
    _check(network, path, facts)
    files.check(path, overwrite=overwrite)
    with files.workspace(path) as folder:
        graph, package = folder / "model.onnx", folder / path.name
        export_model(network, graph, facts)
        _rename(graph)
        difference = compare(network, facts, _runner(graph))
        config = manifest(facts)
        with saving(package), zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{config['id']}/config.json", json.dumps(config, indent=2) + "\n")
            archive.write(graph, f"{config['id']}/model.onnx")
        files.place(package, path, overwrite=overwrite)
    return difference


def manifest(facts: GraphFacts) -> dict[str, Any]:
    """Return the contents of config.json: the fields that darktable reads, and the licence.

    An ID starts with its task and contains lowercase letters, digits and hyphens; darktable replaces a package of the
    same ID.
    """
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in facts.name.lower()).strip("-")
    return {
        "id": f"denoise-{name.removesuffix('-denoise') or 'kbnet'}",
        "name": f"denoise {facts.name or 'kbnet'}",
        "description": "Kernel Basis Network denoiser (arXiv 2303.02881)",
        "task": "denoise",
        "arch": "kbnet",
        "backend": "onnx",
        "version": "1.0",
        "tiling": True,
        "attributes": {"input_sizes": [SIDE]},
        "license": facts.license,
        "kbnet_version": facts.kbnet_version,
        "weights_sha256": facts.weights_sha256,
    }


def _check(network: Network, path: Path, facts: GraphFacts) -> None:
    if path.suffix.lower() != SUFFIX:
        raise InvalidInputError(f"expected a name ending in {SUFFIX} for darktable, got {path}")
    if facts.task and not facts.task.startswith("denoise"):
        raise InvalidInputError(f"darktable only supports denoising models, got one for {facts.task}")
    if network.config.channels != 3:
        raise InvalidInputError(f"darktable needs a model for colour, got one with {network.config.channels} channel")
    if replace(facts, tile=SIDE, uint8=False, pooled=False, dtype="float32") != facts:
        raise InvalidInputError(f"darktable needs float32 tiles of {SIDE} x {SIDE} pixels without a shared context")


def _rename(graph: Path) -> None:
    """Give the graph's input and output darktable's names."""
    import onnx

    model = onnx.load(str(graph))
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = _NAMES.get(name, name)
    for value in (*model.graph.input, *model.graph.output):
        value.name = _NAMES[value.name]
    onnx.checker.check_model(model)
    with saving(graph):
        onnx.save_model(model, str(graph))


def _runner(graph: Path) -> Any:
    from kbnet.inference.runners.runtimes import run_onnx

    _, run = run_onnx(graph)
    return lambda arrays: run({_NAMES[name]: array for name, array in arrays.items()})
