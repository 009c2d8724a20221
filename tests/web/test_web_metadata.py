"""metadata.js in Node: results say about themselves only what is true, as the files of `kbnet restore`."""

import base64
from io import BytesIO
from pathlib import Path

import pytest
from photos import encode, noisy
from PIL import Image, PngImagePlugin

from kbnet.imaging import exif, xmp

WEB = Path(__file__).parents[2] / "web"
SPLIT = """
const { splitJpeg, splitPng, splitWebp, joinJpeg, joinPng } = await import(`file://${given.web}/metadata.js`);
const { upright } = await import(`file://${given.web}/exif.js`);
const { uprightXmp, withoutCompanions } = await import(`file://${given.web}/xmp.js`);
const { deflateSync } = await import("node:zlib");
const bytes = Uint8Array.from(Buffer.from(given.data, "base64"));
const told = (found) => found && Buffer.from(found).toString("base64");
"""


def thumbnail():
    return encode(noisy(12, 16), "JPEG")


def exif_block(order, width=64, height=40, *, after=b"the end"):
    """Orientation 6, the size of the image, and a thumbnail."""
    number = "little" if order == b"II*\0" else "big"

    def value(kind, one):
        return one.to_bytes(2 if kind == 3 else 4, number).ljust(4, b"\0")

    def directory(entries, following):
        fields = (
            tag.to_bytes(2, number) + kind.to_bytes(2, number) + (1).to_bytes(4, number) + value(kind, one)
            for tag, kind, one in entries
        )
        return len(entries).to_bytes(2, number) + b"".join(fields) + following.to_bytes(4, number)

    picture = thumbnail()
    inner, second = 8 + 2 + 24 + 4, 8 + 2 + 24 + 4 + 2 + 24 + 4
    start = second + 2 + 24 + 4
    main = directory([(0x112, 3, 6), (0x8769, 4, inner)], second)
    sizes = directory([(0xA002, 4, width), (0xA003, 3, height)], 0)
    small = directory([(0x201, 4, start), (0x202, 4, len(picture))], 0)
    return order + (8).to_bytes(4, number) + main + sizes + small + picture + after


PACKET = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<!-- <GCamera:MotionPhoto> --><rdf:Description rdf:about="" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"
 xmlns:Box="http://ns.google.com/photos/1.0/container/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/"
 GCamera:MotionPhoto="1" GCamera:PortraitNote='a > b' hdrgm:Version="1.0" tiff:Orientation="6"
 tiff:Artist="J\xc3\xbcrgen">
<Box:Directory><rdf:Seq><rdf:li Item:Semantic="GainMap" Item:Length="99"/></rdf:Seq></Box:Directory>
<tiff:Make>a camera</tiff:Make></rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>\0"""


def ask(run, script, data):
    told = run(SPLIT + script, web=str(WEB), data=base64.b64encode(data).decode())
    return told and base64.b64decode(told)


@pytest.mark.parametrize("order", [b"II*\0", b"MM\0*"])
@pytest.mark.parametrize("after", [b"", b"the end"])
def test_exif_loses_its_thumbnail_and_is_turned_as_by_kbnet_restore(run, order, after):
    block = exif_block(order, after=after)
    data = encode(noisy(40, 64), "JPEG", exif=b"Exif\0\0" + block)
    kept = ask(run, "say(told(splitJpeg(bytes).info.exif));", data)
    assert kept == exif.upright(block, keep_orientation=True)
    assert thumbnail() not in kept
    turned = ask(run, "say(told(upright(splitJpeg(bytes).info.exif)));", data)
    assert turned == exif.upright(block)
    assert exif.orientation_of(turned) == 1


@pytest.mark.parametrize("cut", [0, 7, 9, 20, 38, 60, 75, 120])
def test_damaged_exif_is_no_obstacle(run, cut):
    block = exif_block(b"II*\0")[:cut]
    data = encode(noisy(8, 8), "WEBP", lossless=True, exif=b"Exif\0\0" + block)
    ask(run, "const { info } = splitWebp(bytes); say(told(info.exif && upright(info.exif)));", data)


def test_xmp_loses_what_describes_further_images_as_by_kbnet_restore(run):
    cut = ask(run, "say(told(withoutCompanions(bytes)));", PACKET)
    assert cut == xmp.without_companions(PACKET)
    assert xmp.companions(cut.replace(b"<!-- <GCamera:MotionPhoto> -->", b"")) == frozenset()
    for word in (b"hdrgm:Version", b"Directory", b"GCamera:MotionPhoto="):
        assert word not in cut
    for word in (b"GCamera:PortraitNote='a > b'", "Jürgen".encode(), b"a camera", b"<!-- <GCamera:MotionPhoto> -->"):
        assert word in cut
    assert ask(run, "say(told(uprightXmp(bytes)));", PACKET) == xmp.upright(PACKET)
    plain = PACKET.replace(b'"1"', b'"0"').replace(b"GainMap", b"Primary").replace(b"hdrgm:Version", b"hdrgm:Other")
    assert ask(run, "say(told(withoutCompanions(bytes)));", plain) == plain


BROKEN = {
    "tags": PACKET.replace(b"</Box:Directory>", b""),
    "crossed": PACKET.replace(b"</tiff:Make></rdf:Description>", b"</rdf:Description></tiff:Make>"),
    "cut": PACKET[:-60],
    "encoding": PACKET.replace(b"J\xc3\xbcrgen", b"J\xfcrgen"),
    "doctype": PACKET.replace(b"<x:xmpmeta", b"<!DOCTYPE x><x:xmpmeta", 1),
    "endless": b"hdrgm:Version" + b"<a " * 300_000,
    "long": b"hdrgm:Version<" + b"a" * 1_000_000,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_xmp_that_cannot_be_edited_is_not_kept(run, kind):
    assert xmp.without_companions(BROKEN[kind]) is None
    assert ask(run, "say(told(withoutCompanions(bytes)));", BROKEN[kind]) is None


def info(data, name):
    return Image.open(BytesIO(data)).info[name]


def test_a_jpeg_and_a_png_of_the_same_format_are_settled_too(run):
    block = exif_block(b"MM\0*")
    data = encode(noisy(8, 8), "JPEG", exif=b"Exif\0\0" + block, xmp=PACKET, comment=b"hello")
    script = "say(told(Buffer.concat(joinJpeg(bytes, splitJpeg(bytes).info, true, []))));"
    result = ask(run, script, data)
    assert info(result, "exif") == b"Exif\0\0" + exif.upright(block, keep_orientation=True)
    assert info(result, "xmp") == xmp.without_companions(PACKET)
    assert info(result, "comment") == b"hello"
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", PACKET.decode(), zip=True)
    notes.add_text("Title", "a title")
    data = encode(noisy(8, 8), exif=block, pnginfo=notes)
    script = """
    const found = await splitPng(bytes), header = bytes.subarray(16, 29), rows = deflateSync(new Uint8Array(8 * 25));
    say(told(Buffer.concat(await joinPng(header, rows, found.info, true))));
    """
    result = ask(run, script, data)
    assert info(result, "exif").removeprefix(b"Exif\0\0") == exif.upright(block, keep_orientation=True)
    assert info(result, "XML:com.adobe.xmp").encode() == xmp.without_companions(PACKET)
    assert info(result, "Title") == "a title"


def test_metadata_with_nothing_to_settle_keeps_its_bytes(run):
    data = encode(noisy(8, 8), "JPEG", xmp=b"<x:xmpmeta/>", exif=exif.of_texts({0x10F: "a camera"}))
    script = "say(told(Buffer.concat(joinJpeg(bytes, splitJpeg(bytes).info, true, []))));"
    assert info(ask(run, script, data), "xmp") == b"<x:xmpmeta/>"
