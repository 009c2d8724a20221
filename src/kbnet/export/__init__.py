"""Exports networks for other runtimes: ONNX, OpenVINO and torch.export, which `kbnet.inference` runs, and darktable."""

from kbnet import needs_torch  # noqa: F401
from kbnet.export.darktable import export_darktable
from kbnet.export.write import ENDINGS, export_int8, export_model, graph_facts

__all__ = ["ENDINGS", "export_darktable", "export_int8", "export_model", "graph_facts"]
