"""Exported graphs: the operator's decompositions, then whole networks in PyTorch, ONNX Runtime and OpenVINO.

    python benchmarks/export.py --parts operator --name export-operator    # 4 minutes; 16 GB of memory
    python benchmarks/export.py --parts networks --name export-networks    # 3 minutes
    python benchmarks/export.py --quick --name try                         # tiny sizes, a minute: a test
    python benchmarks/export.py --parts int8 --photos FOLDER --name int8             # clean photos for calibration

Measures time and memory of the operator in six decompositions into standard operators. Networks are compared at three
sizes, including odd ones, and must not differ by more than 1e-4; then they are timed at one size. Writes
benchmarks/results/NAME.json. Weights are random except for the included denoiser, because times don't depend on them.
The part int8 compares OpenVINO's precisions on photos.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from facts import RESULTS, write
from kbnet import create_model, load_model
from kbnet.engine import contexts
from kbnet.export import export_int8, export_model, graph_facts
from kbnet.export.builder import Builder, float_value
from kbnet.export.layers import Layers, array
from kbnet.export.pooling import WholeInput
from kbnet.export.quantising import Photographs
from kbnet.inference.runners.graphs import ExportedNetwork
from kbnet.inference.runners.runtimes import open_exported, run_openvino
from kbnet.inference.tiles import reflect_pad
from kbnet.models import Network
from kbnet.nn import FullFrame, KernelBasisAttention, Local
from timing import agree, best, peak_bytes

# C, N, G, side: KBNet-S at its first and fourth level, KBNet-L, nano at its first and third
OPERATORS = ((64, 32, 4, 256), (512, 32, 4, 32), (72, 32, 2, 256), (16, 8, 4, 256), (64, 8, 4, 64))
NETWORKS = {"KBNet-S": "kbnet-s-gaussian-color", "KBNet-L": "kbnet-l-derain", "nano": "denoise"}
SIZES = ((64, 96), (101, 67), (255, 129))
TOLERANCE = 1e-4
RUNTIMES = {"onnx": ".onnx", "openvino": ".xml"}

Run = Callable[[], list[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and networks, as a test")
    parser.add_argument("--side", type=int, default=256, help="size of the timed images")
    parser.add_argument(
        "--parts", nargs="+", default=["operator", "networks"], choices=["operator", "networks", "int8"]
    )
    parser.add_argument("--photos", type=Path, help="folder of clean photos, for int8")
    parser.add_argument("--name", default="export", help="name of the results file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    options = parser.parse_args()
    if "int8" in options.parts and options.photos is None:
        parser.error("int8 needs --photos for calibration")
    results: dict[str, Any] = {"tolerance": TOLERANCE}
    with tempfile.TemporaryDirectory() as folder:
        if "operator" in options.parts:
            sizes = [(c, n, g, 32) for c, n, g, _ in OPERATORS[-2:]] if options.quick else OPERATORS
            results["operator"] = [row for size in sizes for row in operator(*size, folder=Path(folder))]
        if "networks" in options.parts:
            names = ["nano"] if options.quick else list(NETWORKS)
            side = 64 if options.quick else options.side
            results["networks"] = [network(name, side, Path(folder)) for name in names]
        if "int8" in options.parts:
            results["int8"] = int8(options.photos, options.side, Path(folder))
    print(write(options.name, results, options.results))


class Decompositions(Layers):
    """Writes the operator in each of the decompositions that were considered."""

    def mixed(self, x: str, a: str, kba: KernelBasisAttention) -> str:
        """The published formula: every pixel's kernel is mixed and stored, then applied to the unfolded features."""
        b, (group, size, _) = self.b, kba.taps
        n, c = kba.weight.shape[:2]
        groups, taps = c // group, size * size
        # outputs ordered (group, out, in and tap)
        mixing = array(kba.weight).reshape(n, c * group * taps).T[:, :, None, None]
        kernels = b.node(
            "Reshape", b.node("Conv", a, b.weight("mixing", mixing)), b.ints(0, groups, group, group * taps, -1)
        )
        unfolding = np.zeros((c * taps, 1, size, size), np.float32)
        for channel in range(c):
            for tap in range(taps):
                unfolding[channel * taps + tap, 0, tap // size, tap % size] = 1
        pads = [size // 2] * 4
        unfolded = b.node("Conv", x, b.weight("unfold", unfolding), kernel_shape=[size, size], pads=pads, group=c)
        unfolded = b.node("Reshape", unfolded, b.ints(0, groups, 1, group * taps, -1))
        y = b.node("ReduceSum", b.node("Mul", kernels, unfolded), b.ints(3), keepdims=0)
        y = b.node("Reshape", y, b.node("Shape", x))
        return b.node("Add", y, b.node("Conv", a, b.weight("bias", array(kba.bias).T[:, :, None, None])))

    def taps(self, x: str, a: str, kba: KernelBasisAttention) -> str:
        """One tap at a time: its part of the mixed kernels by a 1x1 convolution, times the shifted features."""
        b, (group, size, _) = self.b, kba.taps
        n, c = kba.weight.shape[:2]
        groups, pad = c // group, size // 2
        # [tap, (group, in, out), N]
        mixing = array(kba.weight).reshape(n, groups, group, group, size * size).transpose(4, 1, 3, 2, 0)
        padded = b.node("Pad", x, b.ints(0, 0, pad, pad, 0, 0, pad, pad), mode="constant")
        height, width = b.lengths(x)
        total = ""
        for tap in range(size * size):
            weight = b.weight(f"tap.{tap}", mixing[tap].reshape(c * group, n, 1, 1))
            kernels = b.node("Reshape", b.node("Conv", a, weight), b.ints(0, groups, group, group, -1))
            row, col = (b.ints(value) for value in divmod(tap, size))
            ends = b.node("Concat", b.node("Add", height, row), b.node("Add", width, col), axis=0)
            shifted = b.node("Slice", padded, b.node("Concat", row, col, axis=0), ends, b.ints(2, 3))
            part = b.node("Mul", kernels, b.node("Reshape", shifted, b.ints(0, groups, group, 1, -1)))
            total = b.node("Add", total, part) if total else part
        y = b.node("Reshape", b.node("ReduceSum", total, b.ints(2), keepdims=0), b.node("Shape", x))
        return b.node("Add", y, b.node("Conv", a, b.weight("bias", array(kba.bias).T[:, :, None, None])))


def operator(channels: int, bases: int, group: int, side: int, *, folder: Path) -> list[dict[str, Any]]:
    """Time and memory of the operator alone in every decomposition and runtime, and of PyTorch with kbnet's kernels."""
    torch.manual_seed(0)
    kba = KernelBasisAttention(channels, bases, group)
    x, a = torch.randn(1, channels, side, side), torch.randn(1, bases, side, side)
    with torch.inference_mode():
        expected = kba(x, a)
    writers = {
        "all bases at once": lambda w: Layers.kernel_basis_attention(_at_once(w, bases), "x", "a", kba, "kba"),
        "eight bases at a time": lambda w: Layers.kernel_basis_attention(_at_once(w, 8), "x", "a", kba, "kba"),
        "four bases at a time": lambda w: Layers.kernel_basis_attention(_at_once(w, 4), "x", "a", kba, "kba"),
        "one basis at a time": lambda w: Layers.kernel_basis_attention(_at_once(w, 1), "x", "a", kba, "kba"),
        "kernels mixed per pixel": lambda w: w.mixed("x", "a", kba),
        "one tap at a time": lambda w: w.taps("x", "a", kba),
    }
    if bases <= 8:
        del writers["eight bases at a time"]
    calls: dict[str, Run] = {}
    for what, writer in writers.items():
        b = Builder()
        b.nodes.append(onnx.helper.make_node("Identity", [writer(Decompositions(b, WholeInput(b)))], ["y"]))
        inputs = [float_value("x", [1, channels, "h", "w"]), float_value("a", [1, bases, "h", "w"])]
        model = b.model(inputs, [float_value("y", [1, channels, "h", "w"])], {}, "", {})
        for runtime, run in _plain_runs(model, folder).items():
            calls[f"{runtime}: {what}"] = lambda run=run: run({"x": x.numpy(), "a": a.numpy()})
    memory = {what: peak_bytes(call) for what, call in calls.items()}  # from first calls: runtimes don't release memory
    for what, call in calls.items():
        agree(f"{what}, {channels} channels", torch.from_numpy(np.array(call()[0])), expected, 1e-5)

    def native() -> list[Any]:
        with torch.inference_mode():
            return [kba(x, a)]

    seconds = best({"PyTorch, kbnet's kernels": native} | calls, repeats=3, seconds=20)
    rows = []
    for what, taken in seconds.items():
        row = {"channels": channels, "bases": bases, "group_channels": group, "side": side, "what": what}
        rows.append(row | {"milliseconds": round(taken * 1e3, 2), "peak_bytes": memory.get(what)})
        print(f"C {channels} N {bases} G {group} {side}: {what:38} {taken * 1e3:9.2f} ms  {_mb(memory.get(what))}")
    return rows


def _at_once(layers: Layers, count: int) -> Layers:
    layers.at_once = count
    return layers


def _plain_runs(model: onnx.ModelProto, folder: Path) -> dict[str, Callable[[dict[str, Any]], list[Any]]]:
    """Both runtimes on a graph without facts, set up as kbnet.inference.runners.runtimes does."""
    import onnxruntime
    import openvino

    path = folder / "operator.onnx"
    onnx.save_model(model, str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = (
        openvino.Core()
        .compile_model(str(path), "CPU", settings | {"PERFORMANCE_HINT": "LATENCY"})
        .create_infer_request()
    )
    return {
        "ONNX Runtime": lambda inputs: session.run(None, inputs),
        "OpenVINO": lambda inputs: list(request.infer(inputs).values()),
    }


def network(name: str, side: int, folder: Path) -> dict[str, Any]:
    """Differences at three sizes, and time and memory of one image."""
    torch.manual_seed(0)
    model: Network = load_model(NETWORKS[name]) if name == "nano" else create_model(NETWORKS[name]).eval()
    window = 64 if name == "nano" else 0
    context = Local(window) if window else FullFrame()
    image = torch.rand(1, 3, side, side)
    last = image.contiguous(memory_format=torch.channels_last)
    calls: dict[str, Callable[[], torch.Tensor]] = {}
    differences: dict[str, float] = {}
    memory: dict[str, int] = {}

    def pytorch() -> torch.Tensor:
        with torch.inference_mode():
            return model(last, context)

    for runtime, ending in RUNTIMES.items():
        path = folder / f"graph{ending}"
        export_model(model, path, graph_facts(model, window=window), format=runtime, overwrite=True)  # type: ignore[arg-type]
        graph = open_exported(path)

        def exported(x: torch.Tensor, graph: ExportedNetwork = graph) -> torch.Tensor:
            return torch.from_numpy(graph(x.numpy(), contexts.Local(window) if window else contexts.FullFrame()))

        # from the first call: runtimes don't release memory
        memory[graph.runtime] = peak_bytes(lambda exported=exported: exported(image))
        for height, width in SIZES:
            x = torch.rand(1, 3, height, width)
            with torch.inference_mode():
                padded = torch.from_numpy(reflect_pad(x.numpy(), 8))
                expected = model(padded, context)[:, :, :height, :width]
            found = float((exported(x) - expected).abs().max())
            differences[f"{runtime} {height} x {width}"] = found
            if not found <= TOLERANCE:
                raise SystemExit(f"{name} in {runtime} differs by {found:.2g} at {height} x {width}")
        calls[graph.runtime] = lambda exported=exported: exported(image)
    memory["torch"] = peak_bytes(pytorch)
    seconds = best({"torch": pytorch} | calls, repeats=4, seconds=40)
    for what, taken in seconds.items():
        print(f"{name:8} {side} x {side}  {what:12} {taken * 1e3:9.1f} ms  {_mb(memory[what])}")
    return {
        "network": name,
        "window": window,
        "side": side,
        "differences": differences,
        "milliseconds": {what: round(taken * 1e3, 1) for what, taken in seconds.items()},
        "peak_bytes": memory,
    }


def int8(photos: Path, side: int, folder: Path) -> dict[str, Any]:
    """The included denoiser in OpenVINO with 8 bits and bfloat16: quality on photos, times and file sizes."""
    model: Network = load_model("denoise")
    facts = graph_facts(model, task="denoise", window=128)
    full, small = folder / "full.xml", folder / "small.xml"
    export_model(model, full, facts, format="openvino")
    quality = export_int8(model, small, facts, photos)
    data = Photographs(photos, facts)
    halved = data.judge(run_openvino(full)[1], run_openvino(full, "bfloat16")[1])
    graphs = {"float32": (full, "float32"), "bfloat16": (full, "bfloat16"), "int8": (small, "float32")}
    image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    calls = {}
    for what, (path, dtype) in graphs.items():
        run = run_openvino(path, dtype)[1]
        calls[what] = lambda run=run: run({"image": image})
    seconds = best(calls, repeats=5, seconds=60)
    psnr = {"degraded": quality.degraded, "float32": quality.full, "bfloat16": halved.quantised}
    return {
        "side": side,
        "crops": quality.crops,
        "psnr": {what: round(value, 3) for what, value in (psnr | {"int8": quality.quantised}).items()},
        "milliseconds": {what: round(taken * 1e3, 1) for what, taken in seconds.items()},
        "bytes": {what: path.with_suffix(".bin").stat().st_size for what, path in (("float32", full), ("int8", small))},
    }


def _mb(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:7.0f} MB"


if __name__ == "__main__":
    main()
