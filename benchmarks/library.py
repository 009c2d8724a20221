"""A library of mixed small photos, restored by one command that is killed and repeated.

    python benchmarks/library.py [--files 2000] [--kills 1]

Makes a library in nested folders: JPEG, PNG (8 and 16 bits), TIFF (8, 16 bits and float), WebP, HEIC, BMP and GIF
files, some with sidecars, each with a time and a mode of its own; results of an earlier run, excluded files, damaged
files and files that aren't photos among them. `kbnet restore` is killed with SIGKILL in the middle and repeated until
it ends. Then:

- each file is accounted for: restored, failed with a reason, skipped with a reason, or excluded;
- nothing is restored twice, except the files that were in progress when a run was killed;
- each result has the time and the mode of its photo, and its sidecars beside it;
- no original changed, and no other files are left;
- a run over library and results together restores nothing.

Writes benchmarks/results/library.json in any case. Exits with 1 if there was a problem.
"""

import argparse
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import tifffile
from numpy.typing import NDArray
from PIL import Image

from facts import RESULTS, write
from kbnet.imaging import Photo, write_photo
from kbnet.inference.marking import marked

SIDES = (16, 49)  # pixels
KINDS = ("jpg", "jpg", "jpg", "png", "png16", "tif", "tif16", "float.tif", "webp", "heic", "bmp", "gif")
OTHERS = ("text", "damaged", "result", "excluded")
PACKET = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
START = 1_500_000_000 * 10**9  # nanoseconds


def encoded(kind: str, pixels: NDArray[np.uint8]) -> bytes:
    """A small photo in a format."""
    target = io.BytesIO()
    if kind in ("png16", "tif16"):
        data = write_photo(Photo(pixels.astype(np.uint16) * 257), None, format=kind.removesuffix("16"))
        assert data is not None
        return data
    if kind == "float.tif":
        tifffile.imwrite(target, (pixels / 255).astype(np.float32) ** 2.2, photometric="rgb")
    elif kind == "heic":
        pillow_heif.encode("RGB", pixels.shape[1::-1], pixels.tobytes(), target, quality=80, chroma=444)
    else:
        name = {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper())
        Image.fromarray(pixels).save(target, name)
    return target.getvalue()


def build(folder: Path, count: int) -> dict[str, str]:
    """Make the library; return what each file is, by its path below the folder."""
    rng = np.random.default_rng(0)
    made: dict[str, str] = {}
    for number in range(count):
        height, width = rng.integers(*SIDES, 2)
        smooth = np.linspace(40, 200, width)[None, :, None] * np.ones((height, width, 3))
        pixels = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        kind = KINDS[number % len(KINDS)]
        what = OTHERS[number // 25 % len(OTHERS)] if number % 25 == 24 else "photo"
        below = f"{2000 + number % 7}/{number % 3}" + ("/raw" if what == "excluded" else "")
        ending = {"png16": "png", "tif16": "tif", "float.tif": "tif"}.get(kind, kind)
        data = encoded(kind, pixels)
        if what == "text":
            ending, data = "txt", b"notes about the photos\n"
        elif what == "damaged":
            ending, data = "jpg", encoded("jpg", pixels)[:300]
        elif what == "result":
            photo = Photo(pixels)
            ending, data = "png", write_photo(Photo(pixels, metadata=marked(photo.metadata, "denoise")), None) or b""
        path = folder / below / f"img{number:05}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600 if number % 5 == 0 else 0o644)
        os.utime(path, ns=(START + number, START + number * 10**9))
        made[path.relative_to(folder).as_posix()] = what
        if what == "photo" and number % 10 == 0:
            sidecar = path.with_suffix(".xmp") if number % 20 else path.with_name(path.name + ".xmp")
            sidecar.write_bytes(PACKET)
            made[sidecar.relative_to(folder).as_posix()] = "sidecar"
    return made


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def command(library: Path, output: Path, log: Path | None) -> list[str]:
    """The command that is killed and repeated."""
    options = ["--exclude", "raw", "--sidecars", "--keep-times", "--json", "--device", "cpu"]
    options += ["--log", str(log)] if log is not None else ["--skip-existing"]
    return [sys.executable, "-m", "kbnet", "restore", str(library), "-o", str(output), *options]


def events(log: Path) -> Counter[tuple[str, str]]:
    """How often the log has each event of each input."""
    found: Counter[tuple[str, str]] = Counter()
    for line in log.read_bytes().splitlines() if log.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line that was cut by a kill
        if "input" in entry:
            found[entry["event"], entry["input"]] += 1
    return found


def run(library: Path, output: Path, log: Path, count: int, kills: int) -> dict[str, Any]:
    """Run the command, kill it `kills` times once enough more files are done, and let it end."""
    runs = []
    for number in range(kills + 1):
        before, start = sum(events(log).values()), time.monotonic()
        told = log.with_name(f"run{number}.txt")
        with told.open("wb") as stream:  # not a pipe, which would fill up
            process = subprocess.Popen(command(library, output, log), stdout=subprocess.DEVNULL, stderr=stream)
        wanted = (number + 1) * count // (kills + 1) if number < kills else None
        if wanted is not None:
            while process.poll() is None and sum(events(log).values()) < wanted:
                time.sleep(0.2)
            process.send_signal(signal.SIGKILL)
        process.wait()
        words = told.read_text(encoding="utf-8", errors="replace")
        runs.append(
            {
                "ended": process.returncode,
                "seconds": round(time.monotonic() - start, 1),
                "logged": sum(events(log).values()) - before,
                "last_words": words.replace(f"{library}/", "").splitlines()[-3:],
            }
        )
    return {"runs": runs}


def problems(
    library: Path, output: Path, log: Path, made: dict[str, str], before: dict[str, str], kills: int
) -> list[str]:
    """What isn't as it should be after the last run."""
    found = events(log)
    wrong = [f"{name}: the original changed" for name, digest in digests(library).items() if before.get(name) != digest]
    results = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    expected: set[str] = set()
    twice = unlogged = 0
    for name, what in made.items():
        key = str(library / name)
        done, failed = found["done", key], found["failed", key]
        twice += max(done - 1, 0)
        # killed between a result and its line in the log; the repeat knows the result by its contents, and skips it
        recognized = not done and found["skipped", key] > 0
        unlogged += recognized
        if what == "photo":
            target = Path(name).with_suffix(".png") if name.endswith((".bmp", ".gif")) else Path(name)
            expected.add(target.as_posix())
            wrong += check_photo(library / name, output / target, logged=bool(done or recognized))
            expected |= {
                sidecar.relative_to(output).as_posix() for sidecar in sidecars_of(library / name, output / target)
            }
        elif what == "damaged":
            wrong += [] if failed and not done else [f"{name}: damaged, but failed {failed} times"]
        elif done or failed:
            wrong.append(f"{name}: {what}, but restored")
    wrong += [f"{name}: missing" for name in sorted(expected - results)]
    wrong += [f"{name}: nobody's result" for name in sorted(results - expected)]
    if twice > 3 * kills:  # reading, restoring and writing overlap, so three files are in progress
        wrong.append(f"{twice} files were restored twice after {kills} kills")
    if unlogged > 3 * kills:
        wrong.append(f"{unlogged} results appeared without a line in the log after {kills} kills")
    return wrong


def check_photo(photo: Path, result: Path, *, logged: bool) -> list[str]:
    """What isn't as it should be with one photo."""
    if not result.exists():
        return [f"{photo.name}: no result"]
    before, after = photo.stat(), result.stat()
    wrong = [] if logged else [f"{photo.name}: not in the log as done or as skipped"]
    wrong += [] if before.st_mtime_ns == after.st_mtime_ns else [f"{photo.name}: another time"]
    return wrong + ([] if before.st_mode == after.st_mode else [f"{photo.name}: another mode"])


def sidecars_of(photo: Path, result: Path) -> list[Path]:
    """Where the sidecars of a photo should be."""
    both = ((photo.with_suffix(".xmp"), result.with_suffix(".xmp")), (beside(photo), beside(result)))
    return [target for source, target in both if source.exists()]


def beside(path: Path) -> Path:
    """The sidecar that is named after the whole name."""
    return path.with_name(path.name + ".xmp")


def again(library: Path, output: Path, place: Path) -> list[str]:
    """Problems of a run over the results: nothing may be restored."""
    done = subprocess.run(command(output, place, None), capture_output=True, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    restored = [one for one in told if one["ok"] and not any("earlier run" in note for note in one["notes"])]
    wrong = [] if told and not done.returncode else ["nothing was told of the results, or something failed"]
    return wrong + ([f"{len(restored)} results were restored again"] if restored else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library, output, log = (Path(folder, name) for name in ("library", "output", "run.jsonl"))
        made = build(library, arguments.files)
        before = digests(library)
        outcome = run(library, output, log, arguments.files, arguments.kills)
        wrong = problems(library, output, log, made, before, arguments.kills)
        wrong += again(library, output, Path(folder, "again"))
        kinds = Counter(made.values())
        results: dict[str, Any] = {
            "files": arguments.files,
            "kinds": dict(kinds),
            **outcome,
            "restored_twice": sum(max(n - 1, 0) for (event, _), n in events(log).items() if event == "done"),
            "problems": wrong,
        }
    write("library", results, arguments.results)
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
