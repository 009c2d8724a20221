#!/usr/bin/env python3
"""GIMP 3 plug-in: restores the selected layer with the `kbnet` command of this computer, as a new layer above it.

Copy the folder `kbnet-restore` into a plug-in folder of GIMP (Preferences > Folders > Plug-ins), make this file
executable, and restart GIMP: the plug-in is at Filters > Enhance > Restore with KBNet. It calls `kbnet` from the search
path; the environment variable KBNET_COMMAND names another path. Needs only Python's standard library and GIMP.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TASKS = {"denoise": "Noise", "derain": "Rain", "deblur": "Blur"}


class RestoreError(Exception):
    """The photo couldn't be restored; the message is one line."""


def find_command() -> str:
    """Return the path of the kbnet command.

    Raises:
        RestoreError: it wasn't found.
    """
    named = os.environ.get("KBNET_COMMAND", "kbnet")
    found = shutil.which(named)
    if found is None:
        raise RestoreError(
            f"can't find the command {named}; install kbnet, or set KBNET_COMMAND to the path of the command"
        )
    return found


def restore(source: Path, result: Path, task: str, strength: float, color_strength: float, detail: float) -> list[str]:
    """Restore one file with the kbnet command, and return its notes.

    Args:
        source: path of the file to read.
        result: path of the file to write; must not exist.
        task: one of `TASKS`.
        strength, color_strength, detail: as in `kbnet restore`, in [0,1].

    Raises:
        RestoreError: the command is missing or failed.
    """
    arguments = [find_command(), "restore", str(source), "-o", str(result), "--task", task, "--json"]
    arguments += ["--strength", f"{strength:g}", "--color-strength", f"{color_strength:g}", "--detail", f"{detail:g}"]
    # GIMP's own Python settings must not reach another Python
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment
        )
    except OSError as error:
        raise RestoreError(f"can't run {arguments[0]}: {error.strerror}") from error
    try:
        report = json.loads(done.stdout)
        failure, notes = report["error"], report["notes"]
    except (ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise RestoreError(f"kbnet failed: {lines[-1].removeprefix('kbnet: error: ')}") from None
    if failure or done.returncode or not result.is_file():
        raise RestoreError(str(failure or f"kbnet ended with code {done.returncode}"))
    return [str(note) for note in notes]


def register() -> None:
    """Run the plug-in's side of GIMP's protocol."""
    import gi

    gi.require_version("Gimp", "3.0")
    gi.require_version("GimpUi", "3.0")
    from gi.repository import Gimp, GimpUi, Gio, GLib, GObject

    def save_layer(layer, path):
        """Write a layer alone, with the image's precision and profile."""
        image = layer.get_image()
        alone = Gimp.Image.new_with_precision(
            layer.get_width(), layer.get_height(), image.get_base_type(), image.get_precision()
        )
        try:
            alone.set_color_profile(image.get_effective_color_profile())
            copy = Gimp.Layer.new_from_drawable(layer, alone)
            alone.insert_layer(copy, None, 0)
            copy.set_offsets(0, 0)
            # Only the pixels: saving would bake in opacity, mode, visibility and mask.
            copy.set_opacity(100)
            copy.set_mode(Gimp.LayerMode.NORMAL)
            copy.set_visible(True)
            if copy.get_mask() is not None:
                copy.remove_mask(Gimp.MaskApplyMode.DISCARD)
            Gimp.file_save(Gimp.RunMode.NONINTERACTIVE, alone, Gio.File.new_for_path(str(path)), None)
        finally:
            alone.delete()

    def add_result(layer, path):
        image = layer.get_image()
        image.undo_group_start()
        try:
            restored = Gimp.file_load_layer(Gimp.RunMode.NONINTERACTIVE, image, Gio.File.new_for_path(str(path)))
            restored.set_name(f"{layer.get_name()} restored")
            image.insert_layer(restored, layer.get_parent(), image.get_item_position(layer))
            _, x, y = layer.get_offsets()
            restored.set_offsets(x, y)
        finally:
            image.undo_group_end()
        Gimp.displays_flush()

    def run(procedure, run_mode, image, drawables, config, data):
        def failed(message):
            error = GLib.Error.new_literal(Gimp.PlugIn.error_quark(), message, 0)
            return procedure.new_return_values(Gimp.PDBStatusType.EXECUTION_ERROR, error)

        if len(drawables) != 1 or not isinstance(drawables[0], Gimp.Layer):
            return failed("select exactly one layer")
        if run_mode == Gimp.RunMode.INTERACTIVE:
            GimpUi.init("kbnet-restore")
            dialog = GimpUi.ProcedureDialog.new(procedure, config, "Restore with KBNet")
            dialog.fill(None)
            accepted = dialog.run()
            dialog.destroy()
            if not accepted:
                return procedure.new_return_values(Gimp.PDBStatusType.CANCEL, None)
        Gimp.progress_init("Restoring with KBNet")
        try:
            with tempfile.TemporaryDirectory(prefix="kbnet-gimp-") as folder:
                source, result = Path(folder, "layer.png"), Path(folder, "restored.png")
                save_layer(drawables[0], source)
                values = (config.get_property(name) for name in ("strength", "color-strength", "detail"))
                notes = restore(source, result, config.get_property("task"), *values)
                add_result(drawables[0], result)
        except RestoreError as error:
            return failed(str(error))
        except (GLib.Error, OSError) as error:
            return failed(f"the layer can't be saved or loaded: {error}")
        for note in notes:
            Gimp.message(note)
        return procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, None)

    class Restore(Gimp.PlugIn):
        def do_query_procedures(self):
            return ["kbnet-restore"]

        def do_set_i18n(self, name):
            return False

        def do_create_procedure(self, name):
            procedure = Gimp.ImageProcedure.new(self, name, Gimp.PDBProcType.PLUGIN, run, None)
            procedure.set_image_types("RGB*, GRAY*")
            procedure.set_sensitivity_mask(Gimp.ProcedureSensitivityMask.DRAWABLE)
            procedure.set_menu_label("Restore with _KBNet...")
            procedure.add_menu_path("<Image>/Filters/Enhance")
            procedure.set_documentation("Remove noise, rain or blur", "Restores the layer on this computer.", name)
            procedure.set_attribution("kbnet", "kbnet", "2026")
            tasks = Gimp.Choice.new()
            for number, (task, label) in enumerate(TASKS.items()):
                tasks.add(task, number, label, "")
            both = GObject.ParamFlags.READWRITE
            procedure.add_choice_argument("task", "_Remove", "What to remove", tasks, "denoise", both)
            for argument, label, help, value in (
                ("strength", "_Strength", "Of the brightness: 0 keeps the original, 1 restores fully", 1.0),
                ("color-strength", "_Color strength", "Of the colours: 0 keeps the original, 1 restores fully", 1.0),
                ("detail", "_Detail", "How much of the fine detail that was removed comes back", 0.0),
            ):
                procedure.add_double_argument(argument, label, help, 0.0, 1.0, value, both)
            return procedure

    Gimp.main(Restore.__gtype__, sys.argv)


if __name__ == "__main__":
    register()
