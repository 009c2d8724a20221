"""Memory that a container's limits leave: Linux control groups, versions 1 and 2, from the process's own to the root.

Limits hold on every level, so the least counts. What a level uses includes file contents that the system keeps in
memory for no one and gives up when asked; they count as free.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class _Version(NamedTuple):
    limits: tuple[str, ...]
    usage: str
    reclaimable: str  # in memory.stat


# In version 2 a process over memory.high is slowed down until it hardly moves, so that is a limit too.
_V2 = _Version(("memory.max", "memory.high"), "memory.current", "inactive_file ")
_V1 = _Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file ")


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take before it meets a limit; None where no limit is known.

    Args:
        root: where /proc and the control groups are mounted.
    """
    left = [amount for folder, version in _levels(root) if (amount := _left(folder, version)) is not None]
    return min(left, default=None)


def _levels(root: Path) -> Iterator[tuple[Path, _Version]]:
    """The folders of the process's groups that can limit memory, from its own to the root of what is mounted."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        version = _V1 if controllers else _V2
        for mounted, place in _mounts(mounts, version):
            inside = _below(path, mounted)
            top = root / place.lstrip("/")
            folder = top / inside
            if not folder.is_dir():
                folder = top  # a container sees its own group alone, by another name
            yield from ((level, version) for level in (folder, *folder.parents) if level.is_relative_to(top))


def _mounts(lines: list[str], version: _Version) -> Iterator[tuple[str, str]]:
    """(path of the group that is mounted, where) of each mount of that version that knows of memory."""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(" "), [*after.split(" "), "", "", ""][:3]
        right = kind == "cgroup2" if version is _V2 else kind == "cgroup" and "memory" in options.split(",")
        if right and len(fields) > 4:
            yield _unescaped(fields[3]), _unescaped(fields[4])


def _below(path: str, mounted: str) -> PurePosixPath:
    """A group's path relative to the one that is mounted."""
    group = PurePosixPath(path)
    return group.relative_to(mounted) if group.is_relative_to(mounted) else PurePosixPath(path.lstrip("/"))


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _left(folder: Path, version: _Version) -> int | None:
    limits = [value for name in version.limits if (value := _number(folder / name)) is not None]
    used = _number(folder / version.usage)
    if not limits or used is None:
        return None
    return max(min(limits) - used + _reclaimable(folder, version), 0)


def _number(file: Path) -> int | None:
    """The number in a file; None where there is none, as where it says "max"."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _reclaimable(folder: Path, version: _Version) -> int:
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith(version.reclaimable)), 0)
    except (OSError, ValueError, IndexError):
        return 0
