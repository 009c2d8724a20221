"""Sidecars: small files beside a photo that hold its edits or ratings, copied beside its result."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kbnet import files
from kbnet.errors import KBNetError, OutputExistsError, UnsupportedImageError
from kbnet.imaging import xmp
from kbnet.imaging.photo import printable

_ENDINGS = (".xmp", ".aae")
_LONGEST = 64 << 20  # bytes; a sidecar is a few kilobytes


def sidecars(photo: Path, result: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each sidecar of a photo, and the name that it has beside the result.

    Both customs are known: `photo.xmp` (Adobe, Apple's .AAE) and `photo.jpg.xmp` (darktable, digiKam).
    """
    for ending in _ENDINGS:
        for written in (ending, ending.upper()):
            for stem, target in ((photo.stem, result.stem), (photo.name, result.name)):
                found = photo.with_name(stem + written)
                if found.is_file():  # on file systems that ignore case, twice for the same file
                    yield found, result.with_name(target + written)


def copy_sidecars(photo: Path, result: Path, *, overwrite: bool, upright: bool = True) -> tuple[str, ...]:
    """Copy a photo's sidecars beside its result, and return one line for each that could not be copied.

    An XMP sidecar gets the orientation of the result if that is `upright`; otherwise the result has the pixels and the
    orientation of the photo. Times, mode and owner are kept. A sidecar that would be its own copy is not changed, since
    it may belong to other files too, such as a raw file of that name; a line says if its orientation is another.
    """
    notes = []
    for source, target in sidecars(photo, result):
        try:
            before = _read(source)
            data = xmp.upright(before) if upright and source.suffix.lower() == ".xmp" else before
            if files.same(source, target):
                if data != before:
                    notes.append(
                        f"the sidecar {printable(source.name)} keeps its orientation, but the result is upright"
                    )
                continue
            times = source.stat().st_atime_ns, source.stat().st_mtime_ns
            files.write(data, target, overwrite=overwrite, times=times, like=source)
        except OutputExistsError:
            with contextlib.suppress(OSError):
                if target.read_bytes() == data:
                    continue
            notes.append(f"the sidecar {printable(target.name)} exists and is not replaced")
        except (KBNetError, OSError) as error:
            notes.append(f"the sidecar {printable(source.name)} is not copied ({error})")
    return tuple(notes)


def _read(sidecar: Path) -> bytes:
    with sidecar.open("rb") as file:
        data = file.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise UnsupportedImageError(f"it is larger than {_LONGEST >> 20} MiB")
    return data
