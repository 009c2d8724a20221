"""docs/metadata.md: a table of how each format handles each sample. Run as a script, this writes the page."""

import sys
from pathlib import Path

from metadata_samples import Sample, other_samples, samples

from kbnet.imaging import FORMATS, plan_output, read_photo, write_photo
from kbnet.imaging.blocks import KINDS, NAMES

PAGE = Path(__file__).parents[2] / "docs" / "metadata.md"


def outcome(sample: Sample, format: str) -> str:
    """How a result in a format handles a sample: kept, converted, noted, removed, or lost without a note."""
    photo = read_photo(sample.data)
    _, lost = plan_output(photo, format)
    result = write_photo(photo, None, format=format)
    if any(note.startswith(sample.words) for note in (*photo.notes, *lost)):
        return "noted"
    if sample.kind == "thumbnail":
        return "lost" if sample.payload in result else "removed"
    if _is_kept(sample, format, result):
        return "kept"
    return "converted" if sample.converted(result) else "lost"


def _is_kept(sample: Sample, format: str, result: bytes) -> bool:
    """Whether the very bytes are in the result, in the frame of the format."""
    if sample.kind in KINDS and KINDS[sample.kind].rule(format) == "converted":
        return False
    if sample.payload:
        return sample.payload in result
    return sample.converted(result) or b"".join(_body(sample)) in result


def _body(sample: Sample) -> list[bytes]:
    """For small blocks of a PNG: all between the header and the pixels."""
    return [sample.data[33 : sample.data.index(b"IDAT") - 4]] if sample.format == "png" else [b"\0" * 999]


OTHER_TITLES = {
    "profile": "the colour profile (ICC)",
    "resolution": "the resolution",
    "channel": "a channel that isn't transparency: infrared, a mask",
    "companion": "an HDR gain map, the video of a motion photo, a depth map, after a JPEG image",
    "extra": "a second image, a sound, layers, masks, data after the end of other images",
    "thumbnail": "thumbnails, previews and reduced copies of the image",
}


TEXT = """\
# What happens to metadata

A result keeps the metadata of its input. Each kind of metadata has one rule per output format:

- **kept**: the bytes stay the same. In EXIF and XMP, only the orientation changes, because results are upright.
- **converted**: the output format stores the same content in a different form.
- **noted**: the output format can't store it, or it applies only to the original image. `kbnet restore` prints a
  note; in Python, see the notes of `read_photo(...)` and `plan_output(...)`.
- **removed**: thumbnails and previews show the original image. Other programs create new ones.

kbnet loses no metadata without a note, and adds only one thing: `kbnet restore` marks results with the properties
`kbnet:Task` and `kbnet:Version` in their XMP, so that it skips them when it searches a folder. With `--no-mark`, it
adds nothing.

This table is generated: a test makes a file with each kind of metadata, converts it to every format, and looks for the
metadata in the result with other libraries.

{table}

Details:

- JPEG limits EXIF to 64 kB. A longer XMP packet is split into main and extended XMP; other formats get both in one
  packet.
- PNG text becomes JPEG comments such as `Author: Ada`. TIFF has tags for title, description, author, copyright,
  software and comment; a note names other keywords.
- The description, make, model, artist, copyright, date and software of a TIFF count as EXIF. ImageJ, OME, GDAL and
  private tags keep their bytes.
- The position of maker notes changes when EXIF is converted to or from TIFF. Some programs can't read them afterwards;
  kbnet prints a note.
- Tags and chunks that only describe how the pixels are stored (strips, compression, bit depth) are written again.
- GeoTIFF tags describe the stored rows and columns. If the image had to be rotated, kbnet drops them and prints a note.
- Content credentials sign the bytes of the original image, so they can't be valid for a result.
- Results of GIF and BMP images are PNG files unless you choose another format. Results of HEIC images are HEIC files if
  the extra `heic` is installed, otherwise AVIF files.
- Only TIFF stores float samples. In other formats, results have integers from black to white, and a note says if values
  beyond were clipped.

## Files with more than one image

Some phones append an HDR gain map (Ultra HDR, ISO 21496-1), the video of a motion photo or a depth map to a JPEG. JPEG
results keep them: they still apply to the restored image. If the image had to be rotated, so are the gain map and the
depth map, which are encoded once more. The MPF index and the lengths in the XMP are adapted.

Other formats can't contain these, and no result contains a second image, a sound, the auxiliary images of HEIC
files (depth maps, gain maps, mattes), or Photoshop's layers. If the result is a different file, a note names what is
missing. If the result would replace its own input, kbnet refuses the file, so that nothing is lost:

```text
$ kbnet restore stereo.jpg -o stereo.jpg --overwrite
kbnet: error: stereo.jpg: a second image would be lost with the original; choose another output or add --drop-extras
```

With `--drop-extras`, kbnet replaces the file and prints the note.
"""


def results() -> dict[str, tuple[list[str], list[set[str]]]]:
    """For each kind, where it is found and how each format handles its samples."""
    rows: dict[str, tuple[list[str], list[set[str]]]] = {}
    for sample in samples() + other_samples():
        places, columns = rows.setdefault(sample.kind, ([], [set() for _ in FORMATS]))
        if sample.where:
            places.append(f"{_name(sample.format)} {sample.where}")
        for column, format in zip(columns, FORMATS, strict=True):
            column.add(outcome(sample, format))
    return rows


def table() -> str:
    """The table of the page, from the outcomes of all samples."""
    lines = [
        f"| metadata | found in | {' | '.join(NAMES[format] for format in FORMATS)} |",
        "|---" * (len(FORMATS) + 2) + "|",
    ]
    for kind, (places, columns) in results().items():
        cells = [" or ".join(sorted(column)) for column in columns]
        title = KINDS[kind].title if kind in KINDS else OTHER_TITLES[kind]
        lines.append(f"| {title} | {_joined(places) or 'every format'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _name(format: str) -> str:
    return {**NAMES, "gif": "GIF", "bmp": "BMP"}[format]


def _joined(places: list[str]) -> str:
    """PNG tEXt, PNG iTXt -> PNG tEXt, iTXt."""
    shown, last = [], ""
    for place in places:
        name, rest = place.split(" ", 1)
        shown.append(rest if name == last else place)
        last = name
    return "; ".join(shown)


def page() -> str:
    """The documentation page."""
    return TEXT.format(table=table())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(table() + "\n")
