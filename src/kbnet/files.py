"""Atomic file writes, and locks that give one process exclusive use of a file or folder.

    bytes, a file object, or files of a workspace --> .kbnet-….part, private and locked --> flushed to disk --> target

If the process is killed at any moment, `target` is either missing, the old file, or the complete new file. Temporary
files that a killed process leaves behind have a recognisable name and no lock; the next process that writes into the
folder removes them. All other code writes files through this module.
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
    "same",
    "sweep",
    "workspace",
    "write",
    "writing",
]

# Errors of os.link on file systems without hard links (FAT, some network and phone storage).
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)

Times = tuple[int, int]
"""Times of last access and last modification, in nanoseconds, as `os.utime` takes them."""


def write(
    data: bytes | bytearray | memoryview,
    target: Path,
    *,
    overwrite: bool = False,
    times: Times | None = None,
    like: Path | None = None,
) -> None:
    """Write `data` to `target` atomically. See `writing` for permissions, times and errors."""
    with writing(target, overwrite=overwrite, times=times, like=like) as file:
        file.write(data)


@contextmanager
def writing(
    target: Path, *, overwrite: bool = False, times: Times | None = None, like: Path | None = None
) -> Iterator[BinaryIO]:
    """Open a file for writing that appears at `target` when the block ends without an exception.

    The file gets the permissions and, where possible, the owner of the file that it replaces, or of `like`; otherwise
    those of any new file in that folder. Until it is in place, only its owner can read it. Its content and its name are
    flushed to disk before the context manager returns. A symbolic link at `target` is replaced, not followed.

    The file object is write-only and seekable. Exceptions from the block that have nothing to do with this file pass
    through unchanged, including OSError. A failed write to this file is always raised as OutputError, even if a library
    in between swallows or rewraps the error.

    Args:
        target: path of the file. Its folder must exist.
        overwrite: whether to replace an existing file. If False, files that appear while the block runs are kept, too.
        times: access and modification times to set. None means the current time.
        like: file whose permissions and owner a new file gets, such as the photo that it was made from.

    Raises:
        OutputExistsError: `target` exists and `overwrite` is False.
        OutputError: the folder doesn't exist, permission is denied, the disk is full, or `target` is a folder or
            device.
    """
    check(target, overwrite=overwrite)
    with ExitStack() as stack:
        with blamed_on(target):
            temporary, descriptor = create(target.parent)
        stack.callback(remove, temporary)  # on success, the file has its final name by then
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
            raw.ended = True  # discard what is left in the buffer
            file.close()
        if raw.failure is not None:
            raise raw.failure  # a library in between swallowed it
        _place(temporary, opened, target, overwrite, times, like)


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Create a private temporary folder next to `target`, for libraries that write to a path. It is removed at the end.

    Use `place` to move finished files to their final path. Exceptions from the block pass through unchanged.

    Raises:
        OutputError: the folder can't be created.
    """
    with ExitStack() as stack:
        with blamed_on(target):
            folder, held = create_folder(target.parent)
        stack.callback(remove, folder)
        if held is not None:
            stack.callback(os.close, held)
        yield folder


def place(
    source: Path, target: Path, *, overwrite: bool = False, times: Times | None = None, like: Path | None = None
) -> None:
    """Move a finished file to `target` with the same guarantees as `writing`. Both must be on the same file system.

    Raises:
        OutputExistsError, OutputError: as for `writing`. `source` is kept in that case.
    """
    check(target, overwrite=overwrite)
    with blamed_on(target):
        descriptor = os.open(source, EXISTING)
    with io.FileIO(descriptor, "r+") as opened:
        _place(source, opened, target, overwrite, times, like)


def also_as(path: Path, other: Path) -> None:
    """Make `other` a second name (hard link) of the file at `path`, or a copy where hard links aren't supported.

    An existing file at `other` is replaced atomically.

    Raises:
        OutputError: `other` can't be written.
        OSError: `path` can't be read.
    """
    sweep(other.parent)
    temporary = other.parent / temporary_name()
    with path.open("rb") as whole:
        share(whole.fileno())  # so that no other process removes the second name as a leftover
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
            remove(temporary)  # still exists if both were already names of one file


def discard(path: Path) -> None:
    """Remove a file or folder that holds the program's own state.

    If the process is killed midway, the next process removes the rest. Errors are ignored. A symbolic link is removed,
    not followed.
    """
    with contextlib.suppress(OSError):
        aside = path.with_name(temporary_name())
        path.rename(aside)
        _sync_folder(aside.parent)
        remove(aside)


def check(target: Path, *, overwrite: bool = False) -> None:
    """Check early, before long work starts, whether `target` can be written. `writing` checks again without a race.

    Raises:
        OutputExistsError, OutputError: as for `writing`.
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
            f"{printable(target)}: expected a file name for the output, got a folder or device; choose another name"
        )
    if not overwrite:
        raise exists(target)


def same(one: Path, other: Path) -> bool:
    """Whether two paths, however they are spelled, lead to the same existing file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def make_folder(folder: Path) -> None:
    """Create a folder and its parents unless they exist.

    Raises:
        OutputError: permission is denied, or the path exists and isn't a folder.
    """
    with blamed_on(folder):
        folder.mkdir(parents=True, exist_ok=True)


def exists(target: Path) -> OutputExistsError:
    """Return the error for an output that already exists."""
    return OutputExistsError(f"{printable(target)}: the file exists; choose another name or allow overwriting")


class _Raw(io.RawIOBase):
    """Writes to a file that stays open, and remembers the first failure as an error about the final path."""

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


def _place(
    temporary: Path,
    opened: io.FileIO,
    target: Path,
    overwrite: bool,
    times: Times | None,
    like: Path | None,
) -> None:
    with blamed_on(target):
        try:
            _dress(opened.fileno(), temporary, target if overwrite and os.path.lexists(target) else like)
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
    """Set the permissions and the owner that the final file should have."""
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
            if os.fstat(descriptor).st_gid != before.st_gid:  # give this group no more than everyone has
                mode = (mode & ~0o070) | (mode & 0o007) << 3 & mode
    temporary.chmod(mode)


def _mode_of_new(folder: Path) -> int:
    """Return the mode that the system gives a new file; probed each time, as umasks change and folders have ACLs."""
    probe = folder / temporary_name()
    descriptor = os.open(probe, EXCLUSIVE, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777
    finally:
        os.close(descriptor)
        remove(probe)


def _place_new(temporary: Path, target: Path) -> None:
    """Give the file its name unless it is taken, in one atomic step that two processes can't both win."""
    if sys.platform == "win32":
        temporary.rename(target)  # never replaces a file on Windows
        return
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if _rename_new(temporary, target):
            return
        # claim the name with an empty file, then replace the empty file
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            temporary.replace(target)
        except BaseException:
            remove(target)
            raise
    else:
        temporary.unlink()


def _rename_new(temporary: Path, target: Path) -> bool:
    """Rename with Linux's renameat2 and RENAME_NOREPLACE, which FAT supports. Return False where it is unavailable."""
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
    with contextlib.suppress(OSError):  # not all file systems support this
        descriptor = os.open(folder, FOLDER)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
