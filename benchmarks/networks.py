"""Time and memory of whole networks, compared with the published formula and with running layer by layer.

    python benchmarks/networks.py            # KBNet-S, KBNet-L and nano, 256 to 1024 pixels, forward and training step
    python benchmarks/networks.py --largest 0 --keep    # only training steps; keeps the other rows

Writes benchmarks/results/networks.json. The weights are random, because time and memory don't depend on them.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import torch
from torch import Tensor

from baselines import matmul_rate, operator
from facts import RESULTS, write
from kbnet import create_model
from kbnet.models import Network
from timing import agree, best, peak_bytes

SIZES = {"kbnet-s-gaussian-color": (256, 512, 1024), "kbnet-l-derain": (256, 512), "kbnet-nano": (256, 512, 1024)}
# The published formula needs at least 12 GB at a megapixel, so it runs only at sizes that fit.
# Layer by layer runs only at sizes that are fast.
PUBLISHED_UP_TO, LAYERS_UP_TO = 256, {"kbnet-s-gaussian-color": 512, "kbnet-l-derain": 256, "kbnet-nano": 1024}
STEPS = {"kbnet-nano": (16, 64), "kbnet-s-gaussian-color": (1, 64), "kbnet-l-derain": (1, 64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--largest", type=int, default=1024, help="side of the largest image")
    parser.add_argument("--name", default="networks", help="name of the results file")
    parser.add_argument("--keep", action="store_true", help="keep rows of the file that are not measured")
    options = parser.parse_args()
    rates = {str(d).removeprefix("torch."): matmul_rate(d) / 1e9 for d in (torch.float32, torch.bfloat16)}
    rows = []
    for name in options.networks:
        rows += [forward(name, side) for side in SIZES[name] if side <= options.largest]
        rows.append(training_step(name))
    if options.keep:
        earlier = json.loads((RESULTS / f"{options.name}.json").read_text(encoding="utf-8"))
        measured = {_key(row) for row in rows}
        command = earlier["facts"]["command"]
        kept = [{"command": command} | row for row in earlier["rows"] if _key(row) not in measured]
        rows = sorted(kept + rows, key=lambda row: list(SIZES).index(str(row["network"])))
    path = write(options.name, {"matmul_gflops": {k: round(v, 1) for k, v in rates.items()}, "rows": rows})
    print(path)


def _key(row: dict[str, object]) -> str:
    return f"{row['network']} {row['what']} {row['shape']}"


def forward(name: str, side: int) -> dict[str, object]:
    """One image, the best of several runs, with the memory of activations."""
    torch.manual_seed(0)
    network = _network(name).eval()
    half = _network(name).eval()
    half.load_state_dict(network.state_dict())
    half.to(torch.bfloat16)
    image = torch.rand(1, 3, side, side)
    last = image.contiguous(memory_format=torch.channels_last)

    def published() -> Tensor:
        with operator("published"):
            return network(image)

    def layers(model: Network) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with patch.dict("os.environ", {"KBNET_FUSED": "off"}):
                return model(last)

        return run

    calls: dict[str, Callable[[], Tensor]] = {"float32": lambda: network(last), "bfloat16": lambda: half(last)}
    if side <= LAYERS_UP_TO[name]:
        calls |= {"float32, layer by layer": layers(network), "bfloat16, layer by layer": layers(half)}
    if side <= PUBLISHED_UP_TO:
        calls["published formula"] = published
    with torch.inference_mode():
        truth = calls["float32"]() - image
        for other, call in calls.items():
            agree(f"{name} {side} {other}", call() - image, truth, 5e-2 if "bfloat16" in other else 1e-4)
        seconds = best(calls, repeats=6, seconds=25, warm_up=False)
        memory = {key: peak_bytes(call) for key, call in calls.items()}
    return _row(name, "forward", [1, 3, side, side], seconds, memory)


def training_step(name: str) -> dict[str, object]:
    """Forward and backward of one batch of patches, without the optimizer."""
    torch.manual_seed(0)
    batch, side = STEPS[name]
    network = _network(name)
    image = torch.rand(batch, 3, side, side)
    last = image.contiguous(memory_format=torch.channels_last)

    def step(backend: str | None, x: Tensor) -> Callable[[], Tensor]:
        def run() -> Tensor:
            network.zero_grad()
            with operator(backend) if backend else nullcontext():
                loss = (network(x) - x).square().mean()
                loss.backward()
            return loss.detach()

        return run

    calls = {
        "native": step(None, last),
        "native, layer by layer": step("native", last),
        "reference": step("reference", last),
        "published formula": step("published", image),
    }
    truth = calls["native"]()
    for other, call in calls.items():
        agree(f"{name} step {other}", call(), truth, 1e-4)
    seconds = best(calls, repeats=12, seconds=40, warm_up=False)
    memory = {key: peak_bytes(call) for key, call in calls.items()}
    return _row(name, "training step", [batch, 3, side, side], seconds, memory)


def _network(name: str) -> Network:
    network = create_model(name)
    with torch.no_grad():  # scales start near zero, which would hide errors of inner layers
        for key, parameter in network.named_parameters():
            if key.endswith("_scale"):
                parameter.fill_(0.3)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stub


def _row(
    name: str, what: str, shape: list[int], seconds: dict[str, float], memory: dict[str, int | None]
) -> dict[str, object]:
    print(f"{name}, {what}, {'x'.join(map(str, shape))}")
    rows = {}
    for key, value in seconds.items():
        mega = memory[key]
        rows[key] = {"seconds": round(value, 5), "activation_megabytes": None if mega is None else round(mega / 1e6, 1)}
        print(f"  {key:28} {value * 1e3:9.1f} ms {rows[key]['activation_megabytes']} MB")
    return {"network": name, "what": what, "shape": shape, "runs": rows}


if __name__ == "__main__":
    main()
