"""Files as phones, cameras and raw developers write them, through `kbnet restore --strength 0`: what comes out changed.

    python benchmarks/corpus.py

Makes one file of each kind and restores the folder with one command. Then, by other decoders than kbnet's (Pillow,
libheif, tifffile, LibRaw; libvips only for 16-bit PNG and float TIFF):

- pixels: the largest and the mean difference between input and output, both upright, in levels of 255;
- colours: the largest and the mean difference in CIELAB, each side converted with its own profile by LittleCMS;
- metadata: whether the camera's EXIF tags, the XMP and the colour profile are the same;
- behind: whether a gain map or a video after the image is still there, byte for byte.

At strength 0 the network changes nothing, so every difference comes from reading and writing. Writes
benchmarks/results/corpus.json. Exits with 1 if a file failed, if a lossless output differs, or if metadata changed.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pyvips
import rawpy
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from facts import RESULTS, write
from kbnet.imaging import Photo, icc, read_photo, write_photo
from kbnet.imaging.containers.scanning import picture_end

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "imaging"))
from metadata_files import XMP, motion_photo, ultra_hdr
from picture_files import pattern, pillow
from raw_files import dng
from test_wide import float_tiff, scene  # the same files as in the tests

pillow_heif.register_heif_opener()
P3, REC_2020 = icc.from_codes(12, 13, 3), icc.from_codes(9, 13, 3)
ADOBE = icc.from_gamma(1 / 2.2, ((0.3127, 0.3290), (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 3)
PIXELS, DEEP = pattern(120, 160), pattern(120, 160, dtype=np.uint16)
Floats = NDArray[np.float64]


def camera_exif(orientation: int = 1) -> Image.Exif:
    """EXIF as a camera writes it."""
    made = Image.Exif()
    made[271], made[272], made[315], made[0x0112] = "Maker", "Model", "Ada of the samples", orientation
    return made


def deep(format: str, profile: bytes | None) -> bytes:
    """A file of 16 bits per sample."""
    metadata = read_photo(pillow(PIXELS, "JPEG", exif=camera_exif().tobytes(), xmp=XMP)).metadata
    data = write_photo(Photo(DEEP, icc_profile=profile, metadata=metadata), None, format=format)
    assert data is not None
    return data


def heic(bits: int, profile: bytes | None, orientation: int = 1) -> bytes:
    """A HEIC file by libheif."""
    target = io.BytesIO()
    if bits == 8:
        image = pillow_heif.from_pillow(Image.fromarray(PIXELS))
    else:
        samples = (DEEP >> (16 - bits)).tobytes()
        image = pillow_heif.from_bytes(f"RGB;{bits}", PIXELS.shape[1::-1], samples)
    options = {"quality": 95, "chroma": 444} | ({"icc_profile": profile} if profile else {})
    image.save(target, exif=camera_exif(orientation).tobytes(), xmp=XMP, **options)
    return target.getvalue()


def corpus() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """File name and maker of each kind of file."""
    turned, plain = camera_exif(6).tobytes(), camera_exif().tobytes()
    lossy = {"quality": 95, "subsampling": 0}
    return {
        "JPEG, Display P3, turned by EXIF": (
            "turned.jpg",
            lambda: pillow(PIXELS, "JPEG", exif=turned, icc_profile=P3, xmp=XMP, **lossy),
        ),
        "JPEG, Adobe RGB": ("adobe.jpg", lambda: pillow(PIXELS, "JPEG", exif=plain, icc_profile=ADOBE, **lossy)),
        "JPEG with an HDR gain map": ("gain.jpg", ultra_hdr),
        "motion photo": ("motion.jpg", motion_photo),
        "HEIC, 8 bits, Display P3, turned": ("turned.heic", lambda: heic(8, P3, 6)),
        "HEIC, 10 bits, Rec. 2020": ("ten.heic", lambda: heic(10, REC_2020)),
        "HEIC, 12 bits": ("twelve.heic", lambda: heic(12, None)),
        "AVIF, 8 bits, Display P3": (
            "p3.avif",
            lambda: pillow(PIXELS, "AVIF", quality=95, subsampling="4:4:4", icc_profile=P3, exif=plain),
        ),
        "WebP, lossless": ("exact.webp", lambda: pillow(PIXELS, "WEBP", lossless=True, exact=True, exif=plain)),
        "PNG, 16 bits, Adobe RGB": ("deep.png", lambda: deep("png", ADOBE)),
        "TIFF, 16 bits, Rec. 2020": ("deep.tif", lambda: deep("tiff", REC_2020)),
        "TIFF, float, scene-linear": ("float.tif", lambda: float_tiff(scene(120, 160))),
        "DNG to 16-bit TIFF": ("raw.dng", lambda: dng(np.clip(scene(120, 160), 0, 0.9))),
    }


def decoded(path: Path) -> tuple[Floats, bytes | None]:
    """Upright pixels with white at 1, and the profile, by another decoder than kbnet's."""
    if path.suffix == ".dng":
        with rawpy.imread(str(path)) as raw:
            options = {"use_camera_wb": True, "output_bps": 16, "no_auto_bright": True, "gamma": (2.4, 12.92)}
            return raw.postprocess(output_color=rawpy.ColorSpace.Rec2020, **options) / 65535, REC_2020
    if path.suffix == ".png" or path.name == "float.tif":  # Pillow has no 16-bit RGB, tifffile no predictor of floats
        image = pyvips.Image.new_from_file(str(path))
        names = image.get_fields()
        profile = image.get("icc-profile-data") if "icc-profile-data" in names else None
        return image.numpy().astype(np.float64) / (65535 if path.suffix == ".png" else 1), profile
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            tag = page.tags.get(34675)
            return page.asarray() / 65535, tag.value if tag else None
    if path.suffix == ".heic":
        opened = pillow_heif.open_heif(path, convert_hdr_to_8bit=False)
        samples = np.asarray(opened)[..., :3]
        return samples / (255 if samples.dtype == np.uint8 else 65535), opened.info.get("icc_profile")
    with Image.open(path) as image:
        profile = image.info.get("icc_profile")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")) / 255, profile


def lab(pixels: Floats, profile: bytes | None) -> Floats:
    """CIELAB by LittleCMS, which takes 8 bits here."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("sRGB")
    turn = ImageCms.buildTransform(source, ImageCms.createProfile("LAB"), "RGB", "LAB", renderingIntent=1)
    image = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    values = np.asarray(ImageCms.applyTransform(image, turn)).astype(np.float64)
    values[..., 0] *= 100 / 255
    values[..., 1:] = np.where(values[..., 1:] > 127, values[..., 1:] - 256, values[..., 1:])
    return values


def described(path: Path) -> dict[str, Any]:
    """EXIF and XMP by Pillow, as far as it reads them."""
    if path.name in ("raw.dng", "float.tif"):
        return {}
    with Image.open(path) as image:
        exif = image.getexif()
        found = {str(tag): str(exif[tag]) for tag in (271, 272, 315) if tag in exif}
        return found | ({"XMP": image.info["xmp"].strip(b"\0")} if image.info.get("xmp") else {})


def behind(path: Path) -> bytes:
    """What follows the image in a JPEG."""
    data = path.read_bytes()
    end = picture_end(data) if path.suffix == ".jpg" else None
    return b"" if end is None else data[end:]


def compare(before: Path, after: Path) -> dict[str, Any]:
    """The columns of a row."""
    (pixels, profile), (result, found) = decoded(before), decoded(after)
    away = np.abs(pixels - result) * 255
    row: dict[str, Any] = {
        "largest": round(float(away.max()), 2),
        "mean": round(float(away.mean()), 3),
        "profile": "same" if profile == found else "another",
    }
    if before.name != "float.tif":  # CIELAB is for what can be displayed
        colours = np.sqrt(np.square(lab(pixels, profile) - lab(result, found)).sum(-1))
        row |= {"largest dE": round(float(colours.max()), 1), "mean dE": round(float(colours.mean()), 2)}
    if behind(before):
        row["behind"] = "same" if behind(before) == behind(after) else "changed"
    one, other = described(before), described(after)
    row["metadata"] = (
        "" if not one else "same" if all(other.get(key) == value for key, value in one.items()) else "changed"
    )
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows, bad = [], 0
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place, "corpus"), Path(place, "out")
        source.mkdir()
        kinds = {name: (kind, make) for kind, (name, make) in corpus().items()}
        for name, (_, make) in kinds.items():
            (source / name).write_bytes(make())
        command = [sys.executable, "-m", "kbnet", "restore", str(source), "-o", str(target), "--strength", "0"]
        done = subprocess.run([*command, "--no-mark", "--device", "cpu", "--json"], capture_output=True, text=True)
        reports = [json.loads(line) for line in done.stdout.splitlines()]
        for report in sorted(reports, key=lambda report: list(kinds).index(Path(report["input"]).name)):
            before, row = Path(report["input"]), {}
            if report["error"]:
                print(report["error"], file=sys.stderr)
            else:
                row = compare(before, Path(report["output"]))
            exact = before.suffix in (".png", ".tif", ".webp")
            changed = any(row.get(name) in ("changed", "another") for name in ("metadata", "profile", "behind"))
            bad += bool(report["error"]) or changed or (exact and row["largest"] > 0)
            rows.append({"kind": kinds[before.name][0], **row, "notes": report["notes"], "error": report["error"]})
            print(f"{rows[-1]['kind']:34} {row}", flush=True)
        bad += len(rows) != len(kinds)
    print(write("corpus", {"rows": rows}, options.results))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
