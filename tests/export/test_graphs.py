"""Exported graphs compute what PyTorch does, in both runtimes, at any size, alone and in tiles."""

import numpy as np
import pytest
import torch
from graph_files import SIZES, image, small

from kbnet import nn
from kbnet.engine import contexts
from kbnet.errors import InvalidInputError
from kbnet.inference import Restorer
from kbnet.inference.runners.runtimes import open_exported
from kbnet.inference.tiles import reflect_pad
from kbnet.nn import FullFrame, Gather, Local, Shared

TOLERANCE = 1e-4
RUNTIMES = ["onnx", pytest.param("openvino", marks=pytest.mark.slow)]


def run(exported, x, context):
    return torch.from_numpy(exported(x.numpy(), context))


def padded(x, multiple):
    return torch.from_numpy(reflect_pad(x.numpy(), multiple))


FAMILIES = pytest.mark.parametrize(("family", "window"), [("s", 0), ("l", 0), ("nano", 64)])


@FAMILIES
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_graph_equals_pytorch_at_any_size(graph, runtime, family, window):
    network, exported = small(family), open_exported(graph(family, runtime, window=window))
    context, ours = (where.Local(window) if window else where.FullFrame() for where in (nn, contexts))
    for height, width in SIZES:
        x = image(2, 3, height, width)
        with torch.inference_mode():
            expected = network(padded(x, 8), context)[:, :, :height, :width]
        assert float((expected - x).abs().max()) > 100 * TOLERANCE  # the network does something
        difference = float((run(exported, x, ours) - expected).abs().max())
        assert difference <= TOLERANCE, (height, width)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("family", ["s", "l"])
def test_a_graph_with_a_context_gathers_and_uses_the_same_averages(graph, runtime, family):
    network, exported = small(family), open_exported(graph(family, runtime, pooled=True))
    crops, tile = image(3, 3, 64, 64), image(1, 3, 40, 56, seed=2)
    ours, theirs = contexts.Gather(16), Gather(16)
    with torch.inference_mode():
        restored = network(crops, theirs)
        shared = network(tile, Shared(theirs.means))
        alone = network(tile, FullFrame())
    assert float((run(exported, crops, ours) - restored).abs().max()) <= TOLERANCE
    assert [m.shape for m in ours.means] == [tuple(m.shape) for m in theirs.means]
    for found, expected in zip(ours.means, theirs.means, strict=True):
        assert np.abs(found - expected.numpy()).max() <= TOLERANCE
    assert float((run(exported, tile, contexts.Shared(ours.means)) - shared).abs().max()) <= TOLERANCE
    assert float((run(exported, tile, contexts.FullFrame()) - alone).abs().max()) <= TOLERANCE
    assert float((shared - alone).abs().max()) > 20 * TOLERANCE  # the context is seen at all


@pytest.mark.parametrize("context", ["global", "tile"])
def test_the_restorer_makes_the_same_tiles_of_a_graph_with_a_context(graph, context):
    pixels = image(100, 150, 3).numpy()
    options = {"tile": 64, "overlap": 16, "context": context}
    expected = Restorer(small("s"), device="cpu", **options)(pixels)
    restorer = Restorer.from_pretrained(graph("s", pooled=True), **options)
    np.testing.assert_allclose(restorer(pixels), expected, atol=TOLERANCE)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_restorer_makes_the_same_tiles_of_a_graph_with_a_window(graph, runtime):
    pixels = (image(90, 140, 3) * 255).to(torch.uint8).numpy()
    expected = Restorer.from_pretrained("denoise-gaussian", tile=64)(pixels)
    restorer = Restorer.from_pretrained(graph("nano", runtime, window=64), tile=64)
    assert restorer.context == "local"
    assert restorer.describe()["runtime"] == {"onnx": "onnxruntime", "openvino": "openvino"}[runtime]
    assert np.abs(restorer(pixels).astype(int) - expected).max() <= 1  # a value between two levels may round either way


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_graph_of_one_size_takes_smaller_tiles_too(graph, runtime):
    path = graph("nano", runtime, tile=64, window=64)
    exported = open_exported(path)
    for height, width in ((64, 64), (40, 56)):
        x = image(2, 3, height, width)
        with torch.inference_mode():
            expected = small("nano")(padded(x, 64), Local(64))[:, :, :height, :width]
        assert float((run(exported, x, contexts.Local(64)) - expected).abs().max()) <= TOLERANCE
    restorer = Restorer.from_pretrained(path)
    assert restorer.tile == 64
    pixels = image(70, 130, 3).numpy()
    calls = []
    restored = restorer(pixels, progress=lambda done, total: calls.append(total))
    assert restored.shape == pixels.shape
    assert np.isfinite(restored).all()
    assert calls[0] == len(calls) > 2
    with pytest.raises(InvalidInputError, match="needs tiles of 64 pixels, got tile 128"):
        Restorer.from_pretrained(path, tile=128)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_graph_of_bytes_rounds_as_the_restorer_does(graph, runtime):
    path = graph("s", runtime, uint8=True)
    pixels = (image(37, 53, 3) * 255).to(torch.uint8).numpy()
    expected = Restorer(small("s"), device="cpu", tile=0)(pixels)
    found = open_exported(path).run({"image": pixels})[0]
    assert (found.dtype, found.shape) == (np.uint8, pixels.shape)
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found == expected).mean() > 0.999
    with pytest.raises(InvalidInputError, match="has uint8 input and output"):
        Restorer.from_pretrained(path)


def test_inputs_of_the_context_may_be_left_out(graph):
    import onnxruntime

    x = image(1, 3, 40, 56)
    session = onnxruntime.InferenceSession(str(graph("s", pooled=True)))
    assert [i.name for i in session.get_inputs()] == ["image"]
    found = session.run(["restored"], {"image": x.numpy()})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(found, small("s")(x).numpy(), atol=TOLERANCE)


def test_a_graph_holds_standard_operators_alone(graph):
    import onnx

    for family, options in (("s", {"pooled": True}), ("l", {"pooled": True}), ("nano", {"window": 64})):
        model = onnx.load(str(graph(family, **options)))
        assert {node.domain for node in model.graph.node} == {""}
        assert [opset.version for opset in model.opset_import] == [18]
