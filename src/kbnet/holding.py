"""Who may write where: folders and files held by one process, and temporary names that tell whether their maker lives.

A temporary file is private, has a name that nobody can guess, and is locked for as long as its process works on it. So
what killed processes leave is known by its name and by the lock that it no longer has.
"""

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from kbnet.errors import KBNetError, OutputError

if sys.platform != "win32":
    import fcntl

EXCLUSIVE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
EXISTING = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_CURES = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EFBIG: "write elsewhere or raise the file size limit",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_DAY = 24 * 3600  # seconds
_LEFTOVER = re.compile(r"\.kbnet-([0-9a-f]{8})-[0-9a-f]{16}\.part")
_swept: set[str] = set()
_sweeping = threading.Lock()


def printable(text: object) -> str:
    """A name as one line that any terminal can print: control characters and undecodable bytes become escapes."""
    shown = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def failed(target: Path, error: Exception, cure: str = "check the folder and its permissions") -> OutputError:
    """The error for an output that the system refuses, with the reason and what to do; it keeps the `errno`.

    `cure` is what to do where the reason does not say more.
    """
    if isinstance(error, OutputError):
        return error
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOENT and not os.path.isdir(target.parent):  # noqa: PTH112 (False for odd names on every Python)
        told = OutputError(f"{printable(target)}: its folder does not exist; create it first")
    else:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        cure = _CURES.get(code or 0, cure)
        told = OutputError(f"{printable(target)}: cannot be written: {printable(why.lower())}; {cure}")
    told.errno = code
    return told


@contextmanager
def blamed_on(target: Path) -> Iterator[None]:
    """Turn what the system says into an OutputError; around calls of the system alone, never around a caller's code."""
    try:
        yield
    except KBNetError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise failed(target, error) from None


@contextmanager
def hold(
    folder: Path,
    *,
    doing: str = "writing",
    otherwise: str = "choose another folder",
    error: type[KBNetError] = OutputError,
    follow: bool = True,
) -> Iterator[None]:
    """Keep a folder to this process for as long as the block runs; it is made if it is missing, with its parents.

    The system drops the lock when the process ends, however it ends. Where the system or the file system has no locks,
    nothing is held.

    Args:
        folder: the folder itself is locked, so no lock file is left in it.
        doing, otherwise: words for the message: "another process is {doing} in FOLDER; wait ..., or {otherwise}".
        error: what to raise for a folder that another process holds.
        follow: whether `folder` may be a symbolic link. False is for folders of state with a name that others can
            guess: it also refuses one that belongs to another user, and makes it private (0700).

    Raises:
        `error`: another process holds it.
        OutputError: it cannot be made or opened.
    """
    with contextlib.ExitStack() as stack:
        while True:
            with blamed_on(folder):
                folder.mkdir(0o777 if follow else 0o700, parents=True, exist_ok=True)
                if sys.platform == "win32":
                    break
                held = os.open(folder, FOLDER | (0 if follow else os.O_NOFOLLOW))
            stack.callback(os.close, held)
            if not follow and os.fstat(held).st_uid != os.geteuid():
                raise OutputError(f"{printable(folder)}: belongs to another user; remove it, or {otherwise}")
            lock(held, folder, doing=f"{doing} in", otherwise=otherwise, error=error)
            if _still_there(held, folder):
                if not follow:
                    os.fchmod(held, 0o700)
                break
            stack.close()  # the one who held it has removed it meanwhile
        yield


def lock(
    descriptor: int,
    path: Path,
    *,
    doing: str = "writing",
    otherwise: str = "choose another name",
    error: type[KBNetError] = OutputError,
) -> None:
    """Keep an open file or folder to this process until its descriptor is closed; `hold` says more.

    Raises:
        `error`: another process, or another descriptor of this one, holds it.
    """
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise error(
            f"another process{_holder(descriptor)} is {doing} {printable(path)}; wait for it, stop it, or {otherwise}"
        ) from None
    except OSError:  # a file system without locks
        return


def temporary_name() -> str:
    """Unguessable, so nothing can lie in wait; marked, so that other machines do not judge it by their locks alone."""
    return f".kbnet-{_mark()}-{secrets.token_hex(8)}.part"


@cache
def _mark() -> str:
    """The same for all processes that see each other's locks: those of one running system."""
    try:
        running = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        running = platform.node().encode()
    return hashlib.sha256(running).hexdigest()[:8]


def create(folder: Path) -> tuple[Path, int]:
    """A new empty file, open and locked, readable to its owner alone."""
    sweep(folder)
    while True:
        path = folder / temporary_name()
        descriptor = os.open(path, EXCLUSIVE, 0o600)
        if _claim(descriptor, path):
            return path, descriptor


def create_folder(parent: Path) -> tuple[Path, int | None]:
    """A new empty folder, locked, open to its owner alone."""
    sweep(parent)
    while True:
        path = parent / temporary_name()
        path.mkdir(0o700)
        if sys.platform == "win32":
            return path, None
        try:
            descriptor = os.open(path, FOLDER | os.O_NOFOLLOW)
        except FileNotFoundError:  # another process took it for a leftover
            continue
        if _claim(descriptor, path):
            return path, descriptor


def _claim(descriptor: int, path: Path) -> bool:
    """Lock what was just made, unless another process took it for a leftover in the moment before."""
    try:
        ours = True
        if sys.platform != "win32":
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                ours = False  # that process is about to remove it
            except OSError:  # a file system without locks
                pass
        if ours and _still_there(descriptor, path):
            return True
    except BaseException:
        os.close(descriptor)
        remove(path)
        raise
    os.close(descriptor)
    return False


def _still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def share(descriptor: int) -> None:
    """Keep others from taking a second name of this file for a leftover."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder; once in the life of a process, since it reads the whole folder."""
    with contextlib.suppress(OSError, ValueError), _sweeping:
        known = str(folder.absolute())
        if known in _swept or sys.platform == "win32":
            return
        _swept.add(known)
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if _LEFTOVER.fullmatch(entry.name)]
        for entry in found:
            with contextlib.suppress(OSError):
                _sweep_one(entry)


def _sweep_one(entry: "os.DirEntry[str]") -> None:
    if sys.platform == "win32" or entry.is_symlink():
        return
    facts = entry.stat(follow_symlinks=False)
    match = _LEFTOVER.fullmatch(entry.name)
    # The locks of other machines may not be seen here. None writes for a day.
    elsewhere = match is None or match[1] != _mark()
    if facts.st_uid != os.geteuid() or (elsewhere and time.time() - facts.st_mtime < _DAY):
        return
    held = os.open(entry.path, (FOLDER | os.O_NOFOLLOW) if entry.is_dir() else EXISTING)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whoever is alive has it
        remove(Path(entry.path))
    finally:
        os.close(held)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all in it; quietly, as it is called where something else went wrong."""
    with contextlib.suppress(OSError, ValueError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _holder(descriptor: int) -> str:
    """ " (pid 123)", the process that holds the lock of an open file; empty where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        facts = os.fstat(descriptor)
        inode = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == inode and int(fields[4]) > 0:
                return f" (pid {fields[4]})"
    return ""
