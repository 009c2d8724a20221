"""`kbnet restore`: restores photos."""

import typer

from kbnet.cli._cluster import restore_on_ray
from kbnet.cli._files import restore_files, restore_pipe
from kbnet.cli._options import command_of
from kbnet.cli._restore_options import RestoreOptions


def _restore(ctx: typer.Context, options: RestoreOptions) -> None:
    """Restore photos: remove noise, rain or blur.

    Results keep the format, bit depth, transparency, colour profile and metadata of the original; a note names
    anything that can't be kept. Existing files are never overwritten without --overwrite, and results are never
    partial. If one photo fails, the others are still restored.

    Exit codes: 0 success, 1 at least one photo failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM.
    """
    options.check()
    if options.on_ray:
        restore_on_ray(options)
    elif options.piped:
        restore_pipe(ctx, options)
    else:
        restore_files(ctx, options)


restore = command_of(RestoreOptions, _restore)
