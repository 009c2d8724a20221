"""Graphs that the tests share: writing one takes a second, and so does opening it."""

from importlib.util import find_spec

import pytest
from graph_files import RUNTIMES, small

if not all(find_spec(package) for package in ("onnx", "onnxruntime", "openvino")):
    collect_ignore_glob = ["test_*.py"]  # the export extra is not installed


@pytest.fixture(scope="session")
def graph(tmp_path_factory):
    """Write `graph(family, runtime, window=0, pooled=False, ...)` unless it is there, and return its path."""
    from kbnet.export import export_model, graph_facts

    folder = tmp_path_factory.mktemp("graphs")

    def write(family, runtime="onnx", **options):
        path = folder / ("-".join([family, *map(str, sum(options.items(), ()))]) + RUNTIMES[runtime])
        if not path.exists():
            network = small(family)
            export_model(network, path, graph_facts(network, name=family, **options), format=runtime)
        return path

    return write
