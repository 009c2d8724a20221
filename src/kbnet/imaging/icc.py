"""Reads the needed parts of ICC profiles, and builds profiles from primaries and a curve. Pure functions of bytes."""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Chromaticities = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""x and y of white, red, green and blue."""

_D65, _D50 = (0.3127, 0.3290), (0.34567, 0.35850)
SRGB: Chromaticities = (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
# Code points of ITU-T H.273, as in PNG's cICP and AVIF's nclx.
PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB,
    4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_BT709, _SRGB_CURVE = (1, 6, 14, 15), 13
_LONGEST_TAG = 1 << 20  # bytes
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def icc_channels(profile: bytes) -> int | None:
    """Return the number of channels of a profile's colour space: 1 gray, 3 RGB, 4 CMYK; None for any other."""
    return {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}.get(profile[16:20])


def icc_name(profile: bytes) -> str:
    """Return the description in an ICC profile (version 2 or 4), such as "Display P3"; "unnamed" if it has none."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        for index in range(min(count, 100)):
            signature, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
            if signature == b"desc":
                return _icc_text(profile[offset : offset + size]) or "unnamed"
    except (struct.error, UnicodeDecodeError):
        return "unnamed"
    return "unnamed"


def _icc_text(tag: bytes) -> str:
    if tag[:4] == b"desc":
        (length,) = struct.unpack_from(">I", tag, 8)
        text = tag[12 : 12 + length].decode("latin-1")
    elif tag[:4] == b"mluc":
        length, offset = struct.unpack_from(">II", tag, 20)
        text = tag[offset : offset + length].decode("utf-16-be")
    else:
        return ""
    return "".join(c for c in text.split("\0")[0] if c.isprintable()).strip()


def from_codes(primaries: int, transfer: int, channels: int) -> bytes | None:
    """Build a profile for code points of ITU-T H.273; None if they mean sRGB, are unspecified, or have no profile."""
    if means_srgb(primaries, transfer):
        return None
    chromaticities = SRGB if primaries == 2 else PRIMARIES.get(primaries)
    if chromaticities is None:
        return None
    if transfer in _GAMMAS:
        curve = _gamma_curve(_GAMMAS[transfer])
    elif transfer in (2, *_BT709, _SRGB_CURVE):
        curve = _table_curve(_srgb_to_linear(np.linspace(0, 1, 1024)))
    else:
        return None
    return _profile(chromaticities, curve, channels, f"primaries {primaries}, transfer {transfer}")


def means_srgb(primaries: int, transfer: int) -> bool:
    """Return whether these code points mean sRGB, are unspecified, or mean BT.709, which programs display as sRGB."""
    return primaries in (1, 2) and transfer in (2, _SRGB_CURVE, *_BT709)


def from_gamma(gamma: float | None, chromaticities: Chromaticities | None, channels: int) -> bytes | None:
    """Build a profile for a PNG's gAMA (the encoding exponent, such as 1/2.2) and cHRM; None if they mean sRGB."""
    usual_gamma = gamma is None or abs(gamma - 1 / 2.2) < 0.0006
    near = chromaticities is None or np.allclose(chromaticities, SRGB, atol=0.0015)
    if usual_gamma and near:
        return None
    if usual_gamma and channels == 1:
        return None
    curve = _table_curve(_srgb_to_linear(np.linspace(0, 1, 1024))) if gamma is None else _gamma_curve(1 / gamma)
    return _profile(chromaticities or SRGB, curve, channels, "PNG gAMA and cHRM")


def is_linear(profile: bytes) -> bool:
    """Return whether the profile's curves are straight lines: its samples are proportional to light."""
    tags = _tags(profile)
    curves = [tags[name] for name in (b"rTRC", b"gTRC", b"bTRC", b"kTRC") if name in tags]
    return bool(curves) and not any(name.startswith((b"A2B", b"D2B")) for name in tags) and all(map(_is_line, curves))


def displayed(profile: bytes) -> bytes | None:
    """Return a profile of the same primaries with the sRGB curve; None if they aren't given as a matrix."""
    tags = _tags(profile)
    curve = _table_curve(_srgb_to_linear(np.linspace(0, 1, 1024)))
    if b"kTRC" in tags and icc_channels(profile) == 1:
        return _profile_of(np.eye(3), curve, 1, "gray with the sRGB curve")
    columns = [tags.get(name, b"") for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    if any(len(column) < 20 for column in columns):
        return None
    matrix = np.array([struct.unpack(">3i", column[8:20]) for column in columns]).T / 65536
    name = icc_name(profile).encode("ascii", "replace").decode("ascii")[:60]
    return _profile_of(matrix, curve, 3, f"{name}, sRGB curve")


def _tags(profile: bytes) -> dict[bytes, bytes]:
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        entries = [struct.unpack_from(">4sII", profile, 132 + 12 * index) for index in range(min(count, 100))]
    except struct.error:
        return {}
    # Curves and columns are short; in a hostile profile, every tag could be all of it.
    return {signature: profile[offset : offset + min(size, _LONGEST_TAG)] for signature, offset, size in entries}


def _is_line(curve: bytes) -> bool:
    if curve[:4] == b"curv" and len(curve) >= 12:
        (count,) = struct.unpack_from(">I", curve, 8)
        stored = curve[12 : 12 + 2 * count]
        if len(stored) < 2 * count:
            return False  # it ends before its last value
        values = np.frombuffer(stored, ">u2").astype(np.int64)
        if count < 2:
            return not count or bool(abs(values[0] - 256) <= 1)
        return bool(np.abs(values - np.linspace(0, 65535, count)).max() <= 1)
    if curve[:4] == b"para" and len(curve) >= 16:
        kind, gamma = struct.unpack_from(">H2xi", curve, 8)
        return bool(kind == 0 and abs(gamma / 65536 - 1) < 0.001)
    return False


def _srgb_to_linear(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _gamma_curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, min(round(gamma * 256), 65535))


def _table_curve(values: NDArray[np.float64]) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">I", len(values)) + np.rint(values * 65535).astype(">u2").tobytes()


def _profile(chromaticities: Chromaticities, curve: bytes, channels: int, name: str) -> bytes:
    return _profile_of(_matrix(chromaticities), curve, channels, name)


def _profile_of(matrix: NDArray[np.float64], curve: bytes, channels: int, name: str) -> bytes:
    """Build an ICC version 2.4 display profile: a matrix and a curve, or only a curve for gray."""
    text = name.encode("ascii")
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(4 + 4 + 2 + 1 + 67),
        b"cprt": b"text" + bytes(4) + b"No copyright, use freely\0",
        b"wtpt": _xyz(_xyz_of(_D50)),
    }
    if channels == 1:
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip((b"r", b"g", b"b"), matrix.T, strict=True):
            tags[letter + b"XYZ"] = _xyz(column)
            tags[letter + b"TRC"] = curve
    table, body = b"", b""
    places: dict[bytes, int] = {}
    start = 128 + 4 + 12 * len(tags)
    for signature, data in tags.items():
        if data not in places:
            places[data] = start + len(body)
            body += data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", signature, places[data], len(data))
    space = b"GRAY" if channels == 1 else b"RGB "
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(4 + 4 + 4 + 4 + 8 + 4)
    head += b"".join(_fixed(value) for value in _xyz_of(_D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _matrix(chromaticities: Chromaticities) -> NDArray[np.float64]:
    """Return XYZ of red, green and blue as columns, adapted from the white point to D50 with the Bradford transform."""
    white, *primaries = (np.array(_xyz_of(point)) for point in chromaticities)
    columns = np.stack(primaries, axis=1)
    scaled = columns * np.linalg.solve(columns, white)
    ratio = (_BRADFORD @ np.array(_xyz_of(_D50))) / (_BRADFORD @ white)
    adapted: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(ratio) @ _BRADFORD @ scaled
    return adapted


def _xyz_of(point: tuple[float, float]) -> tuple[float, float, float]:
    x, y = point
    return x / y, 1.0, (1 - x - y) / y


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(_fixed(float(value)) for value in values)
