"""The build backend of pyproject.toml: scikit-build-core's, with a C++ compiler from PyPI where the system has none.

Without a compiler, the build also requires the package ziglang, whose `zig c++` is Clang with all that it needs. It
builds for every processor of the architecture, as the system's compilers do, not for the one that it runs on.
"""

import importlib.util
import os
import platform
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scikit_build_core import build as _backend
from scikit_build_core.build import build_sdist, get_requires_for_build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

ZIG = "ziglang>=0.13"
COMPILERS = ("c++", "g++", "clang++", "icpx")
"""What CMake looks for on Linux, if CXX isn't set."""

_TOOLS = {"cc": "cc", "c++": "c++", "ar": "ar", "ranlib": "ranlib"}
_GLIBC = "2.28"  # the oldest that the wheels run with


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return scikit-build-core's requirements, and ziglang where there is no compiler."""
    return [*_backend.get_requires_for_build_wheel(config_settings), *_compiler()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """Return the same for an editable installation."""
    return [*_backend.get_requires_for_build_editable(config_settings), *_compiler()]


def build_wheel(directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Build a wheel."""
    with _zig():
        return _backend.build_wheel(directory, config_settings, metadata_directory)


def build_editable(directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Build a wheel that installs the sources in place."""
    with _zig():
        return _backend.build_editable(directory, config_settings, metadata_directory)


def needs_zig() -> bool:
    """Whether CMake would find no C++ compiler on a system that ziglang can build for as tested: Linux."""
    return sys.platform == "linux" and not os.environ.get("CXX") and not any(map(shutil.which, COMPILERS))


def target() -> str:
    """Return Zig's name of this architecture and C library. If it is given, Zig builds for the baseline processor."""
    libc = f"gnu.{_GLIBC}" if platform.libc_ver()[0] == "glibc" else "musl"
    return f"{platform.machine()}-linux-{libc}"


def _compiler() -> list[str]:
    return [ZIG] if needs_zig() else []


@contextmanager
def _zig() -> Iterator[None]:
    """Make CMake use ziglang's compiler inside the context manager, if there is no other."""
    if not needs_zig() or importlib.util.find_spec("ziglang") is None:
        yield
        return
    print("No C++ compiler found: building with ziglang, about two minutes", file=sys.stderr)
    folder = Path("build", "zig").resolve()  # the same in every build: CMake remembers its compilers
    tools = write_tools(folder)
    arguments = f"-DCMAKE_AR={tools['ar']} -DCMAKE_RANLIB={tools['ranlib']}"
    ours = {
        "CC": str(tools["cc"]),
        "CXX": str(tools["c++"]),
        "CMAKE_ARGS": f"{arguments} {os.environ.get('CMAKE_ARGS', '')}".strip(),
        "ZIG_GLOBAL_CACHE_DIR": str(folder / "cache"),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "cache"),
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def write_tools(folder: Path) -> dict[str, Path]:
    """Write scripts that call ziglang's tools by the names that CMake expects, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, command in _TOOLS.items():
        # Zig's own default is the processor that it runs on, and checks for undefined behaviour.
        options = f" -target {target()} -fno-sanitize=undefined" if name in ("cc", "c++") else ""
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang {command}{options} "$@"\n', encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        found[name] = path
    return found
