"""XMP packets: resets the orientation, merges and splits JPEG's extended XMP, removes references to lost images.

All edits work on bytes. An edit that would make a packet malformed is not applied. Packets may be hostile: no pattern
here takes more than linear time, since Python's regular expressions and expat let no other thread run meanwhile.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from xml.parsers import expat

EXTENSION_LIMIT = 65400  # bytes of extended XMP per JPEG segment, which also holds a 75-byte header

_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|\s*>)\s*)[2-8]""")
_LENGTH = re.compile(rb"""(:Length(?:\s*=\s*["']|\s*>)\s*)(\d{1,10})""")  # in Google's Container:Directory
_CAMERA_RAW = "http://ns.adobe.com/camera-raw-settings/1.0/"
_NOTE = "http://ns.adobe.com/xmp/note/"
_RDF_END = re.compile(rb"</(\w+:)?RDF\s*>")
_RDF_START = re.compile(rb"<(?:\w+:)?RDF\b[^<>]*>")
_WRAPPER = re.compile(rb"<\?xpacket[^<>]*\?>")
_GUID = re.compile(rb"""HasExtendedXMP(?:\s*=\s*["']|\s*>)\s*([0-9A-Fa-f]{32})""")
# Comments, literal text, processing instructions; or a tag: its slash, name and attributes. Only for well-formed XML.
_MARKUP = re.compile(
    rb"""<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>"""
    rb"""|<(/?)([^\s/>]+)([^"'>]*+(?:(?:"[^"]*+"|'[^']*+')[^"'>]*+)*+)>""",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(rb"""\s([^\s=]+)\s*=\s*(?:"[^"]*"|'[^']*')""")
_LONG_NAMESPACE = re.compile(rb"""xmlns(?::[^\s=:]*)?\s*=\s*["'][^"']{256}""")
_LONGEST_EDITED = 8 << 20  # bytes; packets have a few kilobytes, but those with a phone's depth map are longer

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
    # apart, as patterns that begin with fixed text are found many times faster
    ("gain map", re.compile(rb"hdrgm:Version")),
    ("gain map", re.compile(rb"ns\.apple\.com/HDRGainMap")),
    ("gain map", re.compile(rb"""Semantic\s*(?:=\s*["']|>)\s*GainMap""")),
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
    end = _rdf_end(xmp)
    if end is None:
        return None
    prefix = end[1] or b""
    about = (prefix or b"rdf:") + b'about=""'  # an attribute without a prefix has no namespace
    names = b"" if prefix else b' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    values = f'kbnet:Task="{task}" kbnet:Version="{version}"'.encode("ascii", "xmlcharrefreplace")
    mark = b"<" + prefix + b"Description" + names + b" " + about + b' xmlns:kbnet="' + MARK + b'" ' + values + b"/>"
    at = end.start()
    result = xmp[:at] + mark + xmp[at:]
    return result if is_well_formed(result) else None


def _rdf_end(xmp: bytes, at: int = 0) -> re.Match[bytes] | None:
    ends = list(_RDF_END.finditer(xmp, at))
    return ends[-1] if ends else None


def upright(xmp: bytes) -> bytes:
    """Return the packet with its orientation set to 1; some programs prefer it over the orientation in EXIF."""
    return _ORIENTATION.sub(rb"\g<1>1", xmp)


def companions(xmp: bytes) -> frozenset[str]:
    """Return what the packet says about additional images and videos: "video", "gain map", "depth"."""
    return frozenset(kind for kind, pattern in _KINDS if pattern.search(xmp))


def without_development(xmp: bytes) -> bytes | None:
    """Return the packet of a raw file without Adobe's settings for developing it, which was done.

    Returns None if the settings can't be removed from the text.
    """
    return _cut(xmp, ((_CAMERA_RAW, "crs", rb"\w+"),)) if _CAMERA_RAW.encode() in xmp else xmp


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
    return _cut(xmp, _COMPANIONS)


def _cut(xmp: bytes, properties: Iterable[tuple[str, str, bytes]]) -> bytes | None:
    """Remove properties, given as namespace, usual prefix, and pattern of names, from the text of a packet.

    Returns None if the packet is malformed, too long, or would become malformed.
    """
    if len(xmp) > _LONGEST_EDITED or not is_well_formed(xmp):
        return None
    unwanted = {
        prefix: re.compile(names)
        for namespace, usual, names in properties
        for prefix in {usual.encode(), *_prefixes(xmp, namespace)}
    }

    def goes(name: bytes) -> bool:
        prefix, _, local = name.partition(b":")
        return prefix in unwanted and unwanted[prefix].fullmatch(local) is not None

    kept: list[bytes] = []
    at = depth = 0  # where the text that is kept continues; how many elements are open, counted from a removed one
    for markup in _MARKUP.finditer(xmp):
        closing, name, attributes = markup.groups()
        if name is None:
            continue
        if depth or goes(name):
            if not depth:
                kept.append(xmp[at : markup.start()])
            depth += 0 if attributes.endswith(b"/") else -1 if closing else 1
            at = markup.end()
        elif attributes:
            left = _ATTRIBUTE.sub(lambda one: b"" if goes(one[1]) else one[0], attributes)
            kept += [xmp[at : markup.start(3)], left]
            at = markup.end(3)
    cut = b"".join((*kept, xmp[at:]))
    return cut if is_well_formed(cut) else None


def _prefixes(xmp: bytes, namespace: str) -> set[bytes]:
    return set(re.findall(rb"xmlns:(\w+)\s*=\s*[\"']" + re.escape(namespace.encode()) + rb"[\"']", xmp))


def is_well_formed(xmp: bytes) -> bool:
    """Return whether the packet is well-formed XML with namespaces, in UTF-8.

    Document types and long names of namespaces are refused: with entities, default attributes, or many attributes of
    such a namespace, time would grow with the square of the length.
    """
    if _LONG_NAMESPACE.search(xmp):
        return False
    parser = expat.ParserCreate("utf-8", " ")

    def refuse(*_: object) -> None:
        raise ValueError

    parser.StartDoctypeDeclHandler = refuse
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
    """Merge a main packet with its extension; None if they are too long or don't follow the XMP specification."""
    start, place = _RDF_START.search(extension), _rdf_end(xmp)
    end = _rdf_end(extension, start.end()) if start else None
    if start is None or end is None or place is None:
        return None
    at = place.start()
    joined = xmp[:at] + extension[start.end() : end.start()] + xmp[at:]
    return _cut(joined, ((_NOTE, "xmpNote", rb"HasExtendedXMP"),))


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
