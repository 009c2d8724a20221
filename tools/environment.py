"""Prepare the environment for the Makefile's targets. Needs only Python 3.11.

    tools/environment.py --extra dev           create .venv if needed, and install kbnet with the extra there
    tools/environment.py --extra dev --check   change nothing; report missing packages

Installs the versions in constraints.txt, with uv if it is installed and otherwise with pip. A file in .venv records the
installation, so later calls return immediately until a file that describes the package changes.

Some extras need torch. On Linux, torch on the Python package index is a CUDA build of several gigabytes. TORCH_INDEX
selects another index for torch. Its default is PyTorch's own index of CPU builds, unless pip's configuration sets
package sources. TORCH_INDEX=none adds no index.
"""

import argparse
import hashlib
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTORCH_CPU = "https://download.pytorch.org/whl/cpu"
# pip's settings for package sources
SOURCES = ("index-url", "extra-index-url", "find-links", "no-index")
UV_SOURCES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_TORCH_BACKEND")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def say(*lines: str) -> None:
    """Print to stderr, to keep the target's own output clean."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def fingerprint() -> str:
    """A hash of all files that affect the installation, except Python sources, which are used in place."""
    described = [ROOT / name for name in ("pyproject.toml", "constraints.txt", "CMakeLists.txt")]
    described.append(ROOT / "tools" / "build_backend.py")
    described += sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in described:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def requirements(extra: str) -> dict[str, str]:
    """The requirements of kbnet and its extra on this system: names and their lines in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    found: dict[str, str] = {}
    waiting, seen = [*project["dependencies"], *extras.get(extra, [])], set()
    while waiting:
        line = waiting.pop()
        requirement, _, marker = line.partition(";")
        name, own = re.match(r"([\w.-]+)(?:\[([^]]*)\])?", requirement).groups()  # type: ignore[union-attr]
        if name == "kbnet":
            new = set((own or "").replace(" ", "").split(",")) - seen
            seen |= new
            waiting += [line for one in new for line in extras.get(one, [])]
        elif "sys_platform == 'linux'" not in marker or sys.platform == "linux":
            found[name] = requirement.strip()
    return found


def lacking(extra: str) -> list[str]:
    """The distributions that are missing in this interpreter."""

    def installed(name: str) -> bool:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    return sorted(name for name in requirements(extra) if not installed(name))


def check(extra: str) -> int:
    """Report missing packages of the chosen interpreter and the command that installs them; install nothing."""
    missing = lacking(extra)
    if not missing:
        return 0
    target = f".[{extra}]" if extra else "."
    say(
        f"{sys.executable} lacks {', '.join(missing[:6])}{' and more' if len(missing) > 6 else ''}. Install with:",
        f"  {shlex.join([sys.executable, '-m', 'pip', 'install', '-c', 'constraints.txt', '-e', target])}",
        "To use .venv instead, deactivate this environment and leave out PYTHON=.",
    )
    return 1


def pip_has_sources() -> bool:
    """Whether pip's configuration files or environment variables set package sources."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    keys = [line.partition("=")[0].rpartition(".")[2].lower().replace("_", "-") for line in done.stdout.splitlines()]
    return any(key in SOURCES for key in keys)


def uses_uv() -> bool:
    """Whether to use uv. It doesn't read pip's configuration, so sources set there need pip."""
    if shutil.which("uv") is None:
        return False
    return any(name in os.environ for name in UV_SOURCES) or not pip_has_sources()


def torch_options(uv: bool, extra: str) -> list[str]:
    """The options that select a CPU build of torch, if the extra needs it."""
    if "torch" not in requirements(extra):
        return []
    index = os.environ.get("TORCH_INDEX", "")
    if index == "none":
        return []
    if not index:
        configured = any(name in os.environ for name in UV_SOURCES) if uv else pip_has_sources()
        if sys.platform != "linux" or configured:
            return []
        if uv:
            return ["--torch-backend", "cpu"]
        index = PYTORCH_CPU
    return ["--index" if uv else "--extra-index-url", index]


def usable() -> bool:
    """Whether .venv doesn't exist or has a suitable interpreter."""
    if not (VENV / "pyvenv.cfg").exists():
        return True
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([str(VENV / "bin" / "python"), "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def make_venv(uv: bool) -> None:
    """Create .venv, or print which system package is needed for that."""
    if (VENV / "bin" / "python").exists():
        return
    say(f"Creating .venv with Python {sys.version.split()[0]}{' and uv' if uv else ''}")
    if uv:
        subprocess.run(["uv", "venv", "--quiet", "--seed", "--python", sys.executable, str(VENV)], check=True)
        return
    try:
        import ensurepip  # noqa: F401  # a separate package on Debian
        import venv  # noqa: F401
    except ImportError:
        say(
            "This Python has no venv module. To install it:",
            f"  sudo apt install python3.{sys.version_info.minor}-venv",
            "or install uv (https://docs.astral.sh/uv/), which doesn't need it.",
        )
        raise SystemExit(1) from None
    making = VENV.with_name(f".venv-{os.getpid()}")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(making)], check=True)
        shutil.rmtree(making)  # it works: now create it in place, because its scripts contain its path
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def mention_missing_tools(extra: str) -> None:
    """Report missing optional tools with the commands that install them."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))):
        if sys.platform == "linux":
            say("No C++ compiler found: compiling with one from the package ziglang, which takes two minutes longer")
        else:
            say("No C++ compiler found: kbnet works without its compiled kernels, but much slower. To get them:")
            say("  xcode-select --install, then remove .venv and repeat this command")
    if not headers.exists():
        say("Python's C headers are missing: kbnet works without its compiled kernels, but much slower. To get them:")
        say(f"  sudo apt install python3.{sys.version_info.minor}-dev, then remove .venv and repeat this command")
    if extra == "dev" and not any(map(shutil.which, BROWSERS)):
        say("No Chromium found: the tests of the web page are skipped. To run them:")
        say("  sudo apt install chromium  (macOS: brew install --cask google-chrome)")


def mark(extra: str) -> Path:
    """The file that records what is installed."""
    return VENV / f".kbnet-{extra or 'core'}"


def installed(extra: str) -> bool:
    """Whether the extra is installed and up to date."""
    path = mark(extra)
    return path.exists() and path.read_text(encoding="utf-8") == fingerprint()


def install(extra: str) -> None:
    """Install kbnet in place with its extra, at the versions in constraints.txt."""
    uv = uses_uv()
    make_venv(uv)
    mention_missing_tools(extra)
    python = str(VENV / "bin" / "python")
    constraints = str(ROOT / "constraints.txt")
    if uv:
        command = ["uv", "pip", "install", "--quiet", "--python", python, "--build-constraint", constraints]
    else:
        command = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    command += [*torch_options(uv, extra), "--constraint", constraints]
    if extra and installed(""):  # the package is already compiled
        command += sorted(requirements(extra).values())
    else:
        command += ["--editable", f"{ROOT}[{extra}]" if extra else str(ROOT)]
    say(f"Installing kbnet{f'[{extra}]' if extra else ''} into .venv; this takes a few minutes, once")
    # constraints for build tools: older releases of pip read the first name, newer ones the second
    environment = os.environ | {"PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints}
    done = subprocess.run(command, env=environment)
    if done.returncode != 0:
        say(f"Installation failed. The command was: {shlex.join(command)}")
        raise SystemExit(1)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", default="", help="the extra of pyproject.toml to install with the package")
    parser.add_argument("--check", action="store_true", help="install nothing")
    given = parser.parse_args()
    if given.check:
        return check(given.extra)
    if not usable():
        say(".venv contains no Python 3.11 or newer. Remove it and repeat this command.")
        return 1
    if not installed(given.extra):
        install(given.extra)
        for extra in {"", given.extra}:
            mark(extra).write_text(fingerprint(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
