"""Memory left within a container's limits: Linux control groups, versions 1 and 2, from the process's own to the root.

Limits apply on every level, so the smallest one counts. A group's usage includes cached file contents that the system
drops when memory is needed; these count as free.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class _Version(NamedTuple):
    limits: tuple[str, ...]
    usage: str
    reclaimable: str  # in memory.stat


# In version 2, a process above memory.high is throttled until it nearly stops, so that is a limit too.
_V2 = _Version(("memory.max", "memory.high"), "memory.current", "inactive_file ")
_V1 = _Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file ")


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still allocate within its limits; None if it has no known limit.

    Args:
        root: where /proc and the control groups are mounted.
    """
    left = [amount for folder, version in _levels(root) if (amount := _left(folder, version)) is not None]
    return min(left, default=None)


def _levels(root: Path) -> Iterator[tuple[Path, _Version]]:
    """The folders of the groups that can limit the process's memory, from its own to the root of the mount."""
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
                folder = top  # a container sees only its own group, under another name
            yield from ((level, version) for level in (folder, *folder.parents) if level.is_relative_to(top))


def _mounts(lines: list[str], version: _Version) -> Iterator[tuple[str, str]]:
    """(path of the mounted group, mount point) for each mount of that version with the memory controller."""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(" "), [*after.split(" "), "", "", ""][:3]
        right = kind == "cgroup2" if version is _V2 else kind == "cgroup" and "memory" in options.split(",")
        if right and len(fields) > 4:
            yield _unescaped(fields[3]), _unescaped(fields[4])


def _below(path: str, mounted: str) -> PurePosixPath:
    """A group's path relative to the mounted group."""
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
    """The number in a file; None if it contains none, such as "max"."""
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
