"""Small files whose metadata asks for much time or memory, and errors that no parser foresaw.

Where time would grow with the square of the length, inputs are so long that a test would take minutes to hours.
"""

import io
import struct
import tracemalloc
import zlib

import metadata_files as made
import numpy as np
import picture_files as files
import pytest

from kbnet.errors import InvalidInputError, UnreadableImageError, UnsupportedImageError
from kbnet.imaging import Photo, icc, probe, read_photo, reading, sniff, write_photo, xmp
from kbnet.imaging.containers import collect

DAMAGED = ["the metadata is damaged and is not kept"]
LONG, LONGEST_EDITED = 10 << 20, 8 << 20
GAIN_MAP = b' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
XMP_KEY = b"XML:com.adobe.xmp\0"


def packet(content, attributes=GAIN_MAP):
    """A packet with an element of these attributes, and this content."""
    return made.PACKET.replace(b"/></rdf:RDF>", b">%s</rdf:Description></rdf:RDF>") % (b"main", attributes, content)


def repeated(text, length=LONG):
    return text * (length // len(text))


def numbered(text, length=LONG):
    return b"".join(text % number for number in range(length // (len(text) + 4)))


@pytest.mark.parametrize("text", [b"a", b":Length ", b":Length='", b"xmlns:", b"tiff:Orientation ", b"Semantic "])
def test_a_packet_of_one_word_is_searched_in_linear_time(text):
    data = repeated(text)
    assert xmp.describes(data, {1: 2})
    assert xmp.with_lengths(data, {1: 2}) == data
    assert xmp.upright(data) == data
    assert xmp.companions(data) == frozenset()
    assert not xmp.is_well_formed(data)


@pytest.mark.parametrize("text", [b"<RDF>", b"<RDF ", b"<RDF", b"</RDF", b"<a:", b"<xmpNote:HasExtendedXMP>"])
def test_an_extension_without_an_end_is_not_merged(text):
    assert xmp.merged(made.MAIN_XMP, repeated(text)) is None
    assert xmp.merged(packet(repeated(text), made.NOTE + made.GUID + b'"'), made.EXTENSION) is None


@pytest.mark.parametrize(
    "data",
    [
        b"hdrgm:Version" + repeated(b"<hdrgm:a "),
        packet(b"<!--" + numbered(b"<hdrgm:a%d>") + b"-->"),  # well-formed, but too long
        b"<!DOCTYPE a [<!ATTLIST a %s>]><a>%s</a>" % (numbered(b' a%d CDATA ""', 500_000), repeated(b"<a/>", 400_000)),
        b'<a xmlns:p="%s"%s/>' % (repeated(b"u", 500_000), numbered(b' p:a%d=""', 500_000)),
    ],
    ids=["unclosed", "long", "default attributes", "long namespace"],
)
def test_packets_that_take_long_are_not_edited(data):
    assert xmp.without_companions(data) is None


@pytest.mark.parametrize(
    "content",
    [
        b"<!--" + numbered(b"<hdrgm:a%d>", LONGEST_EDITED // 2) + b"-->",
        b"<a" + repeated(b" ", LONGEST_EDITED // 2) + b"/>",
        repeated(b"<?a ' ?>", LONGEST_EDITED // 2) + b"<![CDATA[ <hdrgm:a ' ]]>",
        numbered(b'<a xmlns:p%d="http://ns.adobe.com/hdr-gain-map/1.0/"/>', LONGEST_EDITED // 2),
    ],
    ids=["comment", "spaces", "quotes", "prefixes"],
)
def test_companions_are_cut_in_linear_time(content):
    assert xmp.without_companions(packet(content)) == packet(content, GAIN_MAP.replace(b' hdrgm:Version="1.0"', b""))


def test_only_elements_and_attributes_of_a_property_are_cut():
    cases = [
        (b"<hdrgm:a>1<hdrgm:a/><b>2</b></hdrgm:a>3", b"3"),
        (b"<hdrgm:a><hdrgm:a>1</hdrgm:a></hdrgm:a >2<b hdrgm:c = '/>' d='1'/>", b"2<b d='1'/>"),
        (b"<![CDATA[<hdrgm:a>]]><!-- <hdrgm:a/> --><a>></a>",) * 2,
    ]
    for content, left in cases:
        assert xmp.without_companions(packet(content)) == packet(left, GAIN_MAP.replace(b' hdrgm:Version="1.0"', b""))


def test_a_packet_too_long_to_be_edited_is_dropped_with_a_note():
    photo = read_photo(made.png((b"iTXt", XMP_KEY + bytes(4) + packet(repeated(b"x", LONGEST_EDITED)))))
    assert photo.metadata.first("xmp") is None
    assert photo.notes == ("the XMP block, which describes additional images, is not kept",)
    other = packet(repeated(b"x", LONGEST_EDITED), b"")
    assert read_photo(made.png((b"iTXt", XMP_KEY + bytes(4) + other))).metadata.first("xmp") == other
    developed = packet(repeated(b"x", LONGEST_EDITED), b' xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"')
    found = collect(io.BytesIO(made.tiff((700, 1, len(developed), developed))), "raw")
    assert found.first("xmp") is None
    assert found.notes == ["the XMP block, which describes how to develop the raw data, is not kept"]


def packed(text):
    return b"iTXt", XMP_KEY + b"\1\0\0\0" + zlib.compress(text)


def test_what_a_png_unpacks_is_limited_in_all():
    photo = read_photo(made.png(packed(b"a" * 60_000_000)))  # 60 kB
    assert (photo.notes, photo.metadata.blocks) == (tuple(DAMAGED), ())
    many = made.png(*[packed(b"a" * 12_000_000)] * 3)
    assert collect(io.BytesIO(many), "png").notes == DAMAGED
    assert len(collect(io.BytesIO(made.png(*[packed(b"a" * 12_000_000)] * 2)), "png").blocks) == 2


def test_hexadecimal_text_is_not_split_into_lines():
    data = made.png((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"a\n" * 30_000_000)))
    tracemalloc.start()
    assert collect(io.BytesIO(data), "png").first("exif") is None
    assert tracemalloc.get_traced_memory()[1] < 300_000_000
    tracemalloc.stop()


def box(kind, content):
    return struct.pack(">I4s", len(content) + 8, kind) + content


def heif_of_items(count, kind, length):
    """Boxes of items that are all at the same place: the whole file."""
    infos = b"".join(box(b"infe", struct.pack(">IHH", 0x02000000, number, 0) + kind) for number in range(count))
    places = b"".join(struct.pack(">HHHHII", number, 0, 0, 1, 0, length) for number in range(count))
    described = box(b"iinf", struct.pack(">IH", 0, count) + infos)
    described += box(b"iloc", struct.pack(">IHH", 0x01000000, 0x4400, count) + places)
    data = box(b"ftyp", b"heic") + box(b"meta", bytes(4) + described)
    return data + box(b"mdat", bytes(length - len(data) - 8))


@pytest.mark.parametrize(("kind", "name"), [(b"mime\0application/rdf+xml\0", "xmp"), (b"Exif\0", "exif")])
def test_of_items_at_the_same_place_one_is_read(kind, name):
    found = collect(io.BytesIO(heif_of_items(1000, kind, 1_000_000)), "heic")
    assert [block.kind for block in found.blocks] == [name]
    assert len(found.notes) == 1


def test_directories_below_that_are_the_same_are_one():
    value = 50000, 7, 400_000, bytes(400_000)
    below = made.directory([(254, 4, 1, bytes(4)), value], 0)
    for count in (1, 900):
        at = 1 << 20
        data = made.tiff((330, 4, count, struct.pack("<I", at) * count)).ljust(at, b"\0")
        data += (
            below[:-400_000].replace(struct.pack("<II", 400_000, 30), struct.pack("<II", 400_000, at + 30)) + value[3]
        )
        tracemalloc.start()
        assert collect(io.BytesIO(data), "tiff").extras == ["a second image"]
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
        tracemalloc.stop()


def test_a_number_of_a_tag_with_many_values_is_read_alone():
    many = (274, 4, 5_000_000, struct.pack("<I", 6) + struct.pack("<I", 70_000) * 4_999_999)
    data = io.BytesIO(made.tiff(many))
    tracemalloc.start()
    assert collect(data, "tiff").orientation == 6
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()


def test_a_comment_of_many_blocks_is_joined_in_linear_time():
    comment = bytes([255]) * 256 * 200_000
    plain = made.gif()
    data = plain[:-1] + b"\x21\xfe" + comment + b"\0" + plain[-1:]
    assert collect(io.BytesIO(data), "gif").first("comment") == bytes([255]) * 255 * 200_000


def test_a_profile_with_half_a_value_in_its_curve_is_not_linear():
    profile = made.wide_profile()
    data = write_photo(Photo(files.pattern(dtype=np.uint16), icc_profile=profile), None, format="tiff")
    length = struct.pack(">I", 12 + 2 * 1024)
    assert profile.count(length) == 3
    cut = profile.replace(length, struct.pack(">I", 12 + 2 * 1024 - 1))
    assert not icc.is_linear(cut)
    photo = read_photo(data.replace(profile, cut))
    assert (photo.linear, photo.icc_profile) == (False, cut)


@pytest.mark.parametrize(
    "error", [ValueError("odd"), OverflowError("big"), struct.error("short"), IndexError("behind")]
)
@pytest.mark.parametrize(("module", "step"), [(sniff, "sniff"), (reading, "_header")])
def test_an_error_that_no_parser_foresaw_is_that_of_a_damaged_file(monkeypatch, caplog, error, module, step):
    def fail(*_):
        raise error

    monkeypatch.setattr(module, step, fail)
    for read in (read_photo, probe):
        with pytest.raises(UnreadableImageError, match=r"the (PNG|image) file is truncated or damaged; get it again"):
            read(made.png())
    assert [record.getMessage() for record in caplog.records] == [
        f"the image data: a parser failed with {error!r}; please report it"
    ] * 2


@pytest.mark.parametrize("kind", [InvalidInputError, UnsupportedImageError, MemoryError, OSError])
def test_an_error_with_a_meaning_passes_unchanged(monkeypatch, caplog, kind):
    error = kind("what is wrong")

    def fail(*_):
        raise error

    monkeypatch.setattr(reading, "_decode", fail)
    with pytest.raises(kind) as raised:
        read_photo(made.png())
    assert raised.value is error
    assert caplog.records == []


def test_small_files_that_ask_for_much_are_soon_done_with():
    bomb = zlib.compress(b"0" * (1 << 28), 9)
    photo = read_photo(made.png((b"zTXt", b"Raw profile type exif\0\0" + bomb)))
    assert photo.metadata.first("exif") is None
    many = b"".join(files.chunk(b"tEXt", b"a\0b") for _ in range(30_000))
    plain = made.png()
    assert read_photo(plain[:33] + many[: 500 * 15] + plain[33:]).notes == ()
    found = collect(io.BytesIO(plain[:33] + many + plain[33:]), "png")
    assert found.notes == ["the metadata is damaged and is not kept"]
    # entries that all point to the same bytes: 4000 times the file
    one = made.text(50000, "x" * 100_000)
    overlapping = made.tiff(one)
    at = struct.unpack_from("<I", overlapping, 4)[0]
    place = overlapping[at + 2 : at + 14 + 12 * 9].rfind(struct.pack("<HH", 50000, 2))
    entry = overlapping[at + 2 + place : at + 14 + place]
    directory = struct.pack("<H", 4000) + entry * 4000 + bytes(4)
    found = collect(
        io.BytesIO(overlapping[:4] + struct.pack("<I", len(overlapping)) + overlapping[8:] + directory), "tiff"
    )
    assert sum(len(block.data) for block in found.blocks) < 3 * len(overlapping)
