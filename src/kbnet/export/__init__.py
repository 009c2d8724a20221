"""Networks as files for other runtimes: ONNX, OpenVINO, torch.export. `kbnet.inference` runs them."""

from kbnet.export.write import ENDINGS, export_int8, export_model, graph_facts

__all__ = ["ENDINGS", "export_int8", "export_model", "graph_facts"]
