"""Time and memory of the operator, compared with the published formula and a plain matrix product.

    python benchmarks/operator_sweep.py            # all levels of the networks, and sweeps of N and G: four minutes
    python benchmarks/operator_sweep.py --quick    # two small sizes: seconds, as a test

Features and coefficients are in channels-last order, as in the networks; the published formula gets contiguous
tensors, which it is written for. All implementations alternate, including torch's 2048 x 2048 matrix product. Native
and reference results and gradients must agree before anything is timed. Operations are counted alike for all: twice
`kbnet.ops.multiply_adds`, and three times as many for the backward pass. bfloat16 is compared with the published
formula only in accuracy. If there is a CUDA device, the Triton backend is measured on it too.

The C library's allocator has its default settings: large tensors get new pages at every call, as for users. This
affects the published formula most, because it stores most. With MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=20000000000 in the environment, glibc keeps its pages, which shows the difference.

Writes benchmarks/results/operator.json.
"""

import argparse
import gc
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines import per_pixel_kernels
from facts import RESULTS, write
from kbnet.ops import available_backends, kernel_basis_attention, multiply_adds, native, triton
from timing import agree, best, peak_bytes

KERNEL = 3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}
RESULTS_OF = ("y", "gradient of x", "of coefficients", "of bases", "of biases")
# The cost of a pass, in forward passes.
PASSES = {"forward": 1, "backward": 3, "forward and backward": 4}
PUBLISHED = "published formula"

Call = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Size:
    """One row of the sweep: a square image of one set."""

    set: str
    channels: int
    side: int
    bases: int = 32
    group_channels: int = 4

    def operations(self, name: str) -> int:
        """Floating-point operations of a pass."""
        a_pixel = multiply_adds(self.channels, self.bases, self.group_channels, KERNEL)
        return 2 * a_pixel * self.side**2 * PASSES[name]


# KBNet-L's last is its decoder's first level and its refinement, which run at twice the width.
# The sweep of G takes G = 4 from the sweep of N.
SIZES = [
    *(Size("KBNet-S", c, side) for c, side in ((64, 256), (128, 128), (256, 64), (512, 32), (1024, 16))),
    *(Size("KBNet-L", c, side, 32, 2) for c, side in ((72, 256), (144, 128), (288, 64), (576, 32), (144, 256))),
    *(Size("kbnet-nano", c, side, 8) for c, side in ((16, 256), (32, 128), (64, 64), (128, 32), (256, 16))),
    *(Size("bases", 64, 128, n) for n in (1, 8, 16, 32, 64)),
    *(Size("group channels", 64, 128, 32, g) for g in (1, 2, 8)),
]
QUICK = [Size("KBNet-S", 64, 24), Size("KBNet-L", 72, 24, 32, 2), Size("kbnet-nano", 16, 48, 8)]
QUICK += [Size("bases", 8, 24, 8), Size("group channels", 8, 24, 8, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, as a test")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    options = parser.parse_args()
    if "native" not in available_backends():
        raise SystemExit(f"nothing to measure: the native backend is {native.describe()}")
    sizes, matmul = (QUICK, 256) if options.quick else (SIZES, 2048)
    results: dict[str, Any] = {"native": native.describe(), "kernel_size": KERNEL, "matmul_size": matmul}
    results["rows"] = sweep(sizes, "cpu", matmul)
    results["cuda"] = on_gpu(sizes, matmul)
    summary(results["rows"])
    print(write("operator", results, options.results))


def on_gpu(sizes: list[Size], matmul: int) -> dict[str, Any] | str:
    """The same sweep with the Triton backend, if there is a suitable GPU."""
    reason = triton.refuses_here() if torch.cuda.is_available() else "no GPU"
    if reason is not None:
        return f"not measured: {reason}"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    rows = sweep(sizes, "cuda", 2 * matmul)
    return {"gpu": torch.cuda.get_device_name(), "matmul_size": 2 * matmul, "rows": rows}


def sweep(sizes: list[Size], device: str, matmul: int) -> list[dict[str, Any]]:
    """Rows of all sizes, printed as they are measured."""
    # Memory that is allocated at first use would count for the first implementation.
    for _ in measure(Size("", 8, 16), device, matmul):
        pass
    gc.freeze()  # excludes existing objects from garbage collection, which would take longer than many calls
    rows = []
    for size in sizes:
        for row in measure(size, device, matmul):
            show(row)
            rows.append(row)
    return rows


def measure(size: Size, device: str, matmul: int) -> Iterator[dict[str, Any]]:
    """One row per pass and dtype: seconds, operations per second, extra memory and accuracy of each implementation."""
    ours = "triton" if device == "cuda" else "native"
    inputs = make(size, device)
    calls: dict[tuple[str, str, str], Call] = {}
    for name in PASSES:
        for dtype, tensors in inputs.items():
            # The reference computes bfloat16 in float32, which adds no information.
            others = ("reference", PUBLISHED) if dtype == "float32" else (PUBLISHED,)
            for implementation in (ours, *others) if name != "backward" else (ours,):
                calls[dtype, name, implementation] = run(name, implementation, *tensors)
    found = {key: first_run(call, device) for key, call in calls.items()}
    accuracy = {key: compare(size, key, found) for key in calls}

    # The published formula isn't made for bfloat16: only its accuracy is reported, not its time.
    timed = {" / ".join(k): call for k, call in calls.items() if k[0] == "float32" or k[2] == ours}
    squares = {dtype: torch.randn(matmul, matmul, device=device).to(DTYPES[dtype]) for dtype in DTYPES}
    products: dict[str, Callable[[], object]] = {d: lambda a=a: (a @ a,) for d, a in squares.items()}  # type: ignore[misc]
    repeats = 20 if device == "cuda" else 1
    everything = {key: finished(call, device, repeats) for key, call in {**products, **timed}.items()}
    short = [key for key in everything if "reference" not in key and PUBLISHED not in key]
    seconds = {key: s / repeats for key, s in best(everything, 5, 2.0, between=short, warm_up=False).items()}

    rates = {dtype: 2 * matmul**3 / seconds[dtype] for dtype in DTYPES}
    for name in PASSES:
        for dtype in DTYPES:
            runs = {}
            for implementation in (ours, "reference", PUBLISHED):
                key = (dtype, name, implementation)
                if key in calls:
                    runs[implementation] = {"difference": accuracy[key], **found[key][1]}
                    if " / ".join(key) in seconds:
                        took = seconds[" / ".join(key)]
                        rate = size.operations(name) / took
                        runs[implementation] |= {"seconds": digits(took), "gflops": digits(rate / 1e9)}
                        runs[implementation]["share_of_matmul"] = digits(rate / rates[dtype])
            mine = runs[ours]
            if "seconds" in runs.get(PUBLISHED, {}):
                mine["speed_up_over_published"] = digits(runs[PUBLISHED]["seconds"] / mine["seconds"])
            if dtype != "float32":
                mine["speed_up_over_float32"] = digits(seconds[f"float32 / {name} / {ours}"] / mine["seconds"])
            row = {**asdict(size), "pass": name, "dtype": dtype, "gflop": digits(size.operations(name) / 1e9)}
            yield {**row, "matmul_gflops": digits(rates[dtype] / 1e9), "runs": runs}


def make(size: Size, device: str) -> dict[str, tuple[Tensor, ...]]:
    """dy, x, coefficients, bases and biases by dtype; the float32 values are representable in bfloat16."""
    torch.manual_seed(0)
    n, c, g = size.bases, size.channels, size.group_channels
    x, dy = torch.randn(2, 1, c, size.side, size.side)
    coefficients = torch.randn(1, n, size.side, size.side)
    weight = torch.randn(n, c, g, KERNEL, KERNEL) / (n * g * KERNEL**2) ** 0.5
    bias = torch.randn(n, c) / n**0.5
    tensors = [t.to(device, torch.bfloat16) for t in (dy, x, coefficients, weight, bias)]
    return {
        name: tuple(
            (t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t).to(dtype).requires_grad_(i > 0)
            for i, t in enumerate(tensors)
        )
        for name, dtype in DTYPES.items()
    }


def run(name: str, implementation: str, dy: Tensor, *inputs: Tensor) -> Call:
    """A call of one pass: y, or the gradients of the inputs, or both."""
    if implementation == PUBLISHED:
        dy, *inputs = (t.detach().contiguous().requires_grad_(t.requires_grad) for t in (dy, *inputs))  # type: ignore[assignment]

    def forward() -> Tensor:
        if implementation == PUBLISHED:
            return per_pixel_kernels(*inputs)
        return kernel_basis_attention(*inputs, backend=implementation)

    def without_gradients() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return (forward(),)

    def backward() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            gradients: tuple[Tensor, ...] = torch.ops.kbnet.kernel_basis_attention_backward(dy, *inputs, implementation)
            return gradients

    def both() -> tuple[Tensor, ...]:
        y = forward()
        return (y.detach(), *torch.autograd.grad(y, inputs, dy))

    return {"forward": without_gradients, "backward": backward, "forward and backward": both}[name]


def first_run(call: Call, device: str) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Results, and the memory in addition to them: in total, and on the CPU per thread."""
    results: list[Tensor] = []
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results += call()
        torch.cuda.synchronize()
        peak: int | None = torch.cuda.max_memory_allocated() - before
    else:
        peak = peak_bytes(lambda: results.extend(call()))
    if peak is None:
        return tuple(results), {"extra_megabytes": None}
    extra = max(0, peak - sum(t.nbytes for t in results)) / 1e6
    each = {} if device == "cuda" else {"extra_megabytes_a_thread": round(extra / torch.get_num_threads(), 2)}
    return tuple(results), {"extra_megabytes": round(extra, 2), **each}


def compare(size: Size, key: tuple[str, str, str], found: dict[tuple[str, str, str], tuple[Any, Any]]) -> float:
    """Largest difference from the reference in float32, relative to the largest value; stops the run if too large.

    The error of the published formula in bfloat16 is reported, but has no limit.
    """
    dtype, name, implementation = key
    truth = found["float32", "forward and backward", "reference"][0]
    first = 1 if name == "backward" else 0
    allowed = float("inf") if (dtype, implementation) == ("bfloat16", PUBLISHED) else TOLERANCES[dtype]
    differences = [
        agree(f"{size} {' '.join(key)}: {what}", result, expected, allowed)
        for what, result, expected in zip(RESULTS_OF[first:], found[key][0], truth[first:], strict=False)
    ]
    return digits(max(differences))


def finished(call: Callable[[], object], device: str, repeats: int) -> Callable[[], object]:
    """On a GPU, several runs are launched before one synchronization, to exclude launch overhead."""
    if device != "cuda":
        return call

    def run() -> None:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()

    return run


def digits(value: float, count: int = 4) -> float:
    """Round to the significant digits of a measurement."""
    return float(f"{value:.{count}g}")


def show(row: dict[str, Any]) -> None:
    """Print one line."""
    mine = next(iter(row["runs"].values()))
    line = f"{row['set']:14} {row['channels']:4}x{row['side']:<3} N={row['bases']:<2} G={row['group_channels']} "
    line += f"{row['dtype']:8} {row['pass']:20} {mine['seconds'] * 1e3:8.2f} ms {mine['gflops']:7.1f} GFLOP/s, "
    line += f"{mine['share_of_matmul']:.2f} of matmul, {mine['extra_megabytes']} MB"
    for key, name in (("speed_up_over_published", "the published formula"), ("speed_up_over_float32", "float32")):
        if key in mine:
            line += f", {mine[key]:.1f}x {name}"
    print(line, flush=True)


def summary(rows: list[dict[str, Any]]) -> None:
    """Print median and range of the main figures over the levels of the networks."""
    levels = [row for row in rows if row["set"] not in ("bases", "group channels")]
    for name in PASSES:
        for dtype in DTYPES:
            runs = [row["runs"]["native"] for row in levels if (row["pass"], row["dtype"]) == (name, dtype)]
            for key in ("share_of_matmul", "speed_up_over_published", "speed_up_over_float32"):
                values = [run[key] for run in runs if key in run]
                if values:
                    middle = statistics.median(values)
                    print(f"{dtype}, {name}: {key} {middle:.2f} ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
