"""Peak memory of `kbnet restore` on a one-megapixel photo: the maximum resident size of the process.

    python benchmarks/memory.py

Runs the command in a separate process for the included denoiser and for full-size KBNet-S (random weights, saved to a
file). Writes benchmarks/results/memory.json.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from facts import write
from kbnet.imaging import Photo, write_photo

HEIGHT, WIDTH = 1000, 1000
# A child's maximum includes its parent's memory at the start, so a small process starts the command.
STARTER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = np.random.RandomState(0).normal(0, 25, (HEIGHT, WIDTH, 3))
        ramp = np.linspace(30, 220, WIDTH)[None, :, None]
        photo = folder / "noisy.png"
        write_photo(Photo(np.clip(ramp + noise, 0, 255).astype(np.uint8)), photo)
        published = folder / "kbnet-s-gaussian-color.safetensors"
        code = (
            "import sys; from pathlib import Path; from kbnet import create_model; from kbnet.models import save_file; "
        )
        code += "save_file(create_model('kbnet-s-gaussian-color'), Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(published)], check=True)
        for model, options in (
            ("denoise", []),
            ("denoise", ["--tile", "0"]),
            ("denoise", ["--tile", "256"]),
            (str(published), []),
            (str(published), ["--tile", "0"]),
            (str(published), ["--tile", "0", "--dtype", "bfloat16"]),
        ):
            megabytes, seconds = measure(photo, folder / "clean.png", model, options)
            row = {
                "model": Path(model).stem,
                "options": " ".join(options) or "none",
                "peak_megabytes": megabytes,
                "seconds": seconds,
            }
            print(f"{row['model']:24} {row['options']:28} peak {megabytes:6.0f} MB, {seconds:6.1f} s")
            rows.append(row)
    print(write("memory", {"pixels": HEIGHT * WIDTH, "rows": rows}))


def measure(photo: Path, output: Path, model: str, options: list[str]) -> tuple[float, float]:
    """Maximum resident size in MB and seconds of one `kbnet restore`, including startup."""
    command = [sys.executable, "-m", "kbnet", "restore", str(photo), "-o", str(output), "--model", model]
    start = time.perf_counter()
    starter = [sys.executable, "-S", "-c", STARTER, *command, "--overwrite", "--quiet", *options]
    done = subprocess.run(starter, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"kbnet restore failed with exit code {done.returncode}")
    return round(int(done.stdout) / 1024, 0), round(time.perf_counter() - start, 1)


if __name__ == "__main__":
    main()
