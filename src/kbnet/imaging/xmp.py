"""XMP packets: resets the orientation, merges and splits JPEG's extended XMP, removes references to lost images.

All edits work on bytes. An edit that would make a packet malformed is not applied.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from xml.parsers import expat

EXTENSION_LIMIT = 65400  # bytes of extended XMP per JPEG segment, which also holds a 75-byte header

_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|\s*>)\s*)[2-8]""")
_LENGTH = re.compile(rb"""(\w+:Length(?:\s*=\s*["']|\s*>)\s*)(\d{1,10})""")  # in Google's Container:Directory
_CAMERA_RAW = "http://ns.adobe.com/camera-raw-settings/1.0/"
_NOTE = "http://ns.adobe.com/xmp/note/"
_RDF_END = re.compile(rb"</(\w+:)?RDF\s*>")
_RDF_BODY = re.compile(rb"<(?:\w+:)?RDF\b[^>]*>(.*)</(?:\w+:)?RDF\s*>", re.DOTALL)
_WRAPPER = re.compile(rb"<\?xpacket[^>]*\?>")
_GUID = re.compile(rb"""HasExtendedXMP(?:\s*=\s*["']|\s*>)\s*([0-9A-Fa-f]{32})""")

# Properties that describe images or videos after the main image: namespace, usual prefix, pattern of names.
_COMPANIONS = (
    ("http://ns.google.com/photos/1.0/camera/", "GCamera", rb"(?:MotionPhoto|MicroVideo)\w*"),
    ("http://ns.google.com/photos/1.0/container/", "Container", rb"Directory"),
    ("http://ns.google.com/photos/dd/1.0/device/", "Device", rb"Container"),
    ("http://ns.adobe.com/hdr-gain-map/1.0/", "hdrgm", rb"\w+"),
    ("http://ns.apple.com/HDRGainMap/1.0/", "HDRGainMap", rb"\w+"),
)
_KINDS = (
    ("video", re.compile(rb"""(?:MotionPhoto|MicroVideo)\s*(?:=\s*["']|>)\s*1""")),
    ("gain map", re.compile(rb"""hdrgm:Version|ns\.apple\.com/HDRGainMap|Semantic\s*(?:=\s*["']|>)\s*GainMap""")),
    ("depth", re.compile(rb"""Semantic\s*(?:=\s*["']|>)\s*(?:Depth|Confidence)\b""")),
)


MARK = b"urn:kbnet:restored:1"
"""Namespace of the properties that mark results of kbnet."""

EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
"""A packet without properties."""


def marked(xmp: bytes, task: str, version: str) -> bytes | None:
    """Return the packet with the mark of a result, or None if the packet is malformed. An older mark stays as it is."""
    if MARK in xmp:
        return xmp
    ends = list(_RDF_END.finditer(xmp))
    if not ends:
        return None
    prefix = ends[-1][1] or b""
    about = (prefix or b"rdf:") + b'about=""'  # an attribute without a prefix has no namespace
    names = b"" if prefix else b' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    values = f'kbnet:Task="{task}" kbnet:Version="{version}"'.encode("ascii", "xmlcharrefreplace")
    mark = b"<" + prefix + b"Description" + names + b" " + about + b' xmlns:kbnet="' + MARK + b'" ' + values + b"/>"
    at = ends[-1].start()
    result = xmp[:at] + mark + xmp[at:]
    return result if is_well_formed(result) else None


def upright(xmp: bytes) -> bytes:
    """Return the packet with its orientation set to 1; some programs prefer it over the orientation in EXIF."""
    return _ORIENTATION.sub(rb"\g<1>1", xmp)


def companions(xmp: bytes) -> frozenset[str]:
    """Return what the packet says about additional images and videos: "video", "gain map", "depth"."""
    return frozenset(kind for kind, pattern in _KINDS if pattern.search(xmp))


def without_development(xmp: bytes) -> bytes:
    """Return the packet of a raw file without Adobe's settings for developing it, which was done."""
    cut = _cut(xmp, ((_CAMERA_RAW, "crs", rb"\w+"),))
    return cut if is_well_formed(cut) else xmp


def describes(xmp: bytes, lengths: Mapping[int, int]) -> bool:
    """Return whether the packet gives no lengths of images after the main one, or all of these old lengths."""
    found = {int(length) for _, length in _LENGTH.findall(xmp)}
    return not found or found >= set(lengths)


def with_lengths(xmp: bytes, lengths: Mapping[int, int]) -> bytes:
    """Return the packet with other lengths of the images after the main one, by their old lengths."""

    def changed(match: re.Match[bytes]) -> bytes:
        return match[1] + b"%d" % lengths.get(int(match[2]), int(match[2]))

    return _LENGTH.sub(changed, xmp) if lengths else xmp


def without_companions(xmp: bytes) -> bytes | None:
    """Return the packet without descriptions of additional images and videos, which results don't contain.

    Returns None if the descriptions can't be removed from the text.
    """
    cut = _cut(xmp, _COMPANIONS)
    return cut if is_well_formed(cut) else None


def _cut(xmp: bytes, properties: Iterable[tuple[str, str, bytes]]) -> bytes:
    """Remove properties, given as namespace, usual prefix, and pattern of names, from the text of a packet."""
    cut = xmp
    for namespace, prefix, names in properties:
        for used in {prefix.encode(), *_prefixes(xmp, namespace)}:
            name = re.escape(used) + rb":" + names
            cut = re.sub(rb"<(" + name + rb")\b[^>]*?/>", b"", cut)
            # stop at the next tag of the same name, so that time is linear in the packet's length
            cut = re.sub(rb"<(" + name + rb")\b[^>]*>(?:(?!<\1\b).)*?</\1\s*>", b"", cut, flags=re.DOTALL)
            cut = re.sub(rb"\s" + name + rb"""\s*=\s*(?:"[^"]*"|'[^']*')""", b"", cut)
    return cut


def _prefixes(xmp: bytes, namespace: str) -> set[bytes]:
    return set(re.findall(rb"xmlns:(\w+)\s*=\s*[\"']" + re.escape(namespace.encode()) + rb"[\"']", xmp))


def is_well_formed(xmp: bytes) -> bool:
    """Return whether the packet is well-formed XML with namespaces. Entity declarations are refused."""
    parser = expat.ParserCreate(namespace_separator=" ")

    def refuse(*_: object) -> None:
        raise ValueError

    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(xmp.rstrip(b"\0"), True)
    except (expat.ExpatError, ValueError):
        return False
    return True


def extension_guid(xmp: bytes) -> bytes | None:
    """Return the digest that identifies the packet's extension, 32 hexadecimal digits; None if it has none."""
    found = _GUID.search(xmp)
    return found[1] if found else None


def merged(xmp: bytes, extension: bytes) -> bytes | None:
    """Merge a main packet with its extension; None if they don't follow the XMP specification."""
    body = _RDF_BODY.search(extension)
    ends = list(_RDF_END.finditer(xmp))
    if body is None or not ends:
        return None
    at = ends[-1].start()
    joined = without_note(xmp[:at] + body[1] + xmp[at:])
    return joined if is_well_formed(joined) else None


def without_note(xmp: bytes) -> bytes:
    """Return the packet without its reference to an extension."""
    for prefix in {b"xmpNote", *_prefixes(xmp, _NOTE)}:
        name = re.escape(prefix) + rb":HasExtendedXMP"
        xmp = re.sub(rb"<(" + name + rb")\b[^>]*>.*?</\1\s*>", b"", xmp, flags=re.DOTALL)
        xmp = re.sub(rb"\s" + name + rb"""\s*=\s*(?:"[^"]*"|'[^']*')""", b"", xmp)
    return xmp


def split(xmp: bytes) -> tuple[bytes, bytes]:
    """Split a packet that is too long for JPEG into a small main packet and the extension that it refers to."""
    extension = _WRAPPER.sub(b"", xmp).strip(b"\0 \r\n\t")
    digest = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper().encode()
    main = (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        b'xmlns:xmpNote="' + _NOTE.encode() + b'" xmpNote:HasExtendedXMP="' + digest + b'"/></rdf:RDF></x:xmpmeta>'
        b'<?xpacket end="w"?>'
    )
    return main, extension
