"""Build the documentation into build/site; any message of the build is an error.

`zensical build --strict` fails on problems such as broken links, but not on warnings about docstrings, which griffe
only prints. Here, every unexpected line fails the build.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USUAL = re.compile(r"|Build started|No issues found|Build finished in [\d.]+m?s")
COLOURS = re.compile(r"\x1b\[[\d;]*m")


def complaints(output: str) -> list[str]:
    """The lines that a successful build doesn't print."""
    lines = (COLOURS.sub("", line).strip() for line in output.splitlines())
    return [line for line in lines if not USUAL.fullmatch(line)]


def main() -> int:
    """Build the documentation and return the exit code."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    sys.stdout.write(done.stdout)
    found = complaints(done.stdout)
    if found:
        print(f"The build printed {len(found)} unexpected lines, which count as errors")
    elif done.returncode == 0:
        if (app := ROOT / "build" / "web" / "site").exists():  # from `make web`; zensical has emptied the folder
            shutil.copytree(app, ROOT / "build" / "site" / "app")
        print("The documentation is in build/site; open build/site/index.html")
    return done.returncode or bool(found)


if __name__ == "__main__":
    sys.exit(main())
