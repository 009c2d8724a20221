"""Build the documentation into build/site, and fail on anything that the build reports.

`zensical build --strict` fails on broken links and the like, but lets warnings about docstrings pass: those come from
griffe, which prints them and goes on. Here every line fails the build that is not one of its usual ones.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USUAL = re.compile(r"|Build started|No issues found|Build finished in [\d.]+m?s")
COLOURS = re.compile(r"\x1b\[[\d;]*m")


def complaints(output: str) -> list[str]:
    """The lines that a build without problems does not print."""
    lines = (COLOURS.sub("", line).strip() for line in output.splitlines())
    return [line for line in lines if not USUAL.fullmatch(line)]


def main() -> int:
    """The command."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    sys.stdout.write(done.stdout)
    found = complaints(done.stdout)
    if found:
        print(f"The build printed {len(found)} unexpected lines, and every one counts as a failure")
    elif done.returncode == 0:
        print("The documentation is in build/site; open build/site/index.html")
    return done.returncode or bool(found)


if __name__ == "__main__":
    sys.exit(main())
