"""One contestant of benchmarks/engine.py: a process that prepares a computation, and runs it whenever it is told to.

    PYTHON benchmarks/contestant.py SPECIFICATION        # a JSON object

Writes one JSON object per line to stdout: after preparing and one run, the seconds that both took; for each line on
stdin, wall and processor seconds of one run; at the end of stdin, the peak of the resident memory. Imports nothing of
this folder, so that other environments and older versions of kbnet can run it.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def restorer(about: dict[str, Any]) -> Callable[[], Any]:
    """A network, or a graph of one, on a whole image."""
    import kbnet

    made = kbnet.Restorer.from_pretrained(about["network"], dtype=about["dtype"], tile=0, context=about["context"])
    image = np.load(about["image"])
    return lambda: made(image)


def operator(about: dict[str, Any]) -> Callable[[], Any]:
    """Kernel basis attention alone, in inference."""
    import torch

    from kbnet.ops import kernel_basis_attention

    torch.set_num_threads(about["threads"])
    random = torch.Generator().manual_seed(0)
    batch, channels, height, width = about["shape"]
    bases, group, dtype = about["bases"], about["group"], getattr(torch, about["dtype"])
    sizes = [
        (batch, channels, height, width),
        (batch, bases, height, width),
        (bases, channels, group, 3, 3),
        (bases, channels),
    ]
    x, coefficients, weight, bias = (torch.randn(size, generator=random).to(dtype) for size in sizes)

    def run() -> Any:
        with torch.inference_mode():
            return kernel_basis_attention(x, coefficients, weight, bias).float().numpy()

    return run


def oidn(about: dict[str, Any]) -> Callable[[], Any]:
    """Open Image Denoise, which is made for rendered images: only its time is of interest here."""
    import pyoidn

    device = pyoidn.Device(pyoidn.OIDN_DEVICE_TYPE_CPU)
    device.set_int("numThreads", about["threads"])
    device.set_bool("setAffinity", False)
    device.commit()
    image = np.ascontiguousarray(np.load(about["image"]), np.float32) / 255
    result = np.empty_like(image)
    kept = (image, result)  # alive as long as `run`: the filter has only their addresses
    made = pyoidn.Filter(device, pyoidn.OIDN_FILTER_TYPE_RT)
    made.set_image(pyoidn.OIDN_IMAGE_COLOR, image, pyoidn.OIDN_FORMAT_FLOAT3)
    made.set_image(pyoidn.OIDN_IMAGE_OUTPUT, result, pyoidn.OIDN_FORMAT_FLOAT3)
    made.set_bool("srgb", True)
    made.set_quality({"fast": pyoidn.OIDN_QUALITY_FAST, "balanced": pyoidn.OIDN_QUALITY_BALANCED}[about["quality"]])
    made.commit()

    def run() -> Any:
        made.execute()
        device.wait()
        if error := device.get_error():
            raise SystemExit(error)
        return kept[-1]

    return run


def main() -> None:
    """Prepare, then run as often as lines arrive."""
    about = json.loads(sys.argv[1])
    start = time.perf_counter()
    run = {"restorer": restorer, "operator": operator, "oidn": oidn}[about["kind"]](about)
    np.save(about["result"], run())
    say({"prepared": time.perf_counter() - start})
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        run()
        say({"wall": time.perf_counter() - wall, "processor": time.process_time() - processor})
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))
    say({"peak": int(peak.split()[1]) * 1024})


def say(values: dict[str, float]) -> None:
    """Write one line."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
