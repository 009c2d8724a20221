"""The Triton kernels on an NVIDIA GPU: operator, networks and training steps, compared with the published formula.

    python benchmarks/gpu.py            # two minutes on an H100; 20 GB of its memory
    python benchmarks/gpu.py --quick    # small sizes: seconds, as a test

Float32 is exact: TF32 is off. The variants of a row alternate, and their results must agree before they are timed. If a
section fails, its error is recorded and the others still run.

Writes benchmarks/results/gpu.json.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines import operator
from facts import RESULTS, write
from kbnet import create_model
from kbnet.models import Network
from kbnet.ops import triton
from operator_sweep import QUICK, SIZES, Size, digits, finished, on_gpu
from timing import agree, best

MEGAPIXEL = Size("megapixel", 64, 1024)
FORWARD = (
    ("kbnet-s-gaussian-color", 256),
    ("kbnet-s-gaussian-color", 1024),
    ("kbnet-l-derain", 256),
    ("kbnet-nano", 1024),
)
PUBLISHED_UP_TO = 256  # at a megapixel, one layer of the published formula takes 20 GB
STEPS = (("kbnet-nano", 16, 64), ("kbnet-nano", 32, 128), ("kbnet-s-gaussian-color", 4, 128))
REPEATS = 10
SECTIONS = ["operator", "forward", "training_step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, as a test")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("nothing to measure: PyTorch found no CUDA device")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    networks = ("KBNet-S", "kbnet-nano")
    sizes = QUICK if options.quick else [*(size for size in SIZES if size.set in networks), MEGAPIXEL]
    forwards = (("kbnet-nano", 64),) if options.quick else FORWARD
    steps = (("kbnet-nano", 2, 64),) if options.quick else STEPS
    results: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "triton": triton.describe(),
        "cuda": torch.version.cuda,
        "float32": "exact: TF32 is off",
    }
    sections: dict[str, Callable[[], Any]] = {
        "operator": lambda: on_gpu(sizes, 256 if options.quick else 2048),
        "forward": lambda: [forward(*row) for row in forwards],
        "training_step": lambda: [training_step(*row) for row in steps],
    }
    for section in options.sections:
        try:
            results[section] = sections[section]()
        except (Exception, SystemExit) as error:
            results[section] = f"failed: {type(error).__name__}: {error}"
            print(section, results[section], flush=True)
        print(write("gpu", results, options.results), flush=True)


def forward(name: str, side: int) -> dict[str, Any]:
    """One image in float32 and bfloat16, with the memory of activations."""
    network, half = network_of(name).eval(), network_of(name).eval().to(torch.bfloat16)
    image = torch.rand(1, 3, side, side, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    last, halved = image.contiguous(memory_format=torch.channels_last), image.to(torch.bfloat16)
    calls: dict[str, Callable[[], Tensor]] = {
        "float32": lambda: network(image),
        "float32, channels last": lambda: network(last),
        "bfloat16": lambda: half(halved),
        "bfloat16, channels last": lambda: half(halved.contiguous(memory_format=torch.channels_last)),
    }
    if side <= PUBLISHED_UP_TO:
        calls["published formula"] = within("published", lambda: network(image))
        calls["published formula, bfloat16"] = within("published", lambda: half(halved))
    with torch.inference_mode():
        truth = calls["float32"]() - image
        for other, call in calls.items():
            agree(f"{name} {side} {other}", (call() - image).float(), truth, 5e-2 if "bfloat16" in other else 1e-4)
        memory = {key: peak(call) for key, call in calls.items()}
        seconds = timed(calls)
    return row(name, [1, 3, side, side], seconds, memory)


def training_step(name: str, batch: int, side: int) -> dict[str, Any]:
    """Forward and backward of one batch of patches, without the optimizer."""
    network = network_of(name)
    image = torch.rand(batch, 3, side, side, device="cuda", generator=torch.Generator("cuda").manual_seed(0))

    def step(half: bool) -> Callable[[], Tensor]:
        def run() -> Tensor:
            network.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, enabled=half):
                restored = network(image)
            loss = (restored.float() - image).square().mean()
            loss.backward()
            return loss.detach()

        return run

    calls = {"float32": step(False), "bfloat16": step(True)}
    calls |= {"reference": within("reference", step(False)), "published formula": within("published", step(False))}
    truth = calls["float32"]()
    for other, call in calls.items():
        agree(f"{name} step {other}", call(), truth, 2e-2 if other == "bfloat16" else 1e-4)
    return row(name, [batch, 3, side, side], timed(calls), {key: peak(call) for key, call in calls.items()})


def within(backend: str, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same with another implementation of the operator."""

    def run() -> Tensor:
        with operator(backend) if backend else nullcontext():
            return call()

    return run


def timed(calls: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """Seconds of each call, alternating."""
    several = {key: finished(call, "cuda", REPEATS) for key, call in calls.items()}
    return {key: seconds / REPEATS for key, seconds in best(several, repeats=4, seconds=6).items()}


def peak(call: Callable[[], Tensor]) -> int:
    """Additional bytes that a call allocates."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def network_of(name: str) -> Network:
    """Fixed random weights, with scales so large that errors of inner layers affect the output."""
    torch.manual_seed(0)
    network = create_model(name)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("_scale"):
                parameter.fill_(0.3)
    return network.cuda()


def row(name: str, shape: list[int], seconds: dict[str, float], memory: dict[str, int]) -> dict[str, Any]:
    """Print one row and return it."""
    print(f"{name}, {'x'.join(map(str, shape))}")
    runs = {}
    for key, value in seconds.items():
        runs[key] = {"seconds": digits(value), "megabytes": round(memory[key] / 1e6, 1)}
        print(f"  {key:28} {value * 1e3:9.2f} ms {runs[key]['megabytes']} MB", flush=True)
    return {"network": name, "shape": shape, "runs": runs}


if __name__ == "__main__":
    main()
