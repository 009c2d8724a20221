"""Locks on files and folders, and temporary names that show whether their process still runs.

A temporary file is private, has an unguessable name, and is locked while its process works on it. Leftovers of killed
processes can therefore be recognized: they have such a name and no lock.
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
    """Return a name as one line that any terminal can print. Control characters and undecodable bytes are escaped."""
    shown = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def failed(target: Path, error: Exception, cure: str = "check the folder and its permissions") -> OutputError:
    """Return the OutputError for an output that the system refused, with the reason, the remedy and the `errno`.

    `cure` is the remedy for reasons that have no specific one.
    """
    if isinstance(error, OutputError):
        return error
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOENT and not os.path.isdir(target.parent):  # noqa: PTH112 (False for odd names on every Python)
        told = OutputError(f"{printable(target)}: its folder does not exist; create it first")
    else:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        cure = _CURES.get(code or 0, cure)
        told = OutputError(f"{printable(target)}: can't be written: {printable(why.lower())}; {cure}")
    told.errno = code
    return told


@contextmanager
def blamed_on(target: Path) -> Iterator[None]:
    """Convert system errors into OutputError. Wrap only system calls with this, never a caller's code."""
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
    """Lock a folder for this process while the block runs. Creates the folder and its parents if needed.

    The system releases the lock when the process ends, however it ends. Where the system or the file system doesn't
    support locks, nothing is locked.

    Args:
        folder: the folder to lock. The lock is on the folder itself; no lock file is left in it.
        doing, otherwise: parts of the message: "another process is {doing} in FOLDER; wait ..., or {otherwise}".
        error: exception type to raise if another process holds the lock.
        follow: whether `folder` may be a symbolic link. Pass False for state folders with a guessable name: a folder
            that belongs to another user is then refused, and the folder is made private (0700).

    Raises:
        `error`: another process holds the lock.
        OutputError: the folder can't be created or opened.
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
            stack.close()  # the previous holder removed it in the meantime
        yield


def lock(
    descriptor: int,
    path: Path,
    *,
    doing: str = "writing",
    otherwise: str = "choose another name",
    error: type[KBNetError] = OutputError,
) -> None:
    """Lock an open file or folder until its descriptor is closed. See `hold` for the arguments.

    Raises:
        `error`: another process, or another descriptor of this process, holds the lock.
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
    """Return an unguessable name, so that nobody can plant a file there. It contains the machine's `_mark`."""
    return f".kbnet-{_mark()}-{secrets.token_hex(8)}.part"


@cache
def _mark() -> str:
    """Identify the running system: equal for all processes that see each other's locks."""
    try:
        running = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        running = platform.node().encode()
    return hashlib.sha256(running).hexdigest()[:8]


def create(folder: Path) -> tuple[Path, int]:
    """Create an empty temporary file, open and locked, that only its owner can read."""
    sweep(folder)
    while True:
        path = folder / temporary_name()
        descriptor = os.open(path, EXCLUSIVE, 0o600)
        if _claim(descriptor, path):
            return path, descriptor


def create_folder(parent: Path) -> tuple[Path, int | None]:
    """Create an empty temporary folder, locked, that only its owner can access."""
    sweep(parent)
    while True:
        path = parent / temporary_name()
        path.mkdir(0o700)
        if sys.platform == "win32":
            return path, None
        try:
            descriptor = os.open(path, FOLDER | os.O_NOFOLLOW)
        except FileNotFoundError:  # another process removed it as a leftover
            continue
        if _claim(descriptor, path):
            return path, descriptor


def _claim(descriptor: int, path: Path) -> bool:
    """Lock a file or folder just created. Return False if another process already claimed it as a leftover."""
    try:
        ours = True
        if sys.platform != "win32":
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                ours = False  # another process is about to remove it
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
    """Keep other processes from removing a second name of this file as a leftover."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder; once per process and folder, since it lists the whole folder."""
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
    # Locks of other machines may be invisible here, so wait a day: no write takes that long.
    elsewhere = match is None or match[1] != _mark()
    if facts.st_uid != os.geteuid() or (elsewhere and time.time() - facts.st_mtime < _DAY):
        return
    held = os.open(entry.path, (FOLDER | os.O_NOFOLLOW) if entry.is_dir() else EXISTING)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if its process is alive
        remove(Path(entry.path))
    finally:
        os.close(held)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its content. Ignores errors, as it cleans up after other failures."""
    with contextlib.suppress(OSError, ValueError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _holder(descriptor: int) -> str:
    """Return " (pid 123)" for the process that holds the lock of an open file; empty if the system doesn't say."""
    with contextlib.suppress(OSError, ValueError):
        facts = os.fstat(descriptor)
        inode = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == inode and int(fields[4]) > 0:
                return f" (pid {fields[4]})"
    return ""
