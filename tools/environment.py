"""Prepare the environment that the Makefile's targets run in. Needs Python 3.11 and nothing else.

    tools/environment.py --extra dev           create .venv if there is none, and install kbnet with its extra there
    tools/environment.py --extra dev --check   change nothing; say what this interpreter lacks

Packages come at the versions of constraints.txt, through uv where it is installed and through pip otherwise. What was
installed is recorded in .venv, so a second call returns at once until a file that describes the package changes.

On Linux the torch of the Python package index is a CUDA build of several gigabytes. TORCH_INDEX names the index that
torch comes from instead. Its default is PyTorch's own index of CPU builds, unless pip is configured with sources of its
own: then those decide. TORCH_INDEX=none adds nothing.
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
# pip's settings that name where packages come from
SOURCES = ("index-url", "extra-index-url", "find-links", "no-index")
UV_SOURCES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_TORCH_BACKEND")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def say(*lines: str) -> None:
    """Print to stderr, so that a target's own output stays clean."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def fingerprint() -> str:
    """A hash of everything that an installation depends on; Python sources are used in place."""
    described = [ROOT / name for name in ("pyproject.toml", "constraints.txt", "CMakeLists.txt")]
    described += sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in described:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def requirements(extra: str) -> dict[str, str]:
    """What kbnet and its extra ask for on this system: each distribution's name, and its line in pyproject.toml."""
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
    """The distributions that this interpreter does not have."""

    def installed(name: str) -> bool:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    return sorted(name for name in requirements(extra) if not installed(name))


def check(extra: str) -> int:
    """Say what the interpreter that somebody chose lacks, and the command that brings it; install nothing."""
    missing = lacking(extra)
    if not missing:
        return 0
    target = f".[{extra}]" if extra else "."
    say(
        f"{sys.executable} lacks {', '.join(missing[:6])}{' and more' if len(missing) > 6 else ''}. Install with:",
        f"  {shlex.join([sys.executable, '-m', 'pip', 'install', '-c', 'constraints.txt', '-e', target])}",
        "or deactivate this environment and leave out PYTHON=, and make uses .venv.",
    )
    return 1


def pip_has_sources() -> bool:
    """Whether pip is configured, by files or by its environment, with places to take packages from."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    keys = [line.partition("=")[0].rpartition(".")[2].lower().replace("_", "-") for line in done.stdout.splitlines()]
    return any(key in SOURCES for key in keys)


def uses_uv() -> bool:
    """Whether uv installs. It does not read pip's configuration, so sources that only pip knows call for pip."""
    if shutil.which("uv") is None:
        return False
    return any(name in os.environ for name in UV_SOURCES) or not pip_has_sources()


def torch_options(uv: bool) -> list[str]:
    """The options that keep torch from being a CUDA build."""
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
    """Whether .venv is absent, or has an interpreter that kbnet runs on."""
    if not (VENV / "pyvenv.cfg").exists():
        return True
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([str(VENV / "bin" / "python"), "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def make_venv(uv: bool) -> None:
    """Make .venv, or explain which package of the system brings the tool for it."""
    if (VENV / "bin" / "python").exists():
        return
    say(f"Creating .venv with Python {sys.version.split()[0]}{' and uv' if uv else ''}")
    if uv:
        subprocess.run(["uv", "venv", "--quiet", "--seed", "--python", sys.executable, str(VENV)], check=True)
        return
    try:
        import ensurepip  # noqa: F401  # Debian has it in a package of its own
        import venv  # noqa: F401
    except ImportError:
        say(
            "This Python has no venv module. To install it:",
            f"  sudo apt install python3.{sys.version_info.minor}-venv",
            "or install uv (https://docs.astral.sh/uv/), which needs none.",
        )
        raise SystemExit(1) from None
    making = VENV.with_name(f".venv-{os.getpid()}")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(making)], check=True)
        shutil.rmtree(making)  # it works here: now in place, since scripts in it hold its path
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def mention_missing_tools(extra: str) -> None:
    """Name the optional tools that are missing, each with the command that brings it."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))):
        say("No C++ compiler found: kbnet works without its compiled kernels, but slower. To get them:")
        say("  sudo apt install g++       (macOS: xcode-select --install), then remove .venv and repeat this command")
    elif not headers.exists():
        say("Python's C headers are missing: kbnet works without its compiled kernels, but slower. To get them:")
        say(f"  sudo apt install python3.{sys.version_info.minor}-dev, then remove .venv and repeat this command")
    if extra == "dev" and not any(map(shutil.which, BROWSERS)):
        say("No Chromium found: the tests of the web page are skipped. To run them:")
        say("  sudo apt install chromium  (macOS: brew install --cask google-chrome)")


def mark(extra: str) -> Path:
    """The file that records what is installed."""
    return VENV / f".kbnet-{extra or 'core'}"


def installed(extra: str) -> bool:
    """Whether the extra is installed for the package as it is described now."""
    path = mark(extra)
    return path.exists() and path.read_text(encoding="utf-8") == fingerprint()


def install(extra: str) -> None:
    """Install kbnet in place, with its extra, at the versions of constraints.txt."""
    uv = uses_uv()
    make_venv(uv)
    mention_missing_tools(extra)
    python = str(VENV / "bin" / "python")
    constraints = str(ROOT / "constraints.txt")
    if uv:
        command = ["uv", "pip", "install", "--quiet", "--python", python, "--build-constraint", constraints]
    else:
        command = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    command += [*torch_options(uv), "--constraint", constraints]
    if extra and installed(""):  # the package itself is there, compiled
        command += sorted(requirements(extra).values())
    else:
        command += ["--editable", f"{ROOT}[{extra}]" if extra else str(ROOT)]
    say(f"Installing kbnet{f'[{extra}]' if extra else ''} into .venv: a few minutes, once")
    # the tools of the build itself: older releases of pip read the first name, newer ones the second
    environment = os.environ | {"PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints}
    done = subprocess.run(command, env=environment)
    if done.returncode != 0:
        say(f"Installation failed. The command was: {shlex.join(command)}")
        raise SystemExit(1)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", default="", help="the extra of pyproject.toml to install beside the package")
    parser.add_argument("--check", action="store_true", help="install nothing")
    given = parser.parse_args()
    if given.check:
        return check(given.extra)
    if not usable():
        say(".venv has no Python that is 3.11 or newer. Remove it and repeat this command.")
        return 1
    if not installed(given.extra):
        install(given.extra)
        for extra in {"", given.extra}:
            mark(extra).write_text(fingerprint(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
