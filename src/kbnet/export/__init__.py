"""Exports networks for other runtimes: ONNX, OpenVINO and torch.export. `kbnet.inference` runs the files."""

from kbnet import needs_torch  # noqa: F401
from kbnet.export.write import ENDINGS, export_int8, export_model, graph_facts

__all__ = ["ENDINGS", "export_int8", "export_model", "graph_facts"]
