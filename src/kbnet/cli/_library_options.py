"""The options of `kbnet restore` for folders of photos: which are restored, and what accompanies results."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

LIBRARY = "Folders"


@dataclass(frozen=True, kw_only=True)
class LibraryOptions:
    """The base class of `RestoreOptions`."""

    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Skip files and folders with such a name or path, such as '*.tif' or 'raw/*'; repeatable.",
            rich_help_panel=LIBRARY,
            show_default=False,
        ),
    ] = None
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Skip photos whose result exists.", rich_help_panel=LIBRARY),
    ] = False
    number: Annotated[
        bool,
        typer.Option(
            "--number", help="Add numbers to names that are taken, as in photo-2.jpg.", rich_help_panel=LIBRARY
        ),
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be restored, and write nothing.", rich_help_panel=LIBRARY),
    ] = False
    same_quality: Annotated[
        bool,
        typer.Option(
            "--same-quality",
            help="Encode JPEGs with the quality and chroma subsampling of their original.",
            rich_help_panel=LIBRARY,
        ),
    ] = False
    keep_time: Annotated[
        bool,
        typer.Option(
            "--keep-times/--no-keep-times",
            "--keep-time/--no-keep-time",
            help="Give each result the modification time of its input.",
            rich_help_panel=LIBRARY,
        ),
    ] = True
    sidecars: Annotated[
        bool,
        typer.Option(
            "--sidecars", help="Copy .xmp and .aae files next to a photo along with it.", rich_help_panel=LIBRARY
        ),
    ] = False
    mark: Annotated[
        bool,
        typer.Option(
            "--mark/--no-mark",
            help="Mark results in their XMP, so that kbnet never restores them again when it searches a folder.",
            rich_help_panel=LIBRARY,
        ),
    ] = True

    def numbering(self, *, resumable: bool) -> Literal["no", "clashes", "all"]:
        """Which names get numbers; in a run that can be repeated, existing results don't."""
        if not self.number:
            return "no"
        return "clashes" if resumable or self.skip_existing else "all"
