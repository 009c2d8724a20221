"""What a HEIF or AVIF file says about its main image, without decoding it: size, depth, colour, auxiliary images."""

import struct
from dataclasses import dataclass, field

from kbnet.imaging.containers.boxes import boxes, items

_ALPHA = (b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")
_DEPTH = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth", b"urn:mpeg:hevc:2015:auxid:2")
_GAIN_MAP = b"urn:com:apple:photo:2020:aux:hdrgainmap"
_CODED = (b"hvc1", b"av01", b"grid", b"iden", b"iovl", b"avc1", b"j2k1", b"jpeg", b"unci", b"vvc1")


@dataclass
class Facts:
    """Facts about the main image.

    Attributes:
        width, height: in pixels as displayed, after the file's own rotation.
        bits: per sample.
        channels: 1 or 3, without alpha.
        has_alpha: whether an auxiliary image holds its transparency.
        profile: ICC profile, or None.
        codes: primaries and transfer of its nclx box, two bytes each, or None.
        auxiliary: names of what else belongs to the image: depth, gain map, mattes.
        others: number of further images in the file, other than thumbnails and auxiliary images.
    """

    width: int = 0
    height: int = 0
    bits: int = 8
    channels: int = 3
    has_alpha: bool = False
    profile: bytes | None = None
    codes: bytes | None = None
    auxiliary: list[str] = field(default_factory=list)
    others: int = 0


def describe(data: bytes) -> Facts | None:
    """Return the facts about a file's main image; None if its boxes don't describe one.

    Raises:
        struct.error, IndexError, ValueError: the boxes are damaged.
    """
    meta = next(((start, stop) for kind, start, stop in boxes(data, 0, len(data)) if kind == b"meta"), None)
    if meta is None:
        return None
    start, stop = meta
    children = {kind: (begin, end) for kind, begin, end in boxes(data, start + 4, stop)}
    if b"pitm" not in children or b"iprp" not in children:
        return None
    at = children[b"pitm"][0]
    (primary,) = struct.unpack_from(">H" if data[at] == 0 else ">I", data, at + 4)
    properties = _properties(data, *children[b"iprp"])
    references = _references(data, *children[b"iref"]) if b"iref" in children else []
    facts = Facts()
    _set_properties(facts, properties.get(primary, []), properties, references, primary)
    sources = (source for kind, source, targets in references if kind == b"auxl" and primary in targets)
    for source in dict.fromkeys(sources):
        _add_auxiliary(facts, properties.get(source, []))
    used = {source for kind, source, _ in references if kind in (b"thmb", b"auxl")}
    used |= {one for kind, _, targets in references if kind in (b"dimg", b"base") for one in targets} | {primary}
    for item in items(data, start, stop):
        if item.kind == b"tmap" and "the HDR gain map" not in facts.auxiliary:
            facts.auxiliary.append("the HDR gain map")
        facts.others += item.kind in _CODED and item.number not in used and not item.hidden
    return facts if facts.width and facts.height else None


def _properties(data: bytes, start: int, stop: int) -> dict[int, list[tuple[bytes, bytes]]]:
    """Return the type and content of the properties of each item."""
    known: list[tuple[bytes, bytes]] = []
    result: dict[int, list[tuple[bytes, bytes]]] = {}
    for kind, begin, end in boxes(data, start, stop):
        if kind == b"ipco":
            known = [(inner, data[first:last]) for inner, first, last in boxes(data, begin, end)]
        elif kind == b"ipma":
            wide, large = data[begin] > 0, data[begin + 3] & 1
            (count,) = struct.unpack_from(">I", data, begin + 4)
            at = begin + 8
            for _ in range(min(count, end - begin)):
                (item,) = struct.unpack_from(">I" if wide else ">H", data, at)
                at += 4 if wide else 2
                number, at = data[at], at + 1
                for _ in range(number):
                    index = struct.unpack_from(">H", data, at)[0] & 0x7FFF if large else data[at] & 0x7F
                    at += 2 if large else 1
                    if 0 < index <= len(known):
                        result.setdefault(item, []).append(known[index - 1])
    return result


def _references(data: bytes, start: int, stop: int) -> list[tuple[bytes, int, list[int]]]:
    """Return the type, the source and the targets of each reference between items."""
    letter, size = (">H", 2) if data[start] == 0 else (">I", 4)
    result = []
    for kind, begin, end in boxes(data, start + 4, stop):
        (source,) = struct.unpack_from(letter, data, begin)
        (count,) = struct.unpack_from(">H", data, begin + size)
        places = range(begin + size + 2, min(end, begin + size + 2 + count * size), size)
        result.append((kind, source, [struct.unpack_from(letter, data, place)[0] for place in places]))
    return result


def _set_properties(
    facts: Facts,
    own: list[tuple[bytes, bytes]],
    properties: dict[int, list[tuple[bytes, bytes]]],
    references: list[tuple[bytes, int, list[int]]],
    primary: int,
) -> None:
    turned, known = False, False
    for kind, content in own:
        if kind == b"ispe":
            facts.width, facts.height = struct.unpack_from(">II", content, 4)
        elif kind == b"irot":
            turned ^= bool(content[0] & 1)
        elif kind == b"pixi":
            facts.bits, known = max(content[5 : 5 + content[4]], default=8), True
            facts.channels = 1 if content[4] == 1 else 3
        elif kind == b"colr" and content[:4] in (b"prof", b"rICC"):
            facts.profile = content[4:]
        elif kind == b"colr" and content[:4] == b"nclx":
            facts.codes = content[4:8]
        elif kind == b"clap":
            width, below, height, under = struct.unpack_from(">4I", content)
            facts.width, facts.height = width // max(below, 1), height // max(under, 1)
    if turned:
        facts.width, facts.height = facts.height, facts.width
    tiles = next((targets for kind, source, targets in references if kind == b"dimg" and source == primary), [])
    coded = own if not tiles else properties.get(tiles[0], [])
    configuration = dict(coded).get(b"hvcC", b"")
    if not known and len(configuration) > 17:
        facts.bits = (configuration[17] & 7) + 8
        facts.channels = 3 if configuration[16] & 3 else 1


def _add_auxiliary(facts: Facts, properties: list[tuple[bytes, bytes]]) -> None:
    kind = dict(properties).get(b"auxC", bytes(4))[4:].split(b"\0")[0]
    if kind in _ALPHA:
        facts.has_alpha = True
        return
    if kind in _DEPTH:
        name = "a depth map"
    elif kind == _GAIN_MAP:
        name = "the HDR gain map"
    else:
        last = "".join(c for c in kind.rpartition(b":")[2].decode("latin-1") if c.isprintable())[:40]
        name = f"an auxiliary image ({last})"
    if name not in facts.auxiliary:
        facts.auxiliary.append(name)
