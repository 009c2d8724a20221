"""Make all before-and-after images of the README and the documentation.

    python examples/pictures.py

The photos come with scikit-image: a cat (CC0, Stefan van der Walt), a cup of coffee (CC0, Rachel Michetti) and a rocket
(CC0, SpaceX). None of them was used in training. Writes

- examples/clean.jpg and examples/noisy.jpg, the demo's photo;
- docs/before-after.jpg, the README's image: photos split into before on the left and after on the right;
- docs/gallery/*.jpg, whole photos before and after;
- docs/tasks/*.jpg, 1:1 crops of them;
- benchmarks/results/tasks.json and the table in docs/which-task.md: the result of every task for every degradation.

Run it after changing weights. It takes about a minute.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data

import kbnet
from kbnet.degradations import create_degradation
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference.look import LUMA
from kbnet.metrics import noisy, psnr, to_uint8

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from facts import RESULTS, facts  # noqa: E402

EXAMPLES, DOCS = ROOT / "examples", ROOT / "docs"
SIGMA = 25  # of the Gaussian noise, on a scale of 0 to 255
CROP = (200, 320)  # height and width of the crops, pixels
SPLIT = (280, 420)  # height and width of each photo in the README's image

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Damage:
    """A degradation, shown on one photo."""

    title: str
    photo: Callable[[], Pixels]
    degrade: Callable[[Pixels], Pixels]
    task: str  # the matching task
    crop: tuple[int, int]  # top and left edge
    split: tuple[int, int]  # the same for the README's image


def degraded(kind: str, seed: int, **fields: object) -> Callable[[Pixels], Pixels]:
    """A training recipe's degradation, as a function of a photo [H,W,3]."""
    worse = create_degradation(kind, **fields)

    def degrade(clean: Pixels) -> Pixels:
        image = torch.from_numpy(clean.transpose(2, 0, 1) / np.float32(255))
        return to_uint8(worse(image, torch.Generator().manual_seed(seed)).permute(1, 2, 0).numpy())

    return degrade


def gaussian(clean: Pixels) -> Pixels:
    """The noise in the papers' protocol."""
    return to_uint8(noisy(clean, SIGMA))


_DARK = {"shot": (0.01, 0.01), "clean_share": 0.0, "jpeg_share": 0.0}
_STILL = {"turning_share": 0.0, "object_share": 0.0, "highlight_gain": 1.0, "clean_share": 0.0}
DAMAGES = {
    "gaussian-noise": Damage(
        "Gaussian noise, sigma 25", data.chelsea, gaussian, "denoise-gaussian", (50, 80), (10, 20)
    ),
    "camera-noise": Damage(
        "Camera noise, high ISO", data.coffee, degraded("camera-noise", 3, **_DARK), "denoise", (190, 170), (40, 60)
    ),
    "rain": Damage("Rain", data.rocket, degraded("rain", 5, clean_share=0.0), "derain", (150, 150), (100, 6)),
    "defocus": Damage(
        "Out of focus", data.coffee, degraded("defocus", 1, clean_share=0.0), "deblur", (190, 170), (40, 60)
    ),
    "motion": Damage(
        "Motion blur", data.chelsea, degraded("motion", 2, length=(12, 12), **_STILL), "deblur", (50, 80), (10, 20)
    ),
}
README = ("gaussian-noise", "camera-noise", "rain", "defocus")
TABLE = re.compile(r"(?<=<!-- tasks -->\n).*?(?=<!-- end of tasks -->)", re.DOTALL)


def colour_tasks() -> list[str]:
    """All tasks with default weights, except those for gray images only, in the catalogue's order."""
    return [entry.task for entry in kbnet.list_models() if entry.default and not entry.task.endswith("-gray")]


def joined(rows: list[list[Pixels]], gap: int = 6) -> Pixels:
    """Images of the same size in rows and columns, separated by white lines."""
    height, width, _ = rows[0][0].shape
    whole = np.full((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, 3), 255, np.uint8)
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            top, left = down * (height + gap), across * (width + gap)
            whole[top : top + height, left : left + width] = picture
    return whole


def split(before: Pixels, after: Pixels, corner: tuple[int, int]) -> Pixels:
    """The left half of one and the right half of the other, with a white line between them."""
    window = np.s_[corner[0] : corner[0] + SPLIT[0], corner[1] : corner[1] + SPLIT[1]]
    picture, middle = before[window].copy(), SPLIT[1] // 2
    picture[:, middle:] = after[window][:, middle:]
    picture[:, middle - 1 : middle + 1] = 255
    return picture


def to_gray(pixels: Pixels) -> Pixels:
    """The luma [H,W] of a photo [H,W,3]."""
    gray: Pixels = np.rint(pixels @ np.array(LUMA)).astype(np.uint8)
    return gray


def write_gray(damage: Damage, restorer: kbnet.Restorer) -> None:
    """Write the images of a gray photo with this damage."""
    before = to_gray(damage.degrade(damage.photo()))
    pictures = [np.repeat(picture[:, :, None], 3, axis=2) for picture in (before, restorer(before))]
    window = np.s_[damage.crop[0] : damage.crop[0] + CROP[0], damage.crop[1] : damage.crop[1] + CROP[1]]
    write(joined([[picture[window] for picture in pictures]]), DOCS / "tasks" / "gray.jpg", quality=93)
    write(joined([pictures]), DOCS / "gallery" / "gray.jpg", quality=88)


def write(pixels: Pixels, path: Path, quality: int | None = None) -> None:
    """Write an image and replace an older one."""
    path.parent.mkdir(exist_ok=True)
    photo = Photo(np.ascontiguousarray(pixels), format="png" if path.suffix == ".png" else "jpeg")
    write_photo(photo, path, overwrite=True, quality=quality)
    print(f"{path.relative_to(ROOT)}, {path.stat().st_size / 1000:.0f} kB")


def write_table(rows: list[dict[str, object]]) -> None:
    """Write the scores to benchmarks/results/tasks.json and the table in docs/which-task.md."""
    known = facts() | {"command": "python examples/pictures.py"}
    text = json.dumps({"facts": known, "title": "PSNR of every task for every degradation", "rows": rows}, indent=1)
    (RESULTS / "tasks.json").write_text(text + "\n", encoding="utf-8")
    tasks = colour_tasks()
    lines = ["| degradation | input |" + "".join(f" `{task}` |" for task in tasks), "|---|---|" + "---|" * len(tasks)]
    for row in rows:
        cells = (f"**{row[task]:.2f}**" if task == row["matching task"] else f"{row[task]:.2f}" for task in tasks)
        lines.append(f"| {row['damage']} | {row['input']:.2f} | {' | '.join(cells)} |")
    page = DOCS / "which-task.md"
    old = page.read_text(encoding="utf-8")
    page.write_text(TABLE.sub("\n".join(lines) + "\n", old), encoding="utf-8")


def main() -> None:
    """The script."""
    # The demo's photo is compressed twice, like noisy photos that people send.
    write(data.chelsea(), EXAMPLES / "clean.jpg", quality=95)
    dark = degraded("camera-noise", 3, **_DARK, smoothed_share=0.0)
    write(dark(read_photo(EXAMPLES / "clean.jpg").pixels), EXAMPLES / "noisy.jpg", quality=92)

    restorers = {task: kbnet.Restorer.from_pretrained(task) for task in colour_tasks()}
    halves, table = [], []
    for name, damage in DAMAGES.items():
        clean = damage.photo()
        before = damage.degrade(clean)
        results = {task: restorer(before) for task, restorer in restorers.items()}
        after = results[damage.task]
        window = np.s_[damage.crop[0] : damage.crop[0] + CROP[0], damage.crop[1] : damage.crop[1] + CROP[1]]
        write(joined([[before[window], after[window]]]), DOCS / "tasks" / f"{name}.jpg", quality=93)
        write(joined([[before, after]]), DOCS / "gallery" / f"{name}.jpg", quality=88)
        scores = {task: round(psnr(result, clean), 2) for task, result in results.items()}
        table.append(
            {"damage": damage.title, "input": round(psnr(before, clean), 2), "matching task": damage.task} | scores
        )
        if name in README:
            halves.append(split(before, after, damage.split))
    write_gray(DAMAGES["camera-noise"], restorers["denoise"])
    write(joined([halves[:2], halves[2:]]), DOCS / "before-after.jpg", quality=88)
    write_table(table)


if __name__ == "__main__":
    main()
