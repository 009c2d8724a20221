"""Time a new user's first steps: from `git clone` to the first restored photo, and to the end of the tests.

    python benchmarks/first_minutes.py            # at least ten minutes; needs git, make and the package index
    python benchmarks/first_minutes.py --no-test  # only the demo

Clones the current commit into an empty folder and runs the README's two commands there with an empty home folder. It
uses no packages, caches or environments of this machine, and of its settings only the package indexes.
Writes benchmarks/results/first-minutes.json with both transcripts.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from facts import write

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("PIP_", "UV_", "SSL_", "TORCH_INDEX", "http_proxy", "https_proxy", "no_proxy")


def bare_environment(home: Path) -> dict[str, str]:
    """PATH without an active environment, an empty home folder, and the package index settings."""
    active = os.environ.get("VIRTUAL_ENV", "")
    path = [part for part in os.environ["PATH"].split(os.pathsep) if not active or not part.startswith(active)]
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    configuration = Path.home() / ".config" / "pip" / "pip.conf"
    if configuration.exists():
        kept.setdefault("PIP_CONFIG_FILE", str(configuration))
    kept.pop("PIP_CONSTRAINT", None)
    return kept | {"PATH": os.pathsep.join(path), "HOME": str(home), "LANG": "C.UTF-8"}


def run(command: list[str], folder: Path, environment: dict[str, str], hidden: Path) -> dict[str, object]:
    """Run a command; return its time in seconds, exit status and transcript."""
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    seconds = time.perf_counter() - start
    shown = " ".join(command).replace(ROOT.as_uri(), "REPOSITORY")
    print(done.stdout, f"{shown}: {seconds:.0f} s, status {done.returncode}", sep="\n", flush=True)
    lines = done.stdout.replace(str(hidden), "").splitlines()
    return {"command": shown, "seconds": round(seconds, 1), "status": done.returncode, "transcript": lines}


def size(folder: Path) -> float:
    """Megabytes of a folder's files."""
    return round(sum(path.lstat().st_size for path in folder.rglob("*")) / 1e6)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-test", action="store_true", help="stop after `make demo`")
    parser.add_argument("--note", default="", help="a note about the machine, such as other load")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="first-minutes-"))
    try:
        home, clone = place / "home", place / "kbnet"
        home.mkdir()
        environment = bare_environment(home)
        steps = [run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), "kbnet"], place, environment, place)]
        steps.append(run(["make", "demo"], clone, environment, place))
        first_picture = sum(float(str(step["seconds"])) for step in steps)
        assert (clone / "demo" / "before-after.jpg").exists(), "the demo wrote no image"
        sizes = {
            "clone with .git": size(clone) - size(clone / ".venv"),
            "environment of the demo": size(clone / ".venv"),
        }
        if not given.no_test:
            steps.append(run(["make", "test"], clone, environment, place))
            sizes["environment of the tests"] = size(clone / ".venv")
        result = {
            "title": "from git clone to the first restored photo, and through the tests",
            "note": given.note,
            "kept": "an empty home folder; only the settings that name package indexes were kept",
            "seconds_to_first_picture": round(first_picture, 1),
            "megabytes": sizes,
            "steps": steps,
        }
        print(write("first-minutes", result))
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
