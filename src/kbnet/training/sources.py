"""Loads the data of a recipe: the photo sets for training, and the photos held out for validation."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbnet.data import Item, PhotoSet, decode_all, find_items, hold_out, photo_set
from kbnet.data.drawn import draw_pictures
from kbnet.data.photos import Pixels
from kbnet.errors import InvalidInputError
from kbnet.training.fingerprint import Fingerprint, fingerprint
from kbnet.training.recipe import Recipe, SourceSection

_log = logging.getLogger(__name__)

_DRAWN, _DRAWN_SIDE, _DRAWN_CLEAN_SHARE = 128, 256, 0.3


@dataclass(frozen=True)
class HeldOut:
    """Validation photos or pairs of one source: clean pixels, and for pairs degraded ones.

    Attributes:
        source: the source.
        photos: its validation photos.
        fingerprint: of all its photos, also those for training.
    """

    source: SourceSection
    photos: list[tuple[Pixels, Pixels | None]]
    fingerprint: Fingerprint


def assign_folders(sources: Sequence[SourceSection], data: Sequence[Path | str]) -> list[list[Path]]:
    """Assign folders, given as FOLDER or NAME=FOLDER, to sources.

    NAME is the `folder` of a source. Plain folders serve all sources without a NAME=FOLDER: a source without `folder`
    uses them directly, others use their subfolder of that name.

    Raises:
        InvalidInputError: a source has no folder.
    """
    names = {source.folder for source in sources if source.folder is not None}
    plain: list[Path] = []
    named: dict[str, list[Path]] = {}
    for given in data:
        name, equals, rest = str(given).partition("=")
        if equals and rest and isinstance(given, str) and name in names:
            named.setdefault(name, []).append(Path(rest))
        else:
            plain.append(Path(given))
    assigned = []
    for source in sources:
        if source.folder is None:
            folders = plain
        else:
            below = [folder / source.folder for folder in plain]
            folders = named.get(source.folder) or [folder for folder in below if folder.is_dir()]
        if not folders:
            wanted = f"--data {source.folder}=FOLDER, or a --data folder with the subfolder {source.folder}"
            raise InvalidInputError(f"no data for {source.label}: add {wanted if source.folder else '--data FOLDER'}")
        assigned.append(folders)
    return assigned


def load_sources(
    recipe: Recipe, data: Sequence[Path | str], channels: int, multiple: int, *, memory: int | None, cache: Path | None
) -> tuple[list[PhotoSet], list[HeldOut]]:
    """Decode all training and validation photos of a recipe.

    Args:
        recipe: its sources, patch sizes and validation settings are used.
        data: folders; see `assign_folders`.
        channels: 3 or 1, of the photos.
        multiple: minimum side of validation photos, in pixels.
        memory, cache: see `decode_all`.

    Returns:
        Photo sets for training, and the held-out photos of each source.

    Raises:
        InvalidInputError: a source has no folder or no usable photo, or only one.
    """
    sides = [phase.patch for phase in recipe.phases]
    run = recipe.run
    divided: list[tuple[list[Item], list[Item]]] = []
    fingerprints = []
    for source, folders in zip(recipe.all_sources, assign_folders(recipe.all_sources, data), strict=True):
        items = [item for folder in folders for item in find_items(folder, source.layout)]
        training, held_out = hold_out(items, run.validation_every)
        if not training:
            raise InvalidInputError(_tell_only(source, folders, items))
        stride = -(-len(held_out) // run.validation_photos)
        divided.append((training, held_out[::stride]))
        fingerprints.append(fingerprint(source.label, folders, items, divided[-1][1]))
    items = [item for both in divided for part in both for item in part]
    paths = [path for item in items for path in (item.clean, item.degraded) if path is not None]
    decoded = decode_all(paths, channels, memory=memory, cache=cache)
    sets, kept = [], []
    for source, (training, held_out), printed in zip(recipe.all_sources, divided, fingerprints, strict=True):
        degrade = None if source.degradation is None else source.degradation.build()
        sets.append(
            photo_set(
                training,
                decoded,
                min(sides),
                degrade,
                largest=max(sides),
                weight=source.weight,
                margin=source.actual_margin,
                scale=source.scale,
                jpeg_share=source.jpeg_share,
            )
        )
        if source.drawn:
            sets[-1].weight *= 1 - source.drawn
            sets.append(_drawn_set(source, channels, max(sides)))
        usable = photo_set(held_out, decoded, multiple, degrade, margin=source.actual_margin)
        kept.append(HeldOut(source, usable.photos, printed))
    return sets, kept


def _tell_only(source: SourceSection, folders: Sequence[Path], items: Sequence[Item]) -> str:
    what = "scene" if items[0].scene else "photo" if items[0].degraded is None else "pair"
    return (
        f"expected at least two {what}s for {source.label} in {', '.join(map(str, folders))}, found one, which is held "
        f"out for validation; add another {what}"
    )


def _drawn_set(source: SourceSection, channels: int, patch: int) -> PhotoSet:
    """Create synthetic images, degraded like the photos of a source but with a larger clean share."""
    assert source.degradation is not None
    degrade: Any = source.degradation.build()
    if hasattr(degrade, "clean_share"):
        degrade = dataclasses.replace(degrade, clean_share=max(_DRAWN_CLEAN_SHARE, degrade.clean_share))
    side = max(_DRAWN_SIDE, patch + 2 * source.actual_margin)
    pictures = draw_pictures(_DRAWN, side, channels)
    names = [f"drawn {number}" for number in range(_DRAWN)]
    return PhotoSet(
        [(pixels, None) for pixels in pictures],
        names,
        degrade,
        weight=source.weight * source.drawn,
        margin=source.actual_margin,
    )
