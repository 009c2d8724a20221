"""Fingerprints of a run's photos, by which a resumed run notices that they changed."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kbnet.data import Item

Fingerprint = dict[str, str | int]
"""A source's name, its numbers of photos, and digests of its photos and of those held out. Plain, for a checkpoint."""


def fingerprint(source: str, folders: Sequence[Path], items: Sequence[Item], held_out: Sequence[Item]) -> Fingerprint:
    """Describe a source's photos by their names within its folders, their sizes in bytes, and their order.

    Contents aren't read, which would take minutes for a large data set. A moved folder has the same fingerprint.
    """
    return {
        "source": source,
        "count": len(items),
        "held out": len(held_out),
        "photos": _digest(folders, items),
        "split": _digest(folders, held_out),
    }


def changes(before: object, now: Iterable[Fingerprint]) -> str:
    """Say in a few words how photos differ from those of a checkpoint; "" if they don't.

    Args:
        before: fingerprints from the checkpoint. If there are none (it is an old checkpoint), nothing changed.
        now: fingerprints of the present photos.
    """
    if not isinstance(before, list):
        return ""
    old: dict[Any, dict[str, Any]] = {entry.get("source"): entry for entry in before if isinstance(entry, dict)}
    new = {entry["source"]: entry for entry in now}
    told = []
    for source in dict.fromkeys([*new, *old]):
        was, found = old.get(source), new.get(source)
        if was is None or found is None:
            told.append(f"source {source} was {'added' if was is None else 'removed'}")
        elif was.get("count") != found["count"]:
            told.append(f"source {source} has {found['count']} photos, not {was.get('count')}")
        elif was.get("photos") != found["photos"]:
            told.append(f"source {source} has other photos")
        elif was != found:
            told.append(f"source {source} holds out other photos")
    return ", ".join(told)


def _digest(folders: Sequence[Path], items: Iterable[Item]) -> str:
    told = hashlib.blake2b(digest_size=16)
    for item in items:
        for path in (item.clean, item.degraded):
            told.update(b"-\0" if path is None else f"{_name(path, folders)}\0{_size(path)}\0".encode(errors="replace"))
    return told.hexdigest()


def _name(path: Path, folders: Sequence[Path]) -> str:
    inside = next((folder for folder in folders if path.is_relative_to(folder)), path.parent)
    return path.relative_to(inside).as_posix()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # decoding tells
