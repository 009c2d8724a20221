"""The one way to put a file in place, and the one way to hold a file or folder for a single writer.

    bytes, a file object, or files of a workspace --> .kbnet-….part, private and locked --> flushed to disk --> target

Whatever is killed at whatever moment, `target` is missing, the old file, or the new one whole. What a killed process
leaves has a name of its own kind and no lock; the next process that writes into that folder removes it.
"""

import contextlib
import ctypes
import errno
import io
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from kbnet.errors import OutputError, OutputExistsError
from kbnet.holding import (
    EXCLUSIVE,
    EXISTING,
    FOLDER,
    blamed_on,
    create,
    create_folder,
    failed,
    hold,
    lock,
    printable,
    remove,
    share,
    sweep,
    temporary_name,
)

__all__ = [
    "Times",
    "also_as",
    "check",
    "discard",
    "exists",
    "failed",
    "hold",
    "lock",
    "make_folder",
    "place",
    "printable",
    "sweep",
    "workspace",
    "write",
    "writing",
]

# What os.link answers on file systems without hard links (FAT, some network and phone storage).
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)

Times = tuple[int, int]
"""Of the last access and of the last change, in nanoseconds, as `os.utime` takes them."""


def write(
    data: bytes | bytearray | memoryview, target: Path, *, overwrite: bool = False, times: Times | None = None
) -> None:
    """Put the bytes of a file at `target`, whole or not at all; see `writing` for modes, times and errors."""
    with writing(target, overwrite=overwrite, times=times) as file:
        file.write(data)


@contextmanager
def writing(target: Path, *, overwrite: bool = False, times: Times | None = None) -> Iterator[BinaryIO]:
    """A file object to fill; the file appears at `target` at the end of the block, and only if no exception leaves it.

    The file has the permissions of the file that it replaces, and where possible its owner; else those of any new file
    in that folder. Until it is in place only its owner can read it. Its bytes and its name are on disk before this
    returns. A symbolic link at `target` is replaced, not followed.

    The file object can seek and is write-only. An exception of the block that has another cause than this file passes
    through unchanged, an OSError included. A failure to write this file is raised as OutputError whatever a library
    in between makes of it.

    Args:
        target: the file; its folder must exist.
        overwrite: whether it may replace a file. False holds for files that appear while the block runs, too.
        times: of access and change that the file is to have; None leaves the present.

    Raises:
        OutputExistsError: there is a file, and `overwrite` is False.
        OutputError: no such folder, not allowed, disk full, or `target` is a folder or device.
    """
    check(target, overwrite=overwrite)
    with ExitStack() as stack:
        with blamed_on(target):
            temporary, descriptor = create(target.parent)
        stack.callback(remove, temporary)  # on success it has another name by now
        opened = stack.enter_context(io.FileIO(descriptor, "r+"))
        raw = _Raw(opened, target)
        file = io.BufferedWriter(raw)
        try:
            yield cast(BinaryIO, file)
            if not file.closed:
                file.flush()
        except Exception:
            if raw.failure is not None:
                raise raw.failure from None
            raise
        finally:
            raw.ended = True  # what is left in the buffer goes nowhere
            file.close()
        if raw.failure is not None:
            raise raw.failure  # something in between kept it to itself
        _place(temporary, opened, target, overwrite, times)


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A private folder beside `target`, for libraries that write to a path; it disappears with all that is in it.

    Use `place` to put its files where they belong. Exceptions of the block pass through unchanged.

    Raises:
        OutputError: the folder cannot be made.
    """
    with ExitStack() as stack:
        with blamed_on(target):
            folder, held = create_folder(target.parent)
        stack.callback(remove, folder)
        if held is not None:
            stack.callback(os.close, held)
        yield folder


def place(source: Path, target: Path, *, overwrite: bool = False, times: Times | None = None) -> None:
    """Give a finished file of the same file system its place, as `writing` does; `source` has gone then.

    Raises:
        OutputExistsError, OutputError: as `writing`; `source` is still there.
    """
    check(target, overwrite=overwrite)
    with blamed_on(target):
        descriptor = os.open(source, EXISTING)
    with io.FileIO(descriptor, "r+") as opened:
        _place(source, opened, target, overwrite, times)


def also_as(path: Path, other: Path) -> None:
    """Let `other` be the file that `path` is now, in place of whatever it was: a second name, or a copy where needed.

    Raises:
        OutputError: `other` cannot be written.
        OSError: `path` cannot be read.
    """
    sweep(other.parent)
    temporary = other.parent / temporary_name()
    with path.open("rb") as whole:
        share(whole.fileno())  # so that no other process takes the second name for a leftover
        try:
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                with writing(other, overwrite=True) as copy:
                    shutil.copyfileobj(whole, copy)
                return
            with blamed_on(other):
                temporary.replace(other)
                _sync_folder(other.parent)
        finally:
            remove(temporary)  # still there where both were names of one file already


def discard(path: Path) -> None:
    """Remove a file or folder of the program's own state; a kill on the way leaves what the next process removes.

    What cannot be removed is left. A symbolic link is removed, not followed.
    """
    with contextlib.suppress(OSError):
        aside = path.with_name(temporary_name())
        path.rename(aside)
        _sync_folder(aside.parent)
        remove(aside)


def check(target: Path, *, overwrite: bool = False) -> None:
    """Refuse early what can be seen early, before minutes go into the work; writing checks again without a race.

    Raises:
        OutputExistsError, OutputError: as `writing`.
    """
    sweep(target.parent)
    with blamed_on(target):
        try:
            mode = target.stat().st_mode
        except FileNotFoundError:
            if not target.parent.is_dir():
                raise
            if target.is_symlink() and not overwrite:
                raise exists(target) from None
            return
    if not stat.S_ISREG(mode):
        raise OutputError(
            f"{printable(target)}: expected the name of a file to write, got a folder or device; choose another"
        )
    if not overwrite:
        raise exists(target)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        OutputError: not allowed, or something else is in its place.
    """
    with blamed_on(folder):
        folder.mkdir(parents=True, exist_ok=True)


def exists(target: Path) -> OutputExistsError:
    """The error for a file that is in the way."""
    return OutputExistsError(f"{printable(target)}: the file exists; choose another name or ask for overwriting")


class _Raw(io.RawIOBase):
    """Writes to a file that stays open; remembers what went wrong, in words about the file that it is to be."""

    def __init__(self, opened: io.FileIO, target: Path) -> None:
        self._opened, self._target = opened, target
        self.failure: OutputError | None = None
        self.ended = False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._opened.seek(offset, whence)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.ended:
            return len(view)
        done = 0
        try:
            while done < len(view):
                done += self._opened.write(view[done:])
        except OSError as error:
            self.failure = self.failure or failed(self._target, error)
            raise self.failure from None
        return done


def _place(temporary: Path, opened: io.FileIO, target: Path, overwrite: bool, times: Times | None) -> None:
    with blamed_on(target):
        try:
            _dress(opened.fileno(), temporary, target if overwrite else None)
            if times is not None:
                os.utime(temporary, ns=times)
            os.fsync(opened.fileno())
            if sys.platform == "win32":
                opened.close()
            if overwrite:
                temporary.replace(target)
            else:
                _place_new(temporary, target)
        except FileExistsError:
            raise exists(target) from None
        _sync_folder(target.parent)


def _dress(descriptor: int, temporary: Path, replaced: Path | None) -> None:
    """The permissions and the owner that the file is to have."""
    try:
        before = None if replaced is None else replaced.stat()
    except FileNotFoundError:
        before = None
    if before is None:
        mode = _mode_of_new(temporary.parent)
    else:
        mode = stat.S_IMODE(before.st_mode) & 0o777
        mine = os.fstat(descriptor)
        if sys.platform != "win32" and (mine.st_uid, mine.st_gid) != (before.st_uid, before.st_gid):
            try:
                os.fchown(descriptor, before.st_uid, before.st_gid)
            except OSError:
                with contextlib.suppress(OSError):
                    os.fchown(descriptor, -1, before.st_gid)
            if os.fstat(descriptor).st_gid != before.st_gid:  # no more for this group than for everyone
                mode = (mode & ~0o070) | (mode & 0o007) << 3 & mode
    temporary.chmod(mode)


def _mode_of_new(folder: Path) -> int:
    """What the system gives a new file there; asked each time, as umasks change and folders have rules of their own."""
    probe = folder / temporary_name()
    descriptor = os.open(probe, EXCLUSIVE, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777
    finally:
        os.close(descriptor)
        remove(probe)


def _place_new(temporary: Path, target: Path) -> None:
    """Give the file its name unless that is taken, in one step that two programs cannot both win."""
    if sys.platform == "win32":
        temporary.rename(target)  # never over another, there
        return
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if _rename_new(temporary, target):
            return
        # claim the name with an empty file, then replace that
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            temporary.replace(target)
        except BaseException:
            remove(target)
            raise
    else:
        temporary.unlink()


def _rename_new(temporary: Path, target: Path) -> bool:
    """Linux's renameat2 with RENAME_NOREPLACE, which memory cards' file systems know; False where there is none."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    here, no_replace = -100, 1  # AT_FDCWD, RENAME_NOREPLACE
    if rename(here, os.fsencode(temporary), here, os.fsencode(target), no_replace) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, *_NO_LINKS):
        return False
    raise OSError(code, os.strerror(code), str(target))


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):  # not all file systems know this
        descriptor = os.open(folder, FOLDER)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
