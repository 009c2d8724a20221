"""What products of bfloat16 do to the results of the included weights.

    python benchmarks/forms.py --data CBSD68 [--model NAME ...]

Degrades every image for the model's task, and restores it in float32 and in bfloat16. Needs a processor with such
products, fast or not; KBNET_INSTRUCTION_SET chooses among several kinds. Writes benchmarks/results/forms.json; the
catalogue repeats its figures, and dtype "auto" depends on them. Models that aren't named keep their figures. Takes
about a minute per compact model on two cores.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facts import RESULTS, processor, write
from kbnet.degradations import DEGRADATIONS, RawNoise
from kbnet.imaging import read_photo
from kbnet.imaging.sensor import COLOURS
from kbnet.inference import Restorer
from kbnet.inference.samples import ArraySamples
from kbnet.inference.whole import restore_images
from kbnet.models import CatalogueEntry, catalogue

os.environ.setdefault("KBNET_INSTRUCTION_SET", "avx512bf16")
SIGMA = 25
SHOT = (3.2e-3, 3.2e-3)  # about ISO 1600


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CBSD68's images")
    parser.add_argument("--model", action="append", help="measure only these")
    parser.add_argument("--limit", type=int, help="only so many images, as a test")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.limit and options.results == RESULTS:
        parser.error("expected --results with --limit, because published figures are of all images")
    path = options.results / "forms.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    images = sorted(options.data.glob("*.png"))[: options.limit]
    for name in options.model or catalogue():
        rows[name] = measure(catalogue()[name], images)
        print(name, rows[name], flush=True)
    print(write("forms", {"rows": {name: rows[name] for name in catalogue() if name in rows}}, options.results))


def measure(entry: CatalogueEntry, images: list[Path]) -> dict[str, Any]:
    """Mean loss in dB and largest change of 255 of one model."""
    dtypes = ("float32", "bfloat16")
    exact, fast = (Restorer.from_pretrained(entry.name, device="cpu", dtype=dtype) for dtype in dtypes)
    if [(made.runner.runtime, made.runner.dtype) for made in (exact, fast)] != [("engine", dtype) for dtype in dtypes]:
        raise SystemExit("this processor has no products of bfloat16, or the compiled kernels are off")
    if entry.variant == "raw":
        return measure_raw(entry, exact, fast, images)
    losses, changes = [], []
    for number, path in enumerate(images):
        clean = read_photo(path).pixels.astype(np.float32) / 255
        if entry.variant == "gray":
            clean = clean @ np.array([0.299, 0.587, 0.114], np.float32)
        degraded = degrade(clean, entry.task, number)
        results = [np.clip(restorer(degraded), 0, 1) for restorer in (exact, fast)]
        losses.append(psnr(results[0], clean) - psnr(results[1], clean))
        changes.append(float(np.abs(results[0] - results[1]).max() * 255))
    return row(entry, losses, changes)


def measure_raw(entry: CatalogueEntry, exact: Restorer, fast: Restorer, images: list[Path]) -> dict[str, Any]:
    """The same on a sensor's planes, before they are developed."""
    losses, changes = [], []
    for number, path in enumerate(images):
        clean = torch.from_numpy(read_photo(path).pixels.astype(np.float32) / 255).permute(2, 0, 1)
        wanted, given = (
            planes.permute(1, 2, 0).contiguous().numpy()
            for planes in RawNoise(shot=SHOT).pair(clean, torch.Generator().manual_seed(number))
        )
        results = []
        for restorer in (exact, fast):
            restored = np.empty_like(given)
            restore_images(restorer, [ArraySamples(given, restored, (0.0, 1.0))], 1.0, lambda done, total: None)
            results.append(restored[:, :, :COLOURS].clip(0, 1))
        losses.append(psnr(results[0], wanted[:, :, :COLOURS]) - psnr(results[1], wanted[:, :, :COLOURS]))
        changes.append(float(np.abs(results[0] - results[1]).max() * 255))
    return row(entry, losses, changes)


def row(entry: CatalogueEntry, losses: list[float], changes: list[float]) -> dict[str, Any]:
    """What the results file says about one model."""
    return {
        "sha256": entry.sha256,
        "processor": processor(),
        "images": len(losses),
        "loss": round(float(np.mean(losses)), 4),
        "change": round(max(changes), 2),
    }


def degrade(clean: NDArray[np.float32], task: str, seed: int) -> NDArray[np.float32]:
    """An image as the task expects it."""
    if task.startswith("denoise"):
        noise = np.random.default_rng(seed).normal(0, SIGMA / 255, clean.shape)
        return (clean + noise).astype(np.float32)
    kind = DEGRADATIONS["rain" if task == "derain" else "blur"]()
    image = torch.from_numpy(clean).permute(2, 0, 1).contiguous()
    degraded: NDArray[np.float32] = kind(image, torch.Generator().manual_seed(seed)).permute(1, 2, 0).numpy()
    return degraded


def psnr(result: NDArray[np.float32], clean: NDArray[np.float32]) -> float:
    return float(-10 * np.log10(np.square(result - clean).mean()))


if __name__ == "__main__":
    main()
