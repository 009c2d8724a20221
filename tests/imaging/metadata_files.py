"""Files with metadata, made byte by byte, and how to find it again in a result."""

import io
import struct
import zlib

import picture_files as files
from PIL import Image, ImageCms, IptcImagePlugin

from kbnet.imaging import icc

PIXELS = files.pattern()
ARTIST, CAPTION, COMMENT = "Ada of the samples", "A caption to be kept", "A comment to be kept"
PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="%s"%s/></rdf:RDF>'
    b"</x:xmpmeta>"
)
XMP = PACKET % (b"a packet to be kept", b"")
LONG = b"a long description " * 6000
GUID = b"0123456789ABCDEF0123456789ABCDEF"
NOTE = b' xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="'
MAIN_XMP = PACKET % (b"main", NOTE + GUID + b'"')
EXTENSION = PACKET % (LONG, b"")


def rational(*values):
    return struct.pack(f"<{2 * len(values)}I", *(part for value in values for part in value))


def directory(entries, at, following=0):
    """A little-endian directory at a place: entries of (tag, type, count, bytes)."""
    head = 2 + 12 * len(entries) + 4
    body, more = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in sorted(entries):
        inline = value.ljust(4, b"\0")
        if len(value) > 4:
            inline = struct.pack("<I", at + head + len(more))
            more += value + bytes(len(value) % 2)
        body += struct.pack("<HHI", tag, kind, count) + inline
    return body + struct.pack("<I", following) + more


def text(tag, value):
    data = value.encode() + b"\0"
    return tag, 2, len(data), data


def exif_entries(at):
    """Entries of a first directory at a place and all that they point to: artist, exposure, maker's note, position."""
    note = b"Maker's own \x00\xff bytes"
    exposure = [(0x829A, 5, 1, rational((1, 250))), (0x927C, 7, len(note), note), (0xA433, 2, 6, b"Lens!\0")]
    position = [(1, 2, 2, b"N\0"), (2, 5, 3, rational((52, 1), (30, 1), (7, 2)))]
    inner = directory(exposure, at)
    gps = directory(position, at + len(inner))
    pointers = [(34665, 4, 1, struct.pack("<I", at)), (34853, 4, 1, struct.pack("<I", at + len(inner)))]
    return [text(315, ARTIST), text(272, "Model 1"), *pointers], inner + gps


def exif_block():
    """An EXIF block whose first directory lies behind the others."""
    entries, below = exif_entries(8)
    return b"II*\0" + struct.pack("<I", 8 + len(below)) + below + directory(entries, 8 + len(below))


def has_exif(data):
    """Whether another reader finds the artist, the exposure, the lens, the note and the latitude in a result."""
    exif = Image.open(io.BytesIO(data)).getexif()
    inner, position = exif.get_ifd(34665), exif.get_ifd(34853)
    return (
        exif[315] == ARTIST
        and float(inner[0x829A]) == 1 / 250
        and inner[0xA433] == "Lens!"
        and inner[0x927C].startswith(b"Maker's own")
        and [float(part) for part in position[2]] == [52, 30, 3.5]
    )


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(*segments):
    plain = files.pillow(PIXELS, "JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def png(*chunks):
    plain = files.pillow(PIXELS, "PNG")
    return plain[:33] + b"".join(files.chunk(*one) for one in chunks) + plain[33:]


def webp(*chunks, flags=0):
    plain = files.pillow(PIXELS, "WEBP", lossless=True)
    body = (
        b"VP8X" + struct.pack("<IB3x", 10, flags) + struct.pack("<I", 59)[:3] + struct.pack("<I", 39)[:3] + plain[12:]
    )
    body += b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def tiff(*entries, pixels=PIXELS, following=b""):
    """A TIFF of one strip with entries more, each (tag, type, count, bytes)."""
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    at = 8 + pixels.nbytes + pixels.nbytes % 2
    bits = struct.pack(f"<{bands}H", *[8 * pixels.itemsize] * bands)
    base = [
        (256, 4, 1, struct.pack("<I", pixels.shape[1])), (257, 4, 1, struct.pack("<I", pixels.shape[0])),
        (258, 3, bands, bits), (259, 3, 1, b"\1\0"), (262, 3, 1, b"\2\0" if bands > 2 else b"\1\0"),
        (273, 4, 1, struct.pack("<I", 8)), (277, 3, 1, struct.pack("<H", bands)),
        (278, 4, 1, struct.pack("<I", pixels.shape[0])), (279, 4, 1, struct.pack("<I", pixels.nbytes)),
    ]  # fmt: skip
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    behind = [entry for entry in entries if entry[0] != "below"]
    return b"II*\0" + struct.pack("<I", at) + data.ljust(at - 8, b"\0") + directory([*base, *behind], at) + following


def tiff_with_exif():
    at = 8 + PIXELS.nbytes
    entries, below = exif_entries(at)
    data = tiff()
    main = [entry for entry in _entries_of(data) if entry[0] not in (315, 272)] + entries
    return b"II*\0" + struct.pack("<I", at + len(below)) + data[8:at] + below + directory(main, at + len(below))


def _entries_of(data):
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    sizes = {3: 2, 4: 4, 5: 8, 2: 1}
    found = []
    for index in range(count):
        tag, kind, number = struct.unpack_from("<HHI", data, at + 2 + 12 * index)
        length = number * sizes[kind]
        place = at + 2 + 12 * index + 8
        if length > 4:
            (place,) = struct.unpack_from("<I", data, place)
        found.append((tag, kind, number, data[place : place + length]))
    return found


def avif(**options):
    return files.pillow(PIXELS, "AVIF", **options)


def gif(xmp=None, **options):
    data = files.pillow(Image.fromarray(PIXELS).quantize(16), "GIF", **options)
    if xmp is None:
        return data
    head = 13 + (3 << ((data[10] & 7) + 1))
    trailer = bytes([1, *range(255, -1, -1), 0])
    return data[:head] + b"\x21\xff\x0bXMP DataXMP" + xmp + trailer + data[head:]


def captions():
    record = b"\x1c\x02\x78" + struct.pack(">H", len(CAPTION)) + CAPTION.encode()
    return record, b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record + bytes(len(record) % 2)


def raw_profile(name, data):
    lines = f"\n{name}\n{len(data):8d}\n".encode() + data.hex().encode() + b"\n"
    return b"zTXt", b"Raw profile type " + name.encode() + b"\0\0" + zlib.compress(lines)


def has_captions(data):
    """Whether a JPEG's resources, a TIFF's tag or a PNG's text of hexadecimal digits hold the caption."""
    image = Image.open(io.BytesIO(data))
    if image.format == "PNG":
        image.load()
        digits = "".join(image.text.get("Raw profile type iptc", "").split("\n")[3:])
        return CAPTION.encode() in bytes.fromhex(digits)
    return IptcImagePlugin.getiptcinfo(image).get((2, 120)) == CAPTION.encode()


def comment_of(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    if image.format == "TIFF":
        return image.tag_v2.get(270)
    return image.text.get("Comment") if image.format == "PNG" else image.info.get("comment", b"").decode()


def artist_of(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.tag_v2.get(315) if image.format == "TIFF" else image.info.get("comment", b"").decode()


def has_long_xmp(data):
    return LONG in Image.open(io.BytesIO(data)).info.get("xmp", b"")


def green_of_profile(data):
    """What the pure green of a result is in sRGB, by its profile and another library; None without a profile."""
    profile = Image.open(io.BytesIO(data)).info.get("icc_profile")
    if not profile:
        return None
    one = Image.new("RGB", (1, 1), (100, 180, 60))
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(one, io.BytesIO(profile), srgb, renderingIntent=1).getpixel((0, 0))


def is_wide(data):
    """Whether the colours are told to be of a wider gamut than sRGB's: the same numbers are a stronger green."""
    green = green_of_profile(data)
    return green is not None and green[0] < 85 and abs(green[1] - 181) < 6


PRIMARIES_P3 = struct.pack(">8I", *(round(v * 1e5) for v in (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)))
GAMMA = struct.pack(">I", 45455)


def avif_of_p3():
    data = avif()
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :]


def geo():
    return (33550, 12, 3, struct.pack("<3d", 0.5, 0.25, 0)), (34735, 3, 4, struct.pack("<4H", 1, 1, 0, 0))


def wide_profile():
    """A profile of a wider gamut."""
    return icc.from_codes(12, 13, 3)


def dpi_of(data):
    return [round(float(side)) for side in Image.open(io.BytesIO(data)).info.get("dpi", (0, 0))]


def xmp_segment(attributes):
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + PACKET % (b"main", attributes))


def motion_photo():
    said = b' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"'
    return jpeg(xmp_segment(said)) + struct.pack(">I", 24) + b"ftypmp42\0\0\0\0mp42isom" + b"\0video" * 500


def two_pictures(*kinds):
    """A picture, an index that calls the others of a kind, and these."""
    second = files.pillow(files.pattern(seed=2), "JPEG")
    return jpeg(segment(0xE2, mpf(*kinds))) + second * len(kinds)


def mpf(*kinds, order="<"):
    """A multi-picture index, with the sizes and offsets still to be set."""
    entries = b"".join(struct.pack(order + "IIIHH", kind, 0, 0, 0, 0) for kind in (0x030000, *kinds))
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "2sHIHHHIII", mark, 42, 8, 1, 0xB002, 7, len(entries), 26, 0)
    return b"MPF\0" + head + entries


def ultra_hdr(*segments, second=None, order="<", length=None, times=1):
    """A picture with a gain map as phones write it: XMP with its length, a multi-picture index, an ISO 21496-1 mark."""
    mark = b"urn:iso:std:iso:ts:21496:-1\0"
    picture = files.pillow(files.pattern(seed=2)[..., 0] if second is None else second, "JPEG", quality=95)
    behind = picture[:2] + segment(0xE2, mark + b"\0" * 60) + picture[2:]
    said = b' xmlns:Item="http://ns.google.com/photos/1.0/container/item/" Item:Semantic="GainMap" Item:Length="%d"'
    described = (
        said % (length or len(behind)) + b' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    )
    index = segment(0xE2, mpf(*[0] * times, order=order))
    return jpeg(*segments, xmp_segment(described), segment(0xE2, mark + b"\0\0\0\0"), index) + behind * times


def gain_map(marked=b"urn:iso:std:iso:ts:21496:-1\0\0\0"):
    second = files.pillow(files.pattern(seed=2), "JPEG")
    return jpeg(segment(0xE2, marked)) + second[:2] + segment(0xE2, marked + b"\0" * 60) + second[2:]


def tiff_of_pages(*subfile_types):
    """A TIFF of pages, each with a NewSubfileType; those after the first are half as large."""
    pages = [PIXELS if not kind & 1 else PIXELS[::2, ::2] for kind in subfile_types]
    data, at = b"", 8
    places, directories = [], []
    for page in pages:
        places.append(at)
        data += page.tobytes()
        at += page.nbytes
    for number, (page, kind) in enumerate(zip(pages, subfile_types, strict=True)):
        last = number + 1 == len(pages)
        entries = [entry for entry in _entries_of(tiff(pixels=page)) if entry[0] != 273]
        entries += [(254, 4, 1, struct.pack("<I", kind)), (273, 4, 1, struct.pack("<I", places[number]))]
        length = len(directory(entries, 0))
        directories.append(directory(entries, at, 0 if last else at + length))
        at += length
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + b"".join(directories)
