"""ONNX Runtime and OpenVINO; each is imported when a file for it is opened."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from kbnet.engine.threads import default_threads
from kbnet.errors import CheckpointError, InvalidInputError, MissingExtraError
from kbnet.inference.identity import digest
from kbnet.inference.runners.graphs import PREFIX, SUFFIXES, Arrays, ExportedNetwork, GraphFacts, Run

_VALUES = {
    "onnxruntime": {"kbnet-s": 27, "kbnet-l": 106},
    "openvino": {"kbnet-s": 38, "kbnet-l": 142},
}
"""float32 values per pixel and per channel of the first level at the peak of a forward pass, plus a margin of 10%.

benchmarks/export.py measures them; the weights that OpenVINO packs on its first call are not included.
"""


def is_exported(path: str | Path) -> bool:
    """Whether the file name is that of an exported graph: .onnx, or OpenVINO's .xml."""
    return Path(path).suffix.lower() in SUFFIXES


def open_exported(path: str | Path, *, dtype: str = "float32") -> ExportedNetwork:
    """Open a graph that `kbnet export` wrote, to run on the CPU with `default_threads()`.

    Args:
        path: an .onnx file, or an .xml with its .bin beside it.
        dtype: float32, or bfloat16 with OpenVINO, which uses it if the processor supports it.

    Raises:
        MissingExtraError: the runtime is not installed.
        CheckpointError: the file does not exist, is damaged, or was not written by kbnet.
        InvalidInputError: the runtime does not support the dtype.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"expected an exported model, found no file {path}")
    if path.suffix.lower() == ".onnx":
        if dtype != "float32":
            raise InvalidInputError(
                "ONNX Runtime runs these networks only in float32; for bfloat16, use an OpenVINO graph"
            )
        facts, run = run_onnx(path)
        runtime = "onnxruntime"
    else:
        facts, run = run_openvino(path, dtype)
        runtime = "openvino"
    values = _VALUES[runtime][facts.family] * facts.config().width
    parts = [path, path.with_suffix(".bin")] if runtime == "openvino" else [path]
    whole = " ".join(digest(part) for part in parts)
    return ExportedNetwork(
        facts,
        run,
        bytes_per_pixel=4 * values,
        runtime=runtime,
        version=metadata.version(runtime),
        digest=whole,
        dtype=dtype,
    )


def run_onnx(path: Path) -> tuple[GraphFacts, Run]:
    """The metadata of an ONNX file, and a function that runs it; raises the same errors as `open_exported`."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise MissingExtraError("onnxruntime", "runtimes") from None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = default_threads()
    options.log_severity_level = 3  # its warnings are about internal optimisations
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base class
        raise _damaged(path, error) from error
    facts = GraphFacts.from_strings(session.get_modelmeta().custom_metadata_map, str(path))

    def run(inputs: Arrays) -> list[Any]:
        return list(session.run(None, inputs))

    return facts, run


def run_openvino(path: Path, dtype: str = "float32") -> tuple[GraphFacts, Run]:
    """The metadata of an OpenVINO file, and a function that runs it; raises the same errors as `open_exported`."""
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtraError("openvino", "runtimes") from None

    core = openvino.Core()
    # By default OpenVINO computes in bfloat16 on processors that support it, whatever the graph says.
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": default_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        model = core.read_model(str(path))
        strings = _rt_info(model)
        facts = GraphFacts.from_strings(strings, str(path))
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise _damaged(path, error) from error

    def run(inputs: Arrays) -> list[Any]:
        # a separate request for each call, since several threads may call
        results = compiled.create_infer_request().infer(inputs)
        return [results[output] for output in compiled.outputs]

    return facts, run


def _rt_info(model: Any) -> dict[str, str]:
    # One JSON text: OpenVINO treats names with dots as paths.
    try:
        text = model.get_rt_info(PREFIX.rstrip(".")).astype(str)
        found = json.loads(text)
    except (RuntimeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _damaged(path: Path, error: Exception) -> CheckpointError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return CheckpointError(f"{path} can't be opened: {''.join(c if c.isprintable() else '?' for c in line)}")
