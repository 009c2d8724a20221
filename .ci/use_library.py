"""Restore a PPM file with the C library's example program, and compare with the Python package.

.ci/use_library.py PROGRAM WEIGHTS
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import kbnet
from kbnet.imaging import read_photo

program, weights = sys.argv[1:]
# A library with another interface has another name, so the program must ask for the versioned one.
assert b"\0libkbnet.so.1\0" in Path(program).read_bytes()
pixels = read_photo(Path(__file__).parents[1] / "examples" / "noisy.jpg").pixels
with tempfile.TemporaryDirectory() as folder:
    noisy, restored = Path(folder, "noisy.ppm"), Path(folder, "restored.ppm")
    header = b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0])
    noisy.write_bytes(header + pixels.tobytes())
    subprocess.run([program, weights, noisy, restored], check=True, stderr=subprocess.PIPE)
    found = np.frombuffer(restored.read_bytes()[len(header) :], np.uint8).reshape(pixels.shape)
    noisy.write_bytes(header + pixels.tobytes()[:-1])
    cut = subprocess.run([program, weights, noisy, restored], capture_output=True, text=True, check=False)
    assert (cut.returncode, "truncated" in cut.stderr) == (1, True), cut
    wrong = subprocess.run([program, noisy, noisy, restored], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "expected a .safetensors file" in wrong.stderr or "truncated" in wrong.stderr) == (
        1,
        True,
    ), wrong
restorer = kbnet.Restorer.from_pretrained(weights, device="cpu")
difference = np.abs(found.astype(int) - restorer(pixels).astype(int))
assert difference.max() <= 1, difference.max()
assert np.mean(difference > 0) < 0.01, np.mean(difference > 0)
print(f"{program}: {pixels.shape[1]}x{pixels.shape[0]} pixels, same result as the Restorer")
