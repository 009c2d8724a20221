"""The tables of samples: a file with each kind of metadata in each format that can have it."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import picture_files as files
import tifffile
from metadata_files import (
    ARTIST,
    COMMENT,
    EXTENSION,
    GAMMA,
    GUID,
    MAIN_XMP,
    PIXELS,
    PRIMARIES_P3,
    XMP,
    artist_of,
    avif,
    avif_of_p3,
    captions,
    comment_of,
    dpi_of,
    exif_block,
    gain_map,
    geo,
    gif,
    has_captions,
    has_exif,
    has_long_xmp,
    is_wide,
    jpeg,
    motion_photo,
    png,
    raw_profile,
    segment,
    text,
    tiff,
    tiff_of_pages,
    tiff_with_exif,
    two_pictures,
    ultra_hdr,
    webp,
    wide_profile,
    xmp_segment,
)
from PIL import Image

from kbnet.imaging.blocks import KINDS
from kbnet.imaging.containers.scanning import picture_end


@dataclass(frozen=True)
class Sample:
    """A file, and what it has: the bytes as a writer that keeps them would keep them."""

    kind: str
    format: str
    where: str
    data: bytes
    payload: bytes = b""
    converted: Callable[[bytes], bool] = lambda data: False
    note: str = ""

    @property
    def words(self) -> str:
        """How a note on it begins."""
        return self.note or (KINDS[self.kind].lost if self.kind in KINDS else "nothing")


def samples() -> list[Sample]:
    """All of them."""
    block, (record, resource) = exif_block(), captions()
    note = b"a note of a maker\x00\x01\x02"
    credentials = b"\0\0\0\x20jumbc2pa of an earlier picture"
    uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + b"c2pa of an earlier picture"
    extension = segment(
        0xE1, b"http://ns.adobe.com/xmp/extension/\0" + GUID + struct.pack(">II", len(EXTENSION), 0) + EXTENSION[:60000]
    ) + segment(
        0xE1,
        b"http://ns.adobe.com/xmp/extension/\0" + GUID + struct.pack(">II", len(EXTENSION), 60000) + EXTENSION[60000:],
    )
    main = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + MAIN_XMP)
    itxt = b"Author\0\0\0\0\0" + ARTIST.encode()
    return [
        Sample("exif", "jpeg", "APP1", jpeg(segment(0xE1, b"Exif\0\0" + block)), block, has_exif),
        Sample("exif", "png", "eXIf, or text of hexadecimal digits", png((b"eXIf", block)), block, has_exif),
        Sample("exif", "png", "", png(raw_profile("exif", b"Exif\0\0" + block)), block, has_exif),
        Sample("exif", "webp", "EXIF", webp((b"EXIF", block), flags=8), block, has_exif),
        Sample("exif", "avif", "item", avif(exif=block), block, has_exif),
        Sample("exif", "tiff", "tags", tiff_with_exif(), b"", has_exif),
        Sample("xmp", "jpeg", "APP1", jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)), XMP),
        Sample("xmp", "png", "iTXt", png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)), XMP),
        Sample("xmp", "png", "", png(raw_profile("xmp", XMP)), XMP),
        Sample("xmp", "webp", "XMP", webp((b"XMP ", XMP), flags=4), XMP),
        Sample("xmp", "avif", "item", avif(xmp=XMP), XMP),
        Sample("xmp", "tiff", "tag 700", tiff((700, 1, len(XMP), XMP)), XMP),
        Sample("xmp", "gif", "application extension", gif(XMP), XMP),
        Sample("extended-xmp", "jpeg", "APP1", jpeg(main, extension), EXTENSION[:60000], has_long_xmp),
        Sample(
            "photoshop", "jpeg", "APP13", jpeg(segment(0xED, b"Photoshop 3.0\0" + resource)), resource, has_captions
        ),
        Sample("photoshop", "png", "text of hexadecimal digits", png(raw_profile("iptc", resource)), b"", has_captions),
        Sample("photoshop", "tiff", "tag 34377", tiff((34377, 1, len(resource), resource)), resource, has_captions),
        Sample("iptc", "tiff", "tag 33723", tiff((33723, 7, len(record), record)), b"", has_captions),
        Sample(
            "comment",
            "jpeg",
            "COM",
            jpeg(segment(0xFE, COMMENT.encode())),
            b"",
            lambda data: comment_of(data) == COMMENT,
        ),
        Sample(
            "comment", "gif", "comment", gif(comment=COMMENT.encode()), b"", lambda data: comment_of(data) == COMMENT
        ),
        Sample(
            "text", "png", "tEXt", png((b"tEXt", b"Author\0" + ARTIST.encode())), b"", lambda d: ARTIST in artist_of(d)
        ),
        Sample("text", "png", "iTXt", png((b"iTXt", itxt)), itxt, lambda data: ARTIST in artist_of(data)),
        Sample(
            "text",
            "png",
            "zTXt",
            png((b"zTXt", b"Author\0\0" + zlib.compress(ARTIST.encode()))),
            b"",
            lambda data: ARTIST in artist_of(data),
        ),
        Sample("colour", "png", "gAMA and cHRM", png((b"gAMA", GAMMA), (b"cHRM", PRIMARIES_P3)), PRIMARIES_P3, is_wide),
        Sample("colour", "png", "cICP", png((b"cICP", b"\x0c\x0d\0\1")), b"cICP\x0c\x0d\0\1", is_wide),
        Sample("colour", "avif", "nclx", avif_of_p3(), b"", is_wide),
        Sample(
            "chunk", "png", "tIME, bKGD, pCAL, sCAL, oFFs, sTER", png((b"tIME", b"\x07\xd0\1\2\3\4\5")), b"tIME\x07\xd0"
        ),
        Sample("chunk", "png", "any that is marked so", png((b"prVt", note)), b"prVt" + note),
        Sample("dependent-chunk", "png", "any that is marked so, sPLT", png((b"prVT", note))),
        Sample("segment", "jpeg", "APP3 to APP15", jpeg(segment(0xE5, note)), note),
        Sample("coding-extension", "jpeg", "APP11", jpeg(segment(0xEB, b"JP\0\1\0\0\0\1RESI" + note))),
        Sample("tag", "tiff", "any other tag", tiff((50839, 7, len(note), note), text(42113, "-9999")), note),
        Sample("geo-tag", "tiff", "33550, 33922, 34264, 34735 to 34737", tiff(*geo()), geo()[0][3]),
        Sample("riff-chunk", "webp", "any other chunk", webp((b"MINE", note)), note),
        Sample("content-credentials", "jpeg", "APP11", jpeg(segment(0xEB, b"JP\0\1\0\0\0\1" + credentials))),
        Sample("content-credentials", "png", "caBX", png((b"caBX", credentials))),
        Sample("content-credentials", "webp", "C2PA", webp((b"C2PA", credentials))),
        Sample("content-credentials", "tiff", "tag 52545", tiff((52545, 7, len(credentials), credentials))),
        Sample("content-credentials", "avif", "uuid", avif() + struct.pack(">I4s", 8 + len(uuid), b"uuid") + uuid),
    ]


def other_samples() -> list[Sample]:
    """What is no block: profiles, resolutions, channels, and whatever else a file holds."""
    profile, thumbnail = wide_profile(), files.pillow(files.pattern(12, 16, seed=3), "JPEG")
    with_thumbnail = files.exif(1, thumbnail=True)
    shown = files.pillow(files.pattern(8, 8), "JPEG")
    resource = b"8BIM\x04\x0c\0\0" + struct.pack(">I", len(thumbnail)) + thumbnail + bytes(len(thumbnail) % 2)
    layers = b"Adobe Photoshop Document Data Block\0" + bytes(100)
    infrared = files.pattern(channels=4)
    wave = b"RIFF\x24\0\0\0WAVEfmt " + bytes(5000)
    depth = (
        b' xmlns:Container="http://ns.google.com/photos/1.0/container/" '
        b'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" Item:Semantic="Depth"'
    )

    def keeps_profile(data):
        return Image.open(io.BytesIO(data)).info.get("icc_profile") == profile

    def keeps_channel(data):
        page = tifffile.TiffFile(io.BytesIO(data)).pages[0] if data[:2] == b"II" else None
        return page is not None and page.extrasamples == (0,) and np.array_equal(page.asarray(), infrared)

    def resolved(data):
        return dpi_of(data) == [300, 300]

    kinds = [("PNG", {}), ("JPEG", {}), ("TIFF", {}), ("WEBP", {}), ("AVIF", {})]
    found = [
        Sample("profile", name.lower(), "", files.pillow(PIXELS, name, icc_profile=profile), b"", keeps_profile)
        for name, _ in kinds
    ]
    found += [
        Sample(
            "resolution",
            name.lower(),
            where,
            files.pillow(PIXELS, name, dpi=(300, 300)),
            b"",
            resolved,
            "the resolution",
        )
        for name, where in (("JPEG", "JFIF"), ("PNG", "pHYs"), ("TIFF", "tags 282, 283"), ("BMP", "header"))
    ]
    channel = "the extra channel is not kept"
    found.append(Sample("channel", "tiff", "ExtraSamples 0", tiff(pixels=infrared), b"", keeps_channel, channel))
    for where, data, note in (
        ("MPF", two_pictures(0x020002), "a second image"),
        ("", two_pictures(0x020001, 0x020001), "2 more images"),
        ("sound", jpeg() + wave, "a sound recording"),
        ("unknown data", jpeg() + b"what is this?" * 500, "6500 bytes of unknown data"),
    ):
        found.append(Sample("extra", "jpeg", where, data, note=note))
    for where, data, note in (
        ("a motion photo", motion_photo(), "the video of a motion photo"),
        ("an HDR gain map", gain_map(), "the HDR gain map"),
        ("", gain_map(b"http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version='1.0'/>"), "the HDR gain map"),
        ("", ultra_hdr(), "the HDR gain map"),
        ("a depth map", jpeg(xmp_segment(depth)) + shown, "a depth map"),
    ):
        found.append(Sample("companion", "jpeg", where, data, data[picture_end(data) :], note=note))
    found += [
        Sample("extra", "png", "data after the end", png() + motion_photo()[-3000:] + b"x" * 5000, note="8000 bytes"),
        Sample("extra", "webp", "data after the end", webp() + b"?" * 5000, note="5000 bytes"),
        Sample("extra", "tiff", "layers", tiff((37724, 7, len(layers), layers)), note="Photoshop's layers"),
        Sample("extra", "tiff", "a mask on a separate page", tiff_of_pages(0, 4), note="a mask on a separate page"),
        Sample("extra", "avif", "mpvd", avif() + struct.pack(">I4s", 5008, b"mpvd") + bytes(5000), note="the video"),
        Sample("thumbnail", "jpeg", "EXIF", jpeg(segment(0xE1, b"Exif\0\0" + with_thumbnail)), shown[20:]),
        Sample("thumbnail", "jpeg", "JFXX", jpeg(segment(0xE0, b"JFXX\0\x10" + thumbnail)), thumbnail[20:]),
        Sample("thumbnail", "jpeg", "APP13", jpeg(segment(0xED, b"Photoshop 3.0\0" + resource)), thumbnail[20:]),
    ]
    return found
