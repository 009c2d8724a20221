"""The whole command as users run it: wall time, processor time, peak memory, start-up, and the size of the environment.

    python benchmarks/commands.py                              # this environment
    python benchmarks/commands.py --python core=PYTHON ...     # others beside it, each under a name
    python benchmarks/commands.py --release old=PYTHON ...     # other releases, whose weights may differ

Every row is a process of its own. All environments take turns, so that a slow phase affects each; medians count.
Their results must be the same, within one of 255, except those of other releases.
Writes benchmarks/results/commands.json. Takes three minutes for each environment on two idle cores; times on a busy
machine are meaningless.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from facts import RESULTS, write
from kbnet.imaging import Photo, read_photo, write_photo

SIZES = {"0.25 megapixels": (512, 512), "1 megapixel": (1024, 1024)}
LIMIT = 1  # of 255, by which environments may differ

# A child's maximum counts what its parent held when it was started, so a small process starts it.
LAUNCH = """
import json, os, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
kilobytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
print(json.dumps([done.returncode, time.perf_counter() - start, used.ru_utime + used.ru_stime, kilobytes]))
"""

# Megabytes of all installed files, without the installer itself.
SIZE = """
import json, sysconfig
from pathlib import Path
installers = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "wheel", "__pycache__")
place = Path(sysconfig.get_path("purelib"))
found = {}
for entry in place.iterdir():
    name = entry.name.partition("-")[0].removesuffix(".libs")
    if name not in installers:
        files = [entry] if entry.is_file() else [file for file in entry.rglob("*") if file.is_file()]
        found[name] = found.get(name, 0) + sum(file.lstat().st_size for file in files) / 1e6
print(json.dumps(dict(sorted(found.items(), key=lambda item: -item[1]))))
"""

# Ends when the command has decoded the photo: what a user waits before anything is restored.
FIRST_PIXEL = """
import os
try:
    from kbnet.inference import steps
except ImportError:  # in early releases
    from kbnet.inference import jobs as steps
read = steps.read_photo
def read_and_end(*given, **named):
    read(*given, **named)
    os._exit(0)
steps.read_photo = read_and_end
from kbnet.cli import main
main()
raise SystemExit("the photo was never read")
"""


def commands(photos: dict[str, Path], results: Path) -> dict[str, list[str]]:
    """What is measured, as arguments of the interpreter."""
    found = {
        "import kbnet": ["-c", "import kbnet"],
        "import the Restorer": ["-c", "import kbnet; kbnet.Restorer"],
        "kbnet --help": ["-m", "kbnet", "--help"],
        "kbnet models": ["-m", "kbnet", "models"],
    }
    for size, photo in photos.items():
        output = str(results / photo.name)
        restore = ["restore", str(photo), "-o", output, "-q", "--overwrite"]
        found[f"kbnet restore, {size}, until it is decoded"] = ["-c", FIRST_PIXEL, *restore]
        found[f"kbnet restore, {size}"] = ["-m", "kbnet", *restore]
    return found


def measure(python: str, arguments: list[str], folder: Path) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak kilobytes of one process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", LAUNCH, python, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    status, wall, processor, peak = json.loads(done.stdout)
    if status != 0:
        raise SystemExit(f"{python} {' '.join(arguments)} ended with status {status}")
    return wall, processor, peak


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON", help="another environment")
    parser.add_argument("--release", action="append", default=[], metavar="NAME=PYTHON", help="another release")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one run of a small photo, as a test")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    alike = {"this": sys.executable} | dict(one.partition("=")[::2] for one in options.python)
    pythons = alike | dict(one.partition("=")[::2] for one in options.release)
    sizes = {"tiny": (48, 64)} if options.quick else SIZES
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        photos = {}
        for number, (size, shape) in enumerate(sizes.items()):
            photos[size] = folder / f"photo{number}.png"
            noise = np.random.default_rng(number).integers(-20, 21, (*shape, 3))
            slope = np.linspace(40, 200, shape[1])[None, :, None]
            write_photo(Photo((slope + noise).astype(np.uint8)), photos[size])
        for name in pythons:
            (folder / name).mkdir()
        wanted = {name: commands(photos, folder / name) for name in pythons}
        found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
        for turn in range(1 if options.quick else options.repeats + 1):
            for what in wanted["this"]:
                for name, python in pythons.items():
                    taken = measure(python, wanted[name][what], folder)
                    if turn or options.quick:  # the first turn reads files from disk
                        found.setdefault((what, name), []).append(taken)
        _compare(folder, list(alike), [photo.name for photo in photos.values()])
    for (what, name), taken in found.items():
        wall, processor, peak = (statistics.median(values) for values in zip(*taken, strict=True))
        row = {"what": what, "environment": name, "seconds": round(wall, 3), "processor_seconds": round(processor, 3)}
        rows.append(row | {"peak_megabytes": round(peak / 1024)})
        print(f"{what:32} {name:10} {wall:7.3f} s {processor:7.3f} CPU s {peak / 1024:6.0f} MB", flush=True)
    size_of = {}
    for name, python in pythons.items():
        parts = json.loads(subprocess.run([python, "-c", SIZE], stdout=subprocess.PIPE, text=True, check=True).stdout)
        largest = {part: round(value) for part, value in list(parts.items())[:8]}
        size_of[name] = {"megabytes": round(sum(parts.values())), "largest": largest}
    print(write("commands", {"rows": rows, "environments": size_of}, options.results))


def _compare(folder: Path, names: list[str], photos: list[str]) -> None:
    """End the program if an environment restores a photo differently."""
    for photo in photos:
        expected = read_photo(folder / names[0] / photo).pixels.astype(int)
        for name in names[1:]:
            difference = np.abs(read_photo(folder / name / photo).pixels - expected).max()
            if difference > LIMIT:
                raise SystemExit(f"{name} restores {photo} differently, by {difference} of 255; nothing is written")


if __name__ == "__main__":
    main()
