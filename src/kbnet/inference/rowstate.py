"""The state of an image that is restored by rows, from which a killed run resumes.

It is in a hidden folder beside the result, which one process at a time holds:

    ledger.jsonl     settings, the plan of tiles, and a line for each finished band; see ledger.py
    rows.raw         restored rows; as large as the decoded image in the end
    carried-N.npy    sums that the first N bands carry into the next one
    means.npz        shared averages of the whole image

No file is trusted because of its name. The ledger contains digests of all files. If anything is missing, truncated,
damaged, or belongs to another image or other settings, the run starts over, with a note.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet import files
from kbnet.engine.contexts import Image, Means
from kbnet.errors import OutputError
from kbnet.imaging import Pixels
from kbnet.imaging.rows import RowFacts
from kbnet.inference.ledger import Ledger, digest
from kbnet.lines import Entry

_LEDGER, _ROWS, _MEANS = "ledger.jsonl", "rows.raw", "means.npz"
_PIECE = 1 << 20  # bytes read at a time
# The system's error for something other than a regular file; None where this program raised the error.
_IN_THE_WAY = (None, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
_OTHERWISE = "choose another name for the result"


class Doubt(Exception):
    """The state is not as a run left it; the text completes the sentence "the state of an earlier run"."""


def folder_of(target: Path) -> Path:
    """The folder with the state of a run into `target`."""
    return target.with_name(f".{target.name}.kbnet-rows")


class RowState:
    """The state of one run; a context manager that holds its folder, and reads and checks the state on entry.

    Args:
        target: the result's path.
        settings: everything that the result depends on besides the input, as plain values.
        source: the input's path.
        facts: of the image.

    Attributes:
        done: number of finished bands.
        note: why the state of an earlier run was not used, or None.

    Raises:
        OutputError: another process is restoring into the same target, or the state can't be written.
    """

    def __init__(self, target: Path, settings: dict[str, Any], source: Path, facts: RowFacts) -> None:
        self.path, self._target, self._facts = folder_of(target), target, facts
        self._source, self._input, self._settings = source, digest(source), settings
        self._row = facts.width * facts.bands * facts.dtype.itemsize  # bytes
        self._stack = ExitStack()
        self.done = 0
        self.note: str | None = None
        self._plan: dict[str, int] | None = None
        self._means: Means | None = None
        self._carried: Image | None = None
        self._bottom = 0  # of the finished bands, a row
        self._hash = hashlib.sha256()  # of the rows written since

    def __enter__(self) -> "RowState":
        with ExitStack() as stack:
            stack.enter_context(files.hold(self.path, doing="restoring rows", otherwise=_OTHERWISE, follow=False))
            try:
                self._open(stack)
                self._read()
            except Doubt as doubt:
                self._begin_anew(stack, str(doubt))
            except OSError as error:
                raise self._failed(error) from None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def finished_before(self) -> bool:
        """Whether an earlier run wrote the result, and was killed before it removed its state."""
        if self._ledger.is_done(self._target, self._input):
            return True
        # in place, that result is the input by now, and the state that of the input before
        return files.same(self._source, self._target) and self._ledger.announced(
            self._target, self._input, self._settings_for
        )

    def plan(self, make: Callable[[], dict[str, int]]) -> dict[str, int]:
        """The plan of the run, made only once: it depends on free memory, which may differ after a restart."""
        if self._plan is None:
            self._plan = make()
            self._ledger.note("plan", **self._plan)
        return self._plan

    def means(self) -> Means | None:
        """The stored shared averages, or None."""
        return self._means

    def keep_means(self, means: Means) -> None:
        """Store shared averages."""
        arrays: dict[str, NDArray[Any]] = {f"mean{i:04}": np.asarray(mean, np.float32) for i, mean in enumerate(means)}
        with files.writing(self.path / _MEANS, overwrite=True) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # names, not allow_pickle
        self._ledger.note("means", sha256=digest(self.path / _MEANS))
        self._means = list(means)

    def carried(self) -> Image | None:
        """Sums that the finished bands carry into the next one, [1,C,h,width]."""
        return self._carried

    def write(self, samples: Pixels) -> None:
        """Append restored rows [h,width,bands]."""
        data = np.ascontiguousarray(samples).data.cast("B")
        try:
            self._rows.write(data)
        except OSError as error:
            raise self._failed(error) from None
        self._hash.update(data)

    def commit(self, done: int, bottom: int, carried: Image | None) -> None:
        """Mark bands as finished, down to row `bottom`: their data is flushed to disk before the ledger line is."""
        try:
            self._rows.flush()
            os.fsync(self._rows.fileno())
        except OSError as error:
            raise self._failed(error) from None
        kept = None
        if carried is not None:
            path = self.path / f"carried-{done}.npy"
            with files.writing(path, overwrite=True) as file:
                np.save(file, carried)
            kept = digest(path)
        made = {"rows_sha256": self._hash.hexdigest(), "carried_sha256": kept}
        self._ledger.note("band", done=done, bottom=bottom, **made, **(self._plan or {}))
        (self.path / f"carried-{done - 1}.npy").unlink(missing_ok=True)
        self.done, self._bottom, self._hash = done, bottom, hashlib.sha256()

    def rows(self) -> Path:
        """The complete file of rows."""
        self._rows.flush()
        return self.path / _ROWS

    def announce(self, encoded: Path) -> None:
        """Announce that this file is about to become the result."""
        self._ledger.promise(self._target, self._input, encoded)

    @property
    def empty(self) -> bool:
        """Whether the state contains nothing that a next run could use."""
        return not self.done and self._means is None

    def remove(self) -> None:
        """Remove the state; if the process is killed here, the next one removes the rest."""
        files.discard(self.path)

    def _open(self, stack: ExitStack) -> None:
        try:
            self._ledger = Ledger(self.path / _LEDGER, self._settings_for(self._input), otherwise=_OTHERWISE)
        except OutputError as error:
            if error.errno not in _IN_THE_WAY:
                raise  # such as a full disk, which is no reason to discard hours of work
            raise Doubt("can't be read") from error
        stack.callback(self._ledger.close)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(self.path / _ROWS, flags, 0o600)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            raise Doubt("can't be read") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Doubt("contains something other than files")
        self._rows = stack.enter_context(os.fdopen(descriptor, "r+b"))

    def _read(self) -> None:
        """Load the state if all of it is intact."""
        bands, plans, means = (self._ledger.entries(event) for event in ("band", "plan", "means"))
        if not bands and not plans:
            begun = self._ledger.begun_before or os.fstat(self._rows.fileno()).st_size
            if begun and not self.finished_before():
                raise Doubt("belongs to another image, other weights or other settings")
            return
        self._plan = _plan_of(plans)
        if means:
            self._means = self._read_means(means[-1])
        for number, band in enumerate(bands, 1):
            self._check_band(number, band)
        if bands:
            self._carried = self._read_carried(bands[-1])
        self._rows.truncate(self._bottom * self._row)  # rows of a band that was not finished
        self._rows.seek(0, os.SEEK_END)
        self.done = len(bands)

    def _check_band(self, number: int, band: Entry) -> None:
        bottom = band.get("bottom")
        if {name: band.get(name) for name in ("side", "limit")} != self._plan:
            raise Doubt("has two plans of tiles")
        if band.get("done") != number or type(bottom) is not int or not self._bottom < bottom <= self._facts.height:
            raise Doubt("lacks a row of tiles")
        found, left = hashlib.sha256(), (bottom - self._bottom) * self._row
        while left and (piece := self._rows.read(min(left, _PIECE))):
            found.update(piece)
            left -= len(piece)
        if left or found.hexdigest() != band.get("rows_sha256"):
            raise Doubt("lacks rows or contains different ones")
        self._bottom = bottom

    def _read_carried(self, band: Entry) -> Image | None:
        if band.get("carried_sha256") is None:
            if self._bottom != self._facts.height:
                raise Doubt("lacks the sums between two rows of tiles")
            return None
        path = self.path / f"carried-{band['done']}.npy"
        self._check_file(path, band["carried_sha256"])
        sums: Image = np.load(path)
        return sums

    def _read_means(self, entry: Entry) -> Means:
        self._check_file(self.path / _MEANS, entry.get("sha256"))
        with np.load(self.path / _MEANS) as stored:
            return [stored[name] for name in sorted(stored.files)]

    def _check_file(self, path: Path, expected: Any) -> None:
        try:
            if digest(path) == expected:
                return
        except OSError:
            pass
        raise Doubt("lacks a file or contains a different one")

    def _begin_anew(self, stack: ExitStack, why: str) -> None:
        self._plan, self._means, self._carried, self._bottom = None, None, None, 0
        self.note = f"started over: the state of an earlier run {why}"
        if hasattr(self, "_ledger"):
            self._ledger.close()
        try:
            for entry in list(self.path.iterdir()):
                files.discard(entry)
            if left := [entry.name for entry in self.path.iterdir()]:
                raise OutputError(
                    f"{files.printable(self.path)}: its {files.printable(left[0])} can't be removed; remove it yourself"
                )
        except OSError as error:
            raise self._failed(error) from None
        try:
            self._open(stack)
        except Doubt:
            raise OutputError(f"{files.printable(self.path)}: can't be written; remove it, or {_OTHERWISE}") from None

    def _settings_for(self, input_digest: str) -> dict[str, Any]:
        return self._settings | {"input": input_digest}

    def _failed(self, error: OSError) -> OutputError:
        return files.failed(self._target, error)


def _plan_of(plans: Sequence[Entry]) -> dict[str, int]:
    if len(plans) != 1:
        raise Doubt("has no plan of tiles or several")
    side, limit = (plans[0].get(name) for name in ("side", "limit"))
    if type(side) is not int or type(limit) is not int or side < 1 or limit < 1:
        raise Doubt("has no plan of tiles")
    return {"side": side, "limit": limit}
