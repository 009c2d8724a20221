"""Each kind of metadata in each format: kept, converted or noted as the table says, and nothing invented."""

import io
import struct

import metadata_files as made
import metadata_page as page
import numpy as np
import picture_files as files
import pytest
import tifffile
from metadata_samples import other_samples, samples
from PIL import Image

from kbnet.errors import OutputError
from kbnet.imaging import FORMATS, Block, Metadata, Photo, plan_output, read_photo, write_photo
from kbnet.imaging import exif as exif_blocks
from kbnet.imaging import xmp as xmp_packets
from kbnet.imaging.blocks import KINDS
from kbnet.imaging.containers import collect
from kbnet.imaging.rows import open_rows, write_rows

SAMPLES = samples()
OTHERS = other_samples()
OTHER_RULES = {
    "profile": ("kept",) * 6,
    "resolution": ("kept", "kept", "kept", "noted", "noted", "noted"),
    "channel": ("noted", "noted", "kept", "noted", "noted", "noted"),
    "companion": ("noted", "kept", "noted", "noted", "noted", "noted"),
    "extra": ("noted",) * 6,
    "thumbnail": ("removed",) * 6,
}


def named(sample):
    return f"{sample.kind}-{sample.format}-{sample.where or 'other'}"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("sample", SAMPLES, ids=named)
def test_metadata_becomes_what_the_table_says(sample, format):
    assert page.outcome(sample, format) == KINDS[sample.kind].rule(format)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("sample", OTHERS, ids=named)
def test_whatever_else_a_file_holds_becomes_what_the_page_says(sample, format):
    assert page.outcome(sample, format) == OTHER_RULES[sample.kind][FORMATS.index(format)]


def test_there_is_a_sample_of_every_kind():
    assert {sample.kind for sample in SAMPLES} == set(KINDS)


def test_the_page_shows_what_became_of_the_samples():
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run tests/imaging/metadata_page.py"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("sample", SAMPLES + OTHERS, ids=named)
def test_a_planned_picture_needs_no_more_planning(sample, format):
    planned, _ = plan_output(read_photo(sample.data), format)
    again, notes = plan_output(planned, format)
    assert notes == ()
    assert again.metadata == planned.metadata
    assert again.icc_profile == planned.icc_profile


@pytest.mark.parametrize("sample", [sample for sample in SAMPLES + OTHERS if sample.format in FORMATS], ids=named)
def test_a_second_restoration_loses_no_more_than_the_first(sample):
    first = read_photo(write_photo(read_photo(sample.data), None))
    second = read_photo(write_photo(first, None))
    assert second.metadata == first.metadata
    assert second.icc_profile == first.icc_profile
    assert first.extras == ()


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF", "GIF", "BMP"])
def test_nothing_is_invented(source, target):
    image = Image.fromarray(files.pattern())
    photo = read_photo(files.pillow(image.quantize(16) if source == "GIF" else image, source))
    if source == "BMP":  # its header cannot but have a resolution
        assert photo.metadata.resolution.unit == "metre"
        photo = Photo(photo.pixels)
    assert photo.metadata == Metadata()
    result = write_photo(photo, None, format=target)
    written = Image.open(io.BytesIO(result))
    written.load()
    if target == "tiff":
        assert not {270, 282, 283, 296, 305, 306, 34665} & set(written.tag_v2)
        return
    assert not written.getexif()
    if target == "heic":
        kept = {"exif", "metadata", "thumbnails", "depth_images", "aux", "original_orientation", "icc_profile", "xmp"}
        assert not any(written.info.get(name) for name in kept)
        return
    info = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "background", "loop", "timestamp", "duration"}
    assert set(written.info) <= info
    assert written.info.get("jfif_unit", 0) == 0  # square pixels, of no size


def exif_of_every_type(order):
    """A block in a byte order with values of all types, tags that no library knows, and an orientation of 6."""
    second = struct.pack
    values = [
        (0x010F, 2, 6, b"Maker\0"),
        (0x0112, 3, 1, second(order + "H", 6)),
        (0x9999, 12, 2, second(order + "2d", 1.5, -2.5)),
        (0xC7A1, 10, 1, second(order + "2i", -1, 3)),
        (0xEA1C, 7, 40, bytes(range(40))),
        (0xFDE8, 8, 3, second(order + "3h", -1, 2, -3)),
    ]
    head, more = 8 + 2 + 12 * len(values) + 4, b""
    body = struct.pack(order + "H", len(values))
    for tag, kind, count, data in values:
        place = data.ljust(4, b"\0")
        if len(data) > 4:
            place, more = struct.pack(order + "I", head + len(more)), more + data
        body += struct.pack(order + "HHI", tag, kind, count) + place
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + body + bytes(4) + more


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("target", ["png", "jpeg", "webp", "avif"])
def test_of_exif_two_bytes_change_and_all_others_stay(order, target):
    block = exif_of_every_type(order)
    photo = read_photo(made.jpeg(made.segment(0xE1, b"Exif\0\0" + block)))
    result = write_photo(photo, None, format=target)
    expected = block.replace(struct.pack(order + "HHIH", 0x0112, 3, 1, 6), struct.pack(order + "HHIH", 0x0112, 3, 1, 1))
    assert expected != block
    assert expected in result
    assert read_photo(result).metadata.first("exif") == expected


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_either_byte_order_goes_into_tiff_and_back(order):
    photo = read_photo(made.jpeg(made.segment(0xE1, b"Exif\0\0" + exif_of_every_type(order))))
    tags = tifffile.TiffFile(io.BytesIO(write_photo(photo, None, format="tiff"))).pages[0].tags
    assert tags[0x010F].value == "Maker"
    assert tags[0x9999].value == (1.5, -2.5)
    assert tags[0xC7A1].value == (-1, 3)
    assert tags[0xEA1C].value == bytes(range(40))
    assert tags[0xFDE8].value == (-1, 2, -3)
    assert 274 not in tags


def test_width_and_height_in_exif_turn_with_the_picture():
    sides = [(0xA002, 4, 1, struct.pack("<I", 60)), (0xA003, 3, 1, struct.pack("<H", 40))]
    inner = made.directory(sides, 8)
    main = [(0x0112, 3, 1, b"\6\0"), (34665, 4, 1, struct.pack("<I", 8))]
    block = b"II*\0" + struct.pack("<I", 8 + len(inner)) + inner + made.directory(main, 8 + len(inner))
    written = write_photo(read_photo(made.png((b"eXIf", block))), None)
    found = Image.open(io.BytesIO(written)).getexif().get_ifd(34665)
    assert (found[0xA002], found[0xA003]) == (40, 60)
    assert Image.open(io.BytesIO(written)).size == (40, 60)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_of_a_tiff_of_either_layout_are_kept(order, big):
    target = io.BytesIO()
    extra = [(65000, "d", 3, (0.5, 1.5, 2.5), True), (50838, "I", 2, (12, 34), True), (315, "s", 0, "Ada", True)]
    description = "ImageJ=1.11a\nunit=micron\n"
    options = {
        "photometric": "rgb",
        "description": description,
        "metadata": None,
        "resolution": (7, 9),
        "resolutionunit": 3,
    }
    with tifffile.TiffWriter(target, bigtiff=big, byteorder=order) as writer:
        writer.write(files.pattern(), extratags=extra, software="kept", **options)
    photo = read_photo(target.getvalue())
    page_read = tifffile.TiffFile(io.BytesIO(write_photo(photo, None))).pages[0]
    values = {tag: page_read.tags[tag].value for tag in (65000, 50838, 315, 270, 305, 282, 283, 296)}
    assert values == {
        65000: (0.5, 1.5, 2.5), 50838: (12, 34), 315: "Ada", 270: description.strip(), 305: "kept",
        282: (7, 1), 283: (9, 1), 296: 3,
    }  # fmt: skip
    np.testing.assert_array_equal(page_read.asarray(), files.pattern())
    exif = Image.open(io.BytesIO(write_photo(photo, None, format="jpeg"))).getexif()
    assert (exif[315], exif[270]) == ("Ada", description)


def test_a_tag_that_stands_twice_stays_twice():
    data = made.tiff(made.text(270, "first"), made.text(270, "second"))
    tags = tifffile.TiffFile(io.BytesIO(write_photo(read_photo(data), None))).pages[0].tags
    assert [tag.value for tag in tags.getall(270)] == ["first", "second"]


def test_a_reduced_copy_or_a_mask_makes_no_second_page():
    photo = read_photo(made.tiff_of_pages(0, 1))
    np.testing.assert_array_equal(photo.pixels, files.pattern())
    assert photo.notes == ("the reduced copy of the image on a separate page is not kept",)
    assert photo.extras == ()
    np.testing.assert_array_equal(read_photo(made.tiff_of_pages(1, 0)).pixels, files.pattern())
    assert read_photo(made.tiff_of_pages(0, 1, 4)).extras == ("a mask on a separate page",)


def test_a_channel_without_a_meaning_is_no_transparency():
    infrared = files.pattern(channels=4)
    photo = read_photo(made.tiff(pixels=infrared))
    assert photo.alpha is None
    np.testing.assert_array_equal(photo.extra_channel, infrared[..., 3])
    for code, has_alpha in ((0, False), (1, True), (2, True)):
        read = read_photo(made.tiff((338, 3, 1, struct.pack("<H", code)), pixels=infrared))
        assert (read.alpha is not None) == has_alpha
    gray = np.ascontiguousarray(infrared[..., :2])
    two = read_photo(made.tiff(pixels=gray))
    assert two.is_gray
    assert two.alpha is None
    again = read_photo(write_photo(two, None))
    np.testing.assert_array_equal(again.extra_channel, gray[..., 1])


def test_previews_that_cameras_store_as_pictures_are_not_missed():
    assert read_photo(made.two_pictures(0x010002)).extras == ()
    assert read_photo(made.two_pictures(0x010002, 0x020003)).extras == ("a second image",)


@pytest.mark.parametrize("padding", [b"\0" * 9999, b"\xff" * 9999, b"SEFH" + b"\0" * 2000 + b"SEFT", b"few"])
def test_padding_behind_a_picture_is_nothing_to_be_missed(padding):
    assert read_photo(made.jpeg() + padding).extras == ()


def test_what_described_a_lost_video_goes_with_it():
    said = (
        b' xmlns:c="http://ns.google.com/photos/1.0/camera/" c:MotionPhoto="1" c:MotionPhotoVersion="1"'
        b' c:MotionPhotoPresentationTimestampUs="-1" c:CaptureMode="kept"'
    )
    photo = read_photo(made.jpeg(made.xmp_segment(said)))
    packet = photo.metadata.first("xmp")
    assert b"MotionPhoto" not in packet
    assert b'c:CaptureMode="kept"' in packet
    assert b'dc:source="main"' in packet
    elements = made.PACKET.replace(
        b"/></rdf:RDF>", b"><x:c/><hdrgm:Version>1.0</hdrgm:Version></rdf:Description></rdf:RDF>"
    )
    elements = elements % (b"main", b' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:GainMapMax="2"')
    assert xmp_packets.without_companions(elements).count(b"hdrgm:") == 0
    assert xmp_packets.without_companions(b"<a hdrgm:Version='1'") is None


def test_a_packet_too_long_for_a_segment_is_split_and_joined_again():
    long = made.PACKET % (made.LONG, b"")
    photo = Photo(files.pattern(), metadata=Metadata((Block("xmp", long),)))
    planned, notes = plan_output(photo, "jpeg")
    assert notes == ()
    read = read_photo(write_photo(planned, None))
    assert made.LONG in read.metadata.first("extended-xmp")
    joined = read_photo(write_photo(read, None, format="webp")).metadata.first("xmp")
    assert made.LONG in joined
    assert b"HasExtendedXMP" not in joined
    hopeless = Photo(files.pattern(), metadata=Metadata((Block("xmp", b"no XML" * 20000),)))
    assert plan_output(hopeless, "jpeg")[1] == (
        "XMP is not kept: JPEG is limited to 64 kB of it, and it can't be split",
    )


def test_incomplete_extended_xmp_is_noted():
    header = b"http://ns.adobe.com/xmp/extension/\0" + made.GUID + struct.pack(">II", 99999, 0)
    main = made.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + made.MAIN_XMP)
    note = "the extended XMP is incomplete or belongs to another file, and is not kept"
    assert note in read_photo(made.jpeg(main, made.segment(0xE1, header + b"part"))).notes
    assert note in read_photo(made.jpeg(main)).notes


def test_text_without_a_tag_of_its_own_is_named():
    photo = read_photo(made.png((b"tEXt", b"parameters\0steps: 20"), (b"tEXt", b"Title\0kept")))
    assert plan_output(photo, "tiff")[1] == ("PNG text (parameters) is not kept in TIFF",)
    assert plan_output(photo, "webp")[1] == ("PNG text (Title, parameters) is not kept in WebP",)
    assert plan_output(photo, "png")[1] == ()


def test_a_comment_gives_way_to_a_description():
    block = exif_blocks.of_texts({270: "described"})
    photo = read_photo(made.jpeg(made.segment(0xE1, b"Exif\0\0" + block), made.segment(0xFE, b"comment")))
    planned, notes = plan_output(photo, "tiff")
    assert notes == ("the JPEG comment is not kept in TIFF",)
    assert Image.open(io.BytesIO(write_photo(planned, None))).tag_v2[270] == "described"


def test_geographic_tags_of_a_turned_picture_are_noted():
    photo = read_photo(made.tiff(*made.geo(), (274, 3, 1, b"\6\0")))
    assert "GeoTIFF tags are not kept: they do not match the rotated image" in photo.notes
    assert photo.metadata.blocks == ()


def test_colour_tags_that_mean_srgb_become_no_profile():
    srgb = struct.pack(">8I", *(round(v * 1e5) for v in (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)))
    for chunks in ([(b"gAMA", made.GAMMA), (b"cHRM", srgb)], [(b"sRGB", b"\0")], [(b"cICP", b"\1\x0d\0\1")]):
        planned, notes = plan_output(read_photo(made.png(*chunks)), "jpeg")
        assert (planned.icc_profile, notes) == (None, ())
    odd = read_photo(made.png((b"cICP", b"\x09\x10\0\1")))
    assert "the colour tag (primaries 9, transfer 16) is not kept in JPEG" in plan_output(odd, "jpeg")[1][0]


def test_linear_gray_is_told_by_a_profile():
    gray = files.png(2, 1, b"\0\x20\x80", colour=0, before=files.chunk(b"gAMA", struct.pack(">I", 100000)))
    planned, _ = plan_output(read_photo(gray), "tiff")
    assert planned.icc_profile[16:20] == b"GRAY"


def test_chunks_that_fit_other_samples_are_noted():
    sixteen = files.png16(files.pattern(channels=3, dtype=np.uint16))
    background = files.chunk(b"bKGD", struct.pack(">3H", 60000, 1, 2))
    photo = read_photo(sixteen[:33] + background + sixteen[33:])
    assert background in write_photo(photo, None)
    note = "PNG's background colour (bKGD) is not kept: it does not match the samples of the restored image"
    assert plan_output(photo, "png", bit_depth=8)[1][-1] == note
    palette = files.pillow(Image.fromarray(files.pattern()).quantize(16), "PNG")
    at = palette.index(b"IDAT") - 4
    indexed = read_photo(palette[:at] + files.chunk(b"bKGD", b"\3") + palette[at:])
    wanted = Image.open(io.BytesIO(palette)).getpalette()[9:12]
    assert files.chunk(b"bKGD", struct.pack(">3H", *wanted)) in write_photo(indexed, None)


@pytest.mark.parametrize("target", ["out.tif", "out.png"])
def test_a_picture_restored_by_rows_keeps_as_much(tmp_path, target):
    block = exif_of_every_type("<")
    chunks = [(b"tEXt", b"Author\0Ada"), (b"eXIf", block), (b"pHYs", struct.pack(">IIB", 11811, 11811, 1))]
    (tmp_path / "in.png").write_bytes(made.png(*chunks, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + made.XMP)))
    with open_rows(tmp_path / "in.png") as reader:
        facts = reader.facts
        reader.read(0, facts.height).tofile(tmp_path / "rows.raw")
    lost = write_rows(tmp_path / "rows.raw", facts, tmp_path / target)
    assert lost == ()
    photo = read_photo(tmp_path / target)
    assert photo.notes == ("rotated upright (orientation 6)",)  # the rows were not turned, and the result still says so
    assert photo.metadata.first("xmp") == made.XMP
    image = Image.open(tmp_path / target)
    assert image.getexif()[0x0112] == 6
    assert image.getexif()[0x010F] == "Maker"
    image.load()
    assert (
        made.artist_of((tmp_path / target).read_bytes()) == "Ada"
        if target == "out.tif"
        else image.text["Author"] == "Ada"
    )
    assert [round(float(side)) for side in image.info["dpi"]] == [300, 300]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", target, "rows.raw"]


@pytest.mark.parametrize("seed", range(40))
def test_damaged_metadata_never_stops_a_whole_picture(seed):
    rng = np.random.default_rng(seed)
    sample = (SAMPLES + OTHERS)[int(rng.integers(len(SAMPLES + OTHERS)))]
    data = bytearray(sample.data)
    for at in rng.integers(0, len(data), 12):
        data[at] = rng.integers(256)
    found = collect(io.BytesIO(bytes(data)), sample.format)
    assert all(isinstance(note, str) for note in found.notes)
    cut = collect(io.BytesIO(bytes(data[: int(rng.integers(len(data)))])), sample.format)
    assert cut.orientation in range(65536)


@pytest.mark.parametrize("sample", [sample for sample in OTHERS if sample.kind == "extra"], ids=named)
def test_a_file_that_would_lose_more_than_metadata_is_not_replaced_unasked(tmp_path, sample):
    path = tmp_path / f"in.{sample.format}"
    path.write_bytes(sample.data)
    photo = read_photo(path)
    assert photo.extras
    with pytest.raises(OutputError, match="would be lost with the original; choose another output or add --drop-ext"):
        write_photo(photo, path, overwrite=True)
    assert path.read_bytes() == sample.data
    other = tmp_path / f"out.{sample.format}"
    write_photo(photo, other)
    write_photo(photo, other, overwrite=True)
    write_photo(photo, path, overwrite=True, drop_extras=True)
    assert read_photo(path).extras == ()


def test_previews_and_metadata_do_not_keep_a_file_from_being_replaced(tmp_path):
    for number, sample in enumerate(SAMPLES + [sample for sample in OTHERS if sample.kind == "thumbnail"]):
        if sample.format in FORMATS:
            path = tmp_path / f"{number}.{sample.format}"
            path.write_bytes(sample.data)
            write_photo(read_photo(path), path, overwrite=True)


def test_exif_outranks_the_texts_of_a_png_wherever_they_stand():
    block = exif_blocks.of_texts({315: "by EXIF", 270: "by EXIF"})
    chunks = [(b"tEXt", b"Author\0by text"), (b"tEXt", b"Title\0by text"), (b"eXIf", block)]
    for order in (chunks, chunks[::-1]):
        planned, notes = plan_output(read_photo(made.png(*order)), "tiff")
        tags = Image.open(io.BytesIO(write_photo(planned, None))).tag_v2
        assert (tags[315], tags[270], tags[269]) == ("by EXIF", "by EXIF", "by text")
        assert notes == ("PNG text (Author) is not kept in TIFF",)


@pytest.mark.parametrize("target", ["jpeg", "png"])
def test_captions_that_a_tiff_has_twice_are_written_once_with_all_resources(target):
    record, resource = made.captions()
    other = b"8BIM\x04\x0a\0\0" + struct.pack(">I", 1) + b"\1\0"  # the copyright flag
    both = made.tiff((33723, 7, len(record), record), (34377, 1, len(resource + other), resource + other))
    apart = made.tiff((33723, 7, len(record), record), (34377, 1, len(other), other))
    for data in (both, apart):
        photo = read_photo(data)
        planned, notes = plan_output(photo, target)
        assert notes == ()
        again = read_photo(write_photo(planned, None)).metadata.first("photoshop")
        assert again.count(record) == 1
        assert other in again
        assert made.has_captions(write_photo(planned, None))
    assert len(plan_output(read_photo(both), "webp")[1]) == 2
