"""Finds photos and pairs in folders, for the layouts in which data sets are published."""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kbnet.errors import InvalidInputError
from kbnet.imaging import is_supported

_log = logging.getLogger(__name__)

_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Item:
    """A clean photo and, in sets of pairs, the degraded photo of the same scene.

    Items of the same `scene` are held out together; "" means that the item is a scene of its own.
    """

    clean: Path
    degraded: Path | None = None
    scene: str = ""


def list_photos(folder: Path) -> list[Path]:
    """Return all image files in `folder` and its subfolders, sorted by path.

    Raises:
        InvalidInputError: there are none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and is_supported(path))
    if not paths:
        raise InvalidInputError(f"expected a folder with image files, found none in {folder}; use another --data")
    return paths


def find_items(folder: Path, layout: str) -> list[Item]:
    """Return the photos or pairs in a folder, in an order that depends only on their names.

    Files without a partner are skipped with a warning.

    Args:
        folder: the root folder of the data set.
        layout: a key of `LAYOUTS`.

    Raises:
        InvalidInputError: the layout is unknown, or the folder contains nothing in this layout.
    """
    return _find(folder, layout, LAYOUTS)


def find_test_items(folder: Path, layout: str) -> list[Item]:
    """Return the test photos or pairs of a data set. Like `find_items`, with a key of `TEST_LAYOUTS`."""
    return _find(folder, layout, TEST_LAYOUTS)


def _find(folder: Path, layout: str, table: dict[str, Callable[[Path], list[Item]]]) -> list[Item]:
    if layout not in table:
        raise InvalidInputError(f"expected a layout, one of {', '.join(table)}; got {layout!r}")
    if not folder.is_dir():
        raise InvalidInputError(f"expected a folder, got {folder}, which is not a folder; use another --data")
    return table[layout](folder)


def hold_out(items: list[Item], every: int) -> tuple[list[Item], list[Item]]:
    """Split items into (training, validation); every n-th scene goes to validation.

    In a folder sorted by source, each source is represented in both parts.
    """
    scenes: dict[str | int, int] = {}
    numbers = [scenes.setdefault(item.scene or index, len(scenes)) for index, item in enumerate(items)]
    return (
        [item for item, number in zip(items, numbers, strict=True) if number % every],
        [item for item, number in zip(items, numbers, strict=True) if not number % every],
    )


def _photos(folder: Path) -> list[Item]:
    return [Item(path) for path in list_photos(folder)]


def _pairs(folder: Path) -> list[Item]:
    """Folders `input` and `target` with the same file names, except for suffixes."""
    return _matched(folder, folder / "input", folder / "target", lambda name: name)


def _rain13k(folder: Path) -> list[Item]:
    """Rain13K as published by Restormer (arXiv 2111.09881) and MPRNet: train/Rain13K/input and target, same names."""
    places = (folder / "train" / "Rain13K", folder / "Rain13K", folder / "train", folder)
    return _pairs(_first(places, "input", folder, "Rain13K: train/Rain13K/input and target"))


def _sensenoise(folder: Path) -> list[Item]:
    """SenseNoise-500 (IDR, arXiv 2111.14358): `noisy` and `gt`, also within file names; without those in test.txt."""
    items, test = _sensenoise_parts(folder)
    kept = [item for item in items if item.clean.stem not in test]
    if not kept:
        raise InvalidInputError(f"expected pairs for training in {folder}, but all are listed in its test.txt")
    return kept


def _sensenoise_test(folder: Path) -> list[Item]:
    """The pairs of SenseNoise-500 listed in its test.txt, by the file name of either image."""
    items, test = _sensenoise_parts(folder)
    found = [item for item in items if item.clean.stem in test]
    if not found:
        raise InvalidInputError(f"expected a test.txt in {folder} that lists pairs of noisy and gt, found none of them")
    names = {item.clean.stem for item in found}
    _tell_lonely(Path(), (Path(name) for name in sorted(test - names)), "listed in test.txt but missing")
    return found


def _sensenoise_parts(folder: Path) -> tuple[list[Item], set[str]]:
    """Return all pairs, and the names of the clean images listed in test.txt."""
    root = _first((folder, *sorted(p for p in folder.iterdir() if p.is_dir())), "noisy", folder, "noisy and gt")
    listed = root / "test.txt"
    lines = listed.read_text(encoding="utf-8").split() if listed.is_file() else []
    test = {Path(line.replace("noisy", "gt")).stem for line in lines}
    return _matched(folder, root / "noisy", root / "gt", lambda name: name.replace("noisy", "gt")), test


def _sidd(folder: Path) -> list[Item]:
    """SIDD-Medium sRGB (Abdelhamed et al., CVPR 2018): Data/SCENE/[NNNN_]NOISY_SRGB_010.PNG and GT_SRGB_010.PNG.

    The first four digits of a folder's name are the instance, the next three the scene. All images of a scene are held
    out together.
    """
    found: dict[str, dict[tuple[str, str], Path]] = {"NOISY": {}, "GT": {}}
    for path in sorted(folder.rglob("*")):
        if match := re.fullmatch(r"(?:\d+_)?(NOISY|GT)_SRGB_(\d+)\.png", path.name, re.IGNORECASE):
            found[match[1].upper()][str(path.parent.relative_to(folder)), match[2]] = path
    _tell_lonely(folder, (found["NOISY"][key] for key in sorted(found["NOISY"].keys() - found["GT"].keys())))
    _tell_lonely(folder, (found["GT"][key] for key in sorted(found["GT"].keys() - found["NOISY"].keys())))
    keys = sorted(found["NOISY"].keys() & found["GT"].keys())
    if not keys:
        raise InvalidInputError(
            f"expected SIDD files Data/*/*NOISY_SRGB_010.PNG and *GT_SRGB_010.PNG, found none in {folder}"
        )
    return [Item(found["GT"][key], found["NOISY"][key], _sidd_scene(Path(key[0]).name)) for key in keys]


def _sidd_scene(folder: str) -> str:
    parts = folder.split("_")
    return f"scene {parts[1]}" if len(parts) > 2 and parts[1].isdigit() else folder


def _dpdd(folder: Path) -> list[Item]:
    """DPDD, single image (Abuolaim and Brown, ECCV 2020): train_c/source and target, or Restormer's train/inputC.

    The two images of a pair are exposures with different names, so pairs are matched by their order.
    """
    return _dpdd_part(folder, "train")


def _dpdd_test(folder: Path) -> list[Item]:
    """The test part of DPDD: test_c/source and target, or Restormer's test/inputC. Scenes are indoor or outdoor."""
    items = _dpdd_part(folder, "test")
    scenes = [""] * len(items)
    for scene in ("indoor", "outdoor"):
        places = (folder, folder / "test", folder / "test_c", *(items[0].clean.parents[n] for n in range(3)))
        files = [place / f"{scene}_labels.npy" for place in places if (place / f"{scene}_labels.npy").is_file()]
        if not files:
            _log.warning("DPDD is not split into indoor and outdoor: no %s_labels.npy in %s", scene, folder)
            return items
        try:
            numbers = np.load(files[0], allow_pickle=False).astype(np.int64).flatten().tolist()
        except (ValueError, OSError, EOFError) as error:
            raise InvalidInputError(f"{files[0]}: expected an array of numbers: {error}") from None
        if not all(1 <= number <= len(items) for number in numbers):
            raise InvalidInputError(f"{files[0]}: expected image numbers from 1 to {len(items)}, got {numbers}")
        for number in numbers:
            scenes[number - 1] = scene
    return [replace(item, scene=scene) for item, scene in zip(items, scenes, strict=True)]


def _dpdd_part(folder: Path, part: str) -> list[Item]:
    for place in (folder / f"{part}_c", folder / "dd_dp_dataset_png" / f"{part}_c", folder / part, folder):
        for name in ("source", "inputC"):
            if (place / name).is_dir() and (place / "target").is_dir():
                degraded, clean = list_photos(place / name), list_photos(place / "target")
                if len(degraded) != len(clean):
                    raise InvalidInputError(
                        f"expected the same number of images in {place / name} and in target, "
                        f"got {len(degraded)} and {len(clean)}; pairs are matched by their order"
                    )
                return [Item(c, d) for c, d in zip(clean, degraded, strict=True)]
    raise InvalidInputError(f"expected the DPDD folders {part}_c/source and {part}_c/target, found none in {folder}")


def _rain_test(folder: Path) -> list[Item]:
    """A rain test set: `rain` and `norain` with rain-001 and norain-001 (Yang et al., CVPR 2017), or `input` and
    `target` with the same names (the test archive of Rain13K).
    """
    if (folder / "rain").is_dir() and (folder / "norain").is_dir():
        return _matched(folder, folder / "rain", folder / "norain", lambda name: name.replace("rain", "norain"))
    return _pairs(folder)


def _levin_test(folder: Path) -> list[Item]:
    """Levin et al. (CVPR 2009): imI_kernelK_img.png and gt/imI.png. Scenes are kernels."""
    found = []
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"(im\d+)_(kernel\d+)_img", path.stem)
        if match and is_supported(path):
            clean = folder / "gt" / f"{match[1]}{path.suffix}"
            if not clean.is_file():
                raise InvalidInputError(f"expected {clean.name} in {clean.parent}, the sharp image of {path.name}")
            found.append(Item(clean, path, match[2]))
    if not found:
        raise InvalidInputError(f"expected files like im1_kernel1_img.png and gt/im1.png, found none in {folder}")
    return found


LAYOUTS: dict[str, Callable[[Path], list[Item]]] = {
    "photos": _photos,
    "pairs": _pairs,
    "sidd": _sidd,
    "sensenoise": _sensenoise,
    "rain13k": _rain13k,
    "dpdd": _dpdd,
}
"""The layouts of training data. All except "photos" contain pairs."""

TEST_LAYOUTS: dict[str, Callable[[Path], list[Item]]] = {
    "photos": _photos,
    "pairs": _pairs,
    "sensenoise": _sensenoise_test,
    "rain": _rain_test,
    "dpdd": _dpdd_test,
    "levin": _levin_test,
}
"""The layouts of test data, which `find_items` excludes."""


def _first(places: Iterable[Path], name: str, folder: Path, expected: str) -> Path:
    for place in places:
        if (place / name).is_dir():
            return place
    raise InvalidInputError(f"expected {expected} in {folder}, found no folder {name!r} there; use another --data")


def _matched(folder: Path, degraded: Path, clean: Path, clean_name: Callable[[str], str]) -> list[Item]:
    for side in (degraded, clean):
        if not side.is_dir():
            raise InvalidInputError(f"expected {degraded.name} and {clean.name} in {folder}, found no {side}")
    inputs = {clean_name(_key(path, degraded)): path for path in list_photos(degraded)}
    targets = {_key(path, clean): path for path in list_photos(clean)}
    names = sorted(inputs.keys() & targets.keys())
    if not names:
        here, there = (next(iter(found.values())).name for found in (inputs, targets))
        raise InvalidInputError(
            f"expected the same file names in {degraded} and {clean.name}, found none in common; "
            f"{len(inputs)} like {here} and {len(targets)} like {there}"
        )
    _tell_lonely(folder, (inputs[name] for name in sorted(inputs.keys() - targets.keys())))
    _tell_lonely(folder, (targets[name] for name in sorted(targets.keys() - inputs.keys())))
    return [Item(targets[name], inputs[name]) for name in names]


def _key(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _tell_lonely(folder: Path, paths: Iterable[Path], why: str = "") -> None:
    names = [path.relative_to(folder).as_posix() for path in paths]
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        reason = why or f"without a partner in {folder}"
        _log.warning("skipped: %d %s: %s%s", len(names), reason, ", ".join(names[:_SHOWN]), more)
