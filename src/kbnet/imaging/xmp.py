"""XMP packets: turned upright, merged with and split into JPEG's extended ones, rid of what names a lost picture.

All edits are of bytes, and one that would leave no well-formed packet is not made.
"""

import hashlib
import re
from xml.parsers import expat

EXTENSION_LIMIT = 65400  # bytes of extended XMP in one JPEG segment, below what fits beside its 75 bytes of header

_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|\s*>)\s*)[2-8]""")
_NOTE = "http://ns.adobe.com/xmp/note/"
_RDF_END = re.compile(rb"</(?:\w+:)?RDF\s*>")
_RDF_BODY = re.compile(rb"<(?:\w+:)?RDF\b[^>]*>(.*)</(?:\w+:)?RDF\s*>", re.DOTALL)
_WRAPPER = re.compile(rb"<\?xpacket[^>]*\?>")
_GUID = re.compile(rb"""HasExtendedXMP(?:\s*=\s*["']|\s*>)\s*([0-9A-Fa-f]{32})""")

# What describes a picture or video that follows the main one in its file: namespace, usual prefix, names (a pattern).
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


def upright(xmp: bytes) -> bytes:
    """The XMP packet with its copy of the orientation set to 1, which some programs believe over EXIF."""
    return _ORIENTATION.sub(rb"\g<1>1", xmp)


def companions(xmp: bytes) -> frozenset[str]:
    """What the packet says about pictures and videos beside the main one: "video", "gain map", "depth"."""
    return frozenset(kind for kind, pattern in _KINDS if pattern.search(xmp))


def without_companions(xmp: bytes) -> bytes | None:
    """The packet without what describes such pictures and videos, which are not carried along.

    None where nothing else is left, or where it cannot be taken out of the packet's text.
    """
    cut = xmp
    for namespace, prefix, names in _COMPANIONS:
        for used in {prefix.encode(), *_prefixes(xmp, namespace)}:
            name = re.escape(used) + rb":" + names
            cut = re.sub(rb"<(" + name + rb")\b[^>]*?/>", b"", cut)
            # up to the next of the same name, so that time grows with the packet's length alone
            cut = re.sub(rb"<(" + name + rb")\b[^>]*>(?:(?!<\1\b).)*?</\1\s*>", b"", cut, flags=re.DOTALL)
            cut = re.sub(rb"\s" + name + rb"""\s*=\s*(?:"[^"]*"|'[^']*')""", b"", cut)
    return cut if is_well_formed(cut) else None


def _prefixes(xmp: bytes, namespace: str) -> set[bytes]:
    return set(re.findall(rb"xmlns:(\w+)\s*=\s*[\"']" + re.escape(namespace.encode()) + rb"[\"']", xmp))


def is_well_formed(xmp: bytes) -> bool:
    """Whether it is XML by the rules, namespaces included; entities of its own are refused."""
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
    """The digest by which the packet names its extension: 32 hexadecimal digits."""
    found = _GUID.search(xmp)
    return found[1] if found else None


def merged(xmp: bytes, extension: bytes) -> bytes | None:
    """One packet of a main one and its extension; None where they are not made as XMP's specification says."""
    body = _RDF_BODY.search(extension)
    ends = list(_RDF_END.finditer(xmp))
    if body is None or not ends:
        return None
    at = ends[-1].start()
    joined = without_note(xmp[:at] + body[1] + xmp[at:])
    return joined if is_well_formed(joined) else None


def without_note(xmp: bytes) -> bytes:
    """The packet without the name of an extension."""
    for prefix in {b"xmpNote", *_prefixes(xmp, _NOTE)}:
        name = re.escape(prefix) + rb":HasExtendedXMP"
        xmp = re.sub(rb"<(" + name + rb")\b[^>]*>.*?</\1\s*>", b"", xmp, flags=re.DOTALL)
        xmp = re.sub(rb"\s" + name + rb"""\s*=\s*(?:"[^"]*"|'[^']*')""", b"", xmp)
    return xmp


def split(xmp: bytes) -> tuple[bytes, bytes]:
    """A packet too long for JPEG as a small main one that names an extension, and that extension."""
    extension = _WRAPPER.sub(b"", xmp).strip(b"\0 \r\n\t")
    digest = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper().encode()
    main = (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        b'xmlns:xmpNote="' + _NOTE.encode() + b'" xmpNote:HasExtendedXMP="' + digest + b'"/></rdf:RDF></x:xmpmeta>'
        b'<?xpacket end="w"?>'
    )
    return main, extension
