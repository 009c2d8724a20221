"""Test photos, and what the Restorer makes of them."""

import struct
from io import BytesIO

import numpy as np
from PIL import Image

import kbnet

TILE = 640  # of the page


def noisy(height, width, channels=3):
    rng = np.random.default_rng(5)
    rows, cols = np.mgrid[:height, :width]
    clean = np.stack([np.sin(rows / 9), np.cos(cols / 7), np.sin((rows + cols) / 11)][:channels], 2) * 90 + 128
    return np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)


def encode(pixels, format="PNG", **options):
    target = BytesIO()
    Image.fromarray(pixels.squeeze()).save(target, format, **options)
    return target.getvalue()


def decode(data):
    return np.asarray(Image.open(BytesIO(data)))


def expected(pixels, strength=1.0, *, model="denoise", **look):
    restorer = kbnet.Restorer.from_pretrained(model, tile=TILE, device="cpu", dtype="float32")
    return restorer(pixels, strength=strength, **look)


def difference(one, other):
    return int(np.abs(one.astype(int) - other).max())


def load(data):
    return Image.open(BytesIO(data))


def display_p3():
    """A matrix profile with the primaries of Display P3 and the gamma 2.2."""

    def fixed(*values):
        return b"".join(struct.pack(">i", round(65536 * value)) for value in values)

    def xyz(*values):
        return b"XYZ \0\0\0\0" + fixed(*values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 563) + b"\0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 11) + b"Display P3\0" + bytes(79)
    tags = {
        **{b"desc": name + bytes(-len(name) % 4), b"cprt": b"text\0\0\0\0none\0\0\0\0"},
        **{b"wtpt": xyz(0.9642, 1, 0.8249), b"rXYZ": xyz(0.5151, 0.2412, -0.0011)},
        **{b"gXYZ": xyz(0.2919, 0.6922, 0.0419), b"bXYZ": xyz(0.1572, 0.0666, 0.7841)},
        **{b"rTRC": curve, b"gTRC": curve, b"bTRC": curve},
    }
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", start + len(body), len(value))
        body += value
    size = start + len(body)
    head = struct.pack(">I", size) + bytes(4) + b"\2\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    return head + fixed(0.9642, 1, 0.8249) + bytes(48) + table + body
