"""Time per small image, restored separately and in a batch of eight.

    python benchmarks/batches.py

Both alternate, and their results must agree. Writes benchmarks/results/batches.json.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

import kbnet
from facts import RESULTS, write
from kbnet.nn import Local

COUNT = 8
SIDES = (32, 64, 128, 256, 512)
ROUNDS = 9
TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes, for tests")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    restorer = kbnet.Restorer.from_pretrained("denoise", device="cpu")
    rows = []
    for side in SIDES[:2] if options.quick else SIDES:
        batch = torch.rand(COUNT, 3, side, side, generator=torch.Generator().manual_seed(0))
        batch = batch.contiguous(memory_format=torch.channels_last)

        def forward(images: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = restorer.network(images, Local(restorer.window))
            return result

        alone, together = [], []
        with torch.inference_mode():
            singles = torch.cat([forward(image) for image in batch.split(1)])
            difference = float((forward(batch) - singles).abs().max())
            if difference > TOLERANCE:
                print(
                    f"a batch of {side} x {side} differs by {difference} from single images; nothing is written",
                    file=sys.stderr,
                )
                return 1
            for _ in range(2 if options.quick else ROUNDS):
                start = time.perf_counter()
                for image in batch.split(1):
                    forward(image)
                middle = time.perf_counter()
                forward(batch)
                together.append((time.perf_counter() - middle) / COUNT)
                alone.append((middle - start) / COUNT)
        row = {
            "side": side,
            "alone_milliseconds": round(1e3 * statistics.median(alone), 2),
            "together_milliseconds": round(1e3 * statistics.median(together), 2),
            "difference": difference,
        }
        row["speed_up"] = round(row["alone_milliseconds"] / row["together_milliseconds"], 2)
        print(
            f"{side:4} x {side:<4} alone {row['alone_milliseconds']:8.2f} ms, "
            f"together {row['together_milliseconds']:8.2f} ms per image: {row['speed_up']:.2f}x"
        )
        rows.append(row)
    print(write("batches", {"model": restorer.name, "pictures": COUNT, "rows": rows}, options.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
