"""Builders of small picture files, ordinary and odd, that the imaging tests share. All bytes, no files."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

import kbnet.imaging

pillow_heif.register_heif_opener()  # Pillow reads every format of a result

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# The data colour space stands at bytes 16 to 20; nothing here reads further into a gray profile.
GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]
LAYOUTS = {"gray": 1, "gray-alpha": 2, "rgb": 3, "rgb-alpha": 4}


def pattern(height=40, width=60, channels=3, dtype=np.uint8, seed=0):
    """Smooth blobs with a black and a white corner, so that lossy coding stays near and full range is exercised."""
    rng = np.random.default_rng(seed)
    planes = [
        np.asarray(
            Image.fromarray(rng.random((3, 4)).astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        )
        for _ in range(channels)
    ]
    image = np.clip(np.stack(planes, axis=2), 0, 1)
    image[:8, :8], image[-8:, -8:] = 0, 1
    return np.round(image * np.iinfo(dtype).max).astype(dtype)


def pillow(array, format, **options):
    """Encode an array, or a PIL image, with Pillow."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, rows, *, bits=8, colour=2, before=b""):
    """A PNG from its raw scanlines (bytes, filter byte included), however wrong they are."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return PNG_MAGIC + header + before + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND")


def png16(array):
    """A 16-bit PNG of [H,W,C], written by hand since Pillow has no 16-bit colour."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[array.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return png(array.shape[1], array.shape[0], rows, bits=16, colour=colour)


def exif(orientation=1, *, thumbnail=False):
    """A small EXIF block from its TIFF header on: orientation, maker, and a second directory if asked for."""
    maker = b"Maker\0"
    count, data_at = 2, 8 + 2 + 2 * 12 + 4
    entries = struct.pack("<HHII", 0x010F, 2, len(maker), data_at) + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    second_at = data_at + len(maker) if thumbnail else 0
    block = b"II*\0" + struct.pack("<IH", 8, count) + entries + struct.pack("<I", second_at) + maker
    if thumbnail:
        jpeg = pillow(pattern(8, 8), "JPEG")
        jpeg_at = second_at + 2 + 2 * 12 + 4
        block += struct.pack("<H", 2) + struct.pack("<HHII", 0x0201, 4, 1, jpeg_at)
        block += struct.pack("<HHII", 0x0202, 4, 1, len(jpeg)) + struct.pack("<I", 0) + jpeg
    return block


def tiff(width, height, data, *, bits=(8, 8, 8), photometric=2, more=()):
    """A one-strip TIFF from raw samples; `more` holds (tag, type, value) entries of one value each."""
    head = 8 + len(data)
    bits_at = head
    block = data + struct.pack(f"<{len(bits)}H", *bits)
    entries = [(256, 4, 1, width), (257, 4, 1, height), (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, 8)]
    entries += [(277, 3, 1, len(bits)), (278, 4, 1, height), (279, 4, 1, len(data))]
    entries.append((258, 3, len(bits), bits_at if len(bits) > 2 else sum(b << 16 * i for i, b in enumerate(bits))))
    entries += [(tag, kind, 1, value) for tag, kind, value in more]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8 + len(block)) + block + directory + struct.pack("<I", 0)


def run_python(code, folder):
    """Run code in a fresh interpreter inside `folder`, with the package that is under test importable."""
    env = os.environ | {"PYTHONPATH": str(Path(kbnet.imaging.__file__).parents[2])}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
