"""Malformed pictures and weights files, made from good ones by a seed: the same bytes on every machine.

A share of them can still be read, as real damage often leaves something. What is asked of readers is that each one ends
in a result or in one clear line, soon, and leaves nothing behind.
"""

import io
import json
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms
from safetensors.torch import save as serialize

from kbnet import create_model
from kbnet.models import save_official

Random = np.random.Generator
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
STRANGERS = (
    b"<html><script>alert(1)</script></html>",
    b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    b"PK\x03\x04" + bytes(26),
    b"#!/bin/sh\ntouch was-run\n",
    b"GIF89a" + bytes(20),
    b"\x7fELF" + bytes(60),
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
)
FILE_NAMES = (
    "../../etc/passwd.png", "..\\..\\windows\\win.png", "/etc/shadow", "a\x00b.png", "CON.png", "x" * 300 + ".png",
    "photo.png\r\nX-Injected: yes", "‮gnp.exe", "%2e%2e%2fup.png", "photo.png/", ".", "~/.bashrc", "$(id).png",
    "a;rm -rf b.png", "<img src=x>.png", '"quoted".png',
)  # fmt: skip
"""For the field `filename` of a form."""


def pictures(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """File names, unlike each other, and contents; the ending is that of the format that it was made from."""
    good = _good_pictures()
    for index in range(count):
        random = np.random.default_rng([seed, index])
        kind = list(good)[index % len(good)]
        special = SPECIALS[kind.split("-")[0]]
        choices: list[Callable[[bytes, Random], bytes]] = [*DAMAGES, _splice(good, kind), *special]
        damage = choices[(index // len(good)) % len(choices)]
        name = damage.__name__.strip("_").replace("_", "-")
        yield f"{index:05d}-{name}.{kind.split('-')[0]}", damage(good[kind], random)


def weights(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """The same of weights files: our own kind and pickles, zipped and plain, among them some that would run code."""
    good = _good_weights()
    for index in range(count):
        random = np.random.default_rng([seed, index])
        ending = list(good)[index % len(good)]
        choices = [*DAMAGES, *(WEIGHTS if ending == "safetensors" else PICKLES)]
        damage = choices[(index // len(good)) % len(choices)]
        name = damage.__name__.strip("_").replace("_", "-")
        yield f"{index:05d}-{name}.{ending.split('-')[0]}", damage(good[ending], random)


def _good_pictures() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    array = np.kron(random.integers(0, 256, (5, 6, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile[:24] + bytes(12) + profile[36:]  # without the time at which it was made
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    colour, gray = Image.fromarray(array), Image.fromarray(array[..., 0])
    about = {"icc_profile": profile, "exif": exif.tobytes()}
    return {
        "png": _encode(colour, "PNG", **about),
        "jpg": _encode(colour, "JPEG", **about),
        "tif": _encode(colour, "TIFF", icc_profile=profile),
        "webp": _encode(colour, "WEBP", lossless=True, **about),
        "png-gray": _encode(gray, "PNG"),
        "jpg-progressive": _encode(colour, "JPEG", progressive=True, subsampling=2),
        "tif-packed": _encode(colour, "TIFF", compression="tiff_lzw"),
        "webp-lossy": _encode(colour, "WEBP", quality=80),
    }


def _encode(image: Image.Image, format: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


# Damage that any file may have.


def _cut(data: bytes, random: Random) -> bytes:
    return data[: int(random.integers(0, len(data)))]


def _flip(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for place in random.integers(0, len(data), int(random.integers(1, 30))):
        changed[place] ^= 1 << int(random.integers(8))
    return bytes(changed)


def _flip_header(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for place in random.integers(0, min(len(data), 64), int(random.integers(1, 4))):
        changed[place] = int(random.integers(256))
    return bytes(changed)


def _noise_inside(data: bytes, random: Random) -> bytes:
    start, length = int(random.integers(len(data))), int(random.integers(1, 200))
    return data[:start] + random.bytes(length) + data[start + length :]


def _inserted(data: bytes, random: Random) -> bytes:
    start = int(random.integers(len(data)))
    return data[:start] + random.bytes(int(random.integers(1, 50))) + data[start:]


def _removed(data: bytes, random: Random) -> bytes:
    start = int(random.integers(len(data)))
    return data[:start] + data[start + int(random.integers(1, 50)) :]


def _repeated(data: bytes, random: Random) -> bytes:
    start = int(random.integers(len(data)))
    return data[:start] + data[start : start + 64] * int(random.integers(2, 40)) + data[start:]


def _wrong_number(data: bytes, random: Random) -> bytes:
    """A length, size or offset near the start, at an extreme."""
    changed, order = bytearray(data), "<>"[int(random.integers(2))]
    for _ in range(int(random.integers(1, 4))):
        place = int(random.integers(0, max(1, min(len(data), 400) - 4)))
        changed[place : place + 4] = struct.pack(order + "I", EXTREMES[int(random.integers(len(EXTREMES)))])
    return bytes(changed)


def _stranger_before(data: bytes, random: Random) -> bytes:
    return STRANGERS[int(random.integers(len(STRANGERS)))] + data


def _stranger_after(data: bytes, random: Random) -> bytes:
    return data + STRANGERS[int(random.integers(len(STRANGERS)))]


def _stranger_alone(data: bytes, random: Random) -> bytes:
    return STRANGERS[int(random.integers(len(STRANGERS)))]


def _noise_alone(data: bytes, random: Random) -> bytes:
    return data[: int(random.integers(0, 12))] + random.bytes(int(random.integers(0, 3000)))


DAMAGES = (
    _cut, _flip, _flip_header, _noise_inside, _inserted, _removed, _repeated, _wrong_number, _stranger_before,
    _stranger_after, _stranger_alone, _noise_alone,
)  # fmt: skip


def _splice(good: dict[str, bytes], kind: str) -> Callable[[bytes, Random], bytes]:
    def polyglot(data: bytes, random: Random) -> bytes:
        """The start of one format and the rest of another."""
        other = list(good.values())[int(random.integers(len(good)))]
        return data[: int(random.integers(8, len(data)))] + other[int(random.integers(len(other))) :]

    return polyglot


# Pictures.


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_bomb(data: bytes, random: Random) -> bytes:
    side = int(random.choice([20_000, 60_000, 2**31 - 1]))
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return PNG_MAGIC + header + _chunk(b"IDAT", zlib.compress(bytes(100_000), 9)) + _chunk(b"IEND", b"")


def _png_odd_header(data: bytes, random: Random) -> bytes:
    fields = [int(random.choice([0, 1, 48, 2**31])) for _ in range(2)] + [int(v) for v in random.integers(0, 20, 5)]
    return PNG_MAGIC + _chunk(b"IHDR", struct.pack(">IIBBBBB", *fields)) + data[33:]


def _png_packed_text(data: bytes, random: Random) -> bytes:
    """Text or a profile of 50 megabytes in 50 kilobytes."""
    packed = zlib.compress(bytes(50_000_000), 9)
    kind, head = [(b"iCCP", b"icc\0\0"), (b"zTXt", b"text\0\0")][int(random.integers(2))]
    return data[:33] + _chunk(kind, head + packed) + data[33:]


def _png_odd_chunks(data: bytes, random: Random) -> bytes:
    kinds = [b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"gAMA", b"acTL", b"IHDR", b"IEND", b"iTXt", b"pHYs", b"\0\0\0\0"]
    extra = b"".join(
        _chunk(kinds[int(random.integers(len(kinds)))], random.bytes(int(random.integers(0, 300))))
        for _ in range(int(random.integers(1, 6)))
    )
    return data[:33] + extra + data[33:]


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _jpeg_bomb(data: bytes, random: Random) -> bytes:
    at = next(i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
    return data[: at + 5] + struct.pack(">HH", 65500, int(random.choice([65500, 0, 60000]))) + data[at + 9 :]


def _jpeg_odd_segments(data: bytes, random: Random) -> bytes:
    heads = [
        (0xE1, b"Exif\0\0"),
        (0xE2, b"ICC_PROFILE\0\1\xff"),
        (0xE2, b"ICC_PROFILE\0\0\0"),
        (0xED, b"Photoshop 3.0\0"),
    ]
    heads += [(0xE1, b"http://ns.adobe.com/xap/1.0/\0"), (0xDB, b""), (0xC4, b""), (0xDD, b""), (0xFE, b"")]
    chosen = [heads[int(random.integers(len(heads)))] for _ in range(int(random.integers(1, 5)))]
    return (
        data[:2]
        + b"".join(_segment(m, head + random.bytes(int(random.integers(0, 300)))) for m, head in chosen)
        + data[2:]
    )


def _jpeg_many_scans(data: bytes, random: Random) -> bytes:
    """The same scan hundreds of times, each of which a decoder might refine the whole picture by."""
    at = data.rfind(b"\xff\xda")
    return data[:at] + data[at:-2] * 300 + data[-2:]


def _tiff_loop(data: bytes, random: Random) -> bytes:
    """A directory that is its own successor."""
    start = struct.unpack("<I", data[4:8])[0]
    after = start + 2 + 12 * struct.unpack("<H", data[start : start + 2])[0]
    return data[:after] + struct.pack("<I", start) + data[after + 4 :]


def _tiff_odd_entry(data: bytes, random: Random) -> bytes:
    start = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[start : start + 2])[0]
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        at = start + 2 + 12 * int(random.integers(count))
        what = int(random.integers(3))
        if what == 0:
            changed[at + 2 : at + 4] = struct.pack("<H", int(random.integers(0, 20)))
        else:
            extreme = EXTREMES[int(random.integers(len(EXTREMES)))]
            changed[at + 4 * what : at + 4 * what + 4] = struct.pack("<I", extreme)
    return bytes(changed)


def _webp_bomb(data: bytes, random: Random) -> bytes:
    side = struct.pack("<I", 2**24 - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes([int(random.integers(256))]) + bytes(3) + side + side + data[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_odd_size(data: bytes, random: Random) -> bytes:
    return data[:4] + struct.pack("<I", EXTREMES[int(random.integers(len(EXTREMES)))]) + data[8:]


SPECIALS = {
    "png": (_png_bomb, _png_odd_header, _png_packed_text, _png_odd_chunks),
    "jpg": (_jpeg_bomb, _jpeg_odd_segments, _jpeg_many_scans),
    "tif": (_tiff_loop, _tiff_odd_entry),
    "webp": (_webp_bomb, _webp_odd_size),
}


# Weights.


class _Runs:
    """What a hostile pickle is made of: it would call something when opened."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (self.path, "w")


def _good_weights() -> dict[str, bytes]:
    torch.manual_seed(0)
    network = create_model(
        "kbnet-s-gaussian-color", width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,), bases=2
    )
    with tempfile.TemporaryDirectory() as folder:
        save_official(network, Path(folder) / "w.pth", "net")
        zipped = (Path(folder) / "w.pth").read_bytes()
    plain = io.BytesIO()
    tensors = torch.load(io.BytesIO(zipped), weights_only=True)
    torch.save(tensors, plain, _use_new_zipfile_serialization=False)
    settings = {"kbnet": "1", "family": network.family, "settings": json.dumps(asdict(network.config))}
    own = serialize(network.state_dict(), metadata=settings)
    return {"safetensors": own, "pth": zipped, "pth-plain": plain.getvalue()}


def _header(data: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    result = change(header)
    text = result if isinstance(result, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _own_odd_settings(data: bytes, random: Random) -> bytes:
    odd = ["", "{", "[" * 5000, "null", "[]", '{"width": 1e99}', '{"width": -1}', '{"width": 100000000}']
    odd += ['{"encoder_blocks": [1000000000]}', '{"bases": "8"}', '{"__class__": 1}', '{"middle_blocks": NaN}']
    chosen = odd[int(random.integers(len(odd)))]

    def change(header: dict[str, object]) -> None:
        header["__metadata__"] = {"kbnet": "1", "family": "kbnet-s", "settings": chosen}

    return _header(data, change)


def _own_odd_tensor(data: bytes, random: Random) -> bytes:
    def change(header: dict[str, object]) -> None:
        names = [name for name in header if name != "__metadata__"]
        name = names[int(random.integers(len(names)))]
        entry = dict(header[name])  # type: ignore[call-overload]
        what = int(random.integers(5))
        if what == 0:
            entry["shape"] = [2**40, 2**40]
        elif what == 1:
            entry["data_offsets"] = [0, 2**60]
        elif what == 2:
            entry["dtype"] = "F99"
        elif what == 3:
            header["a\nb\x1b[31m" + name] = header.pop(name)
            return
        else:
            entry["data_offsets"] = [8, 4]
        header[name] = entry

    return _header(data, change)


def _own_not_finite(data: bytes, random: Random) -> bytes:
    return data[:-4] + struct.pack("<f", [float("nan"), float("inf")][int(random.integers(2))])


WEIGHTS = (_own_odd_settings, _own_odd_tensor, _own_not_finite)


def _runs_code(data: bytes, random: Random) -> bytes:
    return pickle.dumps({"net": {"first.weight": _Runs("was-run")}}, protocol=2)


def _packed_archive(data: bytes, random: Random) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(20_000_000))
    return target.getvalue()


def _odd_content(data: bytes, random: Random) -> bytes:
    odd = [{}, [], 3, {"net": {}}, {"net": {"intro.weight": 1}}, {"params": {"intro.weight": torch.zeros(1, 1, 1, 1)}}]
    odd += [{"net": {"intro.weight": torch.zeros(1).expand(1000, 1000, 1000)}}, {"net": {1: torch.zeros(1)}}]
    target = io.BytesIO()
    torch.save(odd[int(random.integers(len(odd)))], target, _use_new_zipfile_serialization=bool(random.integers(2)))
    return target.getvalue()


PICKLES = (_runs_code, _packed_archive, _odd_content)
