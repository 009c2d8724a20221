"""The engine computes what the modules compute: sizes, contexts, threads, instruction sets."""

import threading

import numpy as np
import pytest
import torch

from kbnet import nn
from kbnet.engine import Engine, FullFrame, Gather, Local, Shared
from kbnet.errors import InvalidInputError
from kbnet.ops import native

pytestmark = pytest.mark.skipif(native.refuses_here() is not None, reason="no compiled kernels")

SIZES = [(1, 1), (1, 37), (40, 1), (8, 8), (33, 70), (61, 129)]
TOLERANCE = 2e-5
CONTEXTS = {"full": (FullFrame(), nn.FullFrame()), "local": (Local(16), nn.Local(16))}


def image(channels, height, width, batch=1, seed=0):
    return np.random.default_rng(seed).normal(0.5, 0.4, (batch, channels, height, width)).astype(np.float32)


def exact(network, x, context):
    """The modules in float64, layer by layer, on the padded input; KBNet-L's take no other."""
    double = type(network)(network.config).double().eval()
    double.load_state_dict(network.state_dict())
    height, width = x.shape[2:]
    multiple = network.input_multiple
    padded = np.pad(x, ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple)))
    with torch.no_grad():
        return double(torch.from_numpy(padded).double(), context).numpy()[:, :, :height, :width]


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("size", SIZES)
def test_it_computes_what_the_modules_compute(network, settings, arrays, size, name):
    ours, theirs = CONTEXTS[name]
    x = image(network.config.channels, *size)
    before = x.copy()
    result = Engine(settings, arrays, threads=2)(x, ours)
    assert np.abs(result - exact(network, x, theirs)).max() < TOLERANCE
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("instruction_set", native.instruction_sets() if native.refuses_here() is None else ())
def test_every_instruction_set_agrees(network, settings, arrays, instruction_set):
    x = image(network.config.channels, 45, 77)
    engine = Engine(settings, arrays, instruction_set=instruction_set)
    assert engine.instruction_set == instruction_set
    assert np.abs(engine(x) - exact(network, x, nn.FullFrame())).max() < TOLERANCE


def test_averages_are_gathered_from_crops_and_shared_with_tiles(network, settings, arrays):
    engine = Engine(settings, arrays, threads=2)
    crops, tile = image(network.config.channels, 48, 48, batch=3), image(network.config.channels, 32, 40, seed=1)
    gather, theirs = Gather(8), nn.Gather(8)
    engine(crops, gather)
    exact(network, crops, theirs)
    assert len(gather.means) == len(theirs.means)
    for mean, other in zip(gather.means, theirs.means, strict=True):
        np.testing.assert_allclose(mean, other.numpy().ravel(), atol=TOLERANCE)
    result = engine(tile, Shared(gather.means))
    assert np.abs(result - exact(network, tile, nn.Shared(theirs.means))).max() < TOLERANCE


def test_the_result_does_not_depend_on_threads_or_on_others(network, settings, arrays):
    x = image(network.config.channels, 130, 90)
    expected = Engine(settings, arrays, threads=1)(x)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(Engine(settings, arrays, threads=threads)(x), expected)
    engine, results = Engine(settings, arrays, threads=2), []
    workers = [threading.Thread(target=lambda: results.append(engine(x))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert all(np.array_equal(result, expected) for result in results)


def test_images_of_a_batch_do_not_mix(network, settings, arrays):
    engine = Engine(settings, arrays, threads=2)
    batch = image(network.config.channels, 24, 40, batch=3)
    together = engine(batch)
    for index in range(3):
        np.testing.assert_allclose(together[index : index + 1], engine(batch[index : index + 1]), atol=1e-6)


def test_any_memory_layout_goes(network, settings, arrays):
    engine = Engine(settings, arrays)
    x = image(network.config.channels, 20, 24)
    expected = engine(x)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(engine(channels_last), expected)
    wide = np.zeros((1, network.config.channels, 30, 50), np.float32)
    wide[:, :, 3:23, 7:31] = x
    np.testing.assert_array_equal(engine(wide[:, :, 3:23, 7:31]), expected)
    np.testing.assert_allclose(engine(x.astype(np.float64)), expected, atol=0)


def test_weights_of_bfloat16_are_read_as_raw_bits(network, settings, arrays):
    bits = {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in arrays.items()}
    widened = {name: (value.astype(np.uint32) << 16).view(np.float32) for name, value in bits.items()}
    x = image(network.config.channels, 20, 24)
    np.testing.assert_array_equal(Engine(settings, bits)(x), Engine(settings, widened)(x))


def test_memory_is_known_before_a_run(network, settings, arrays):
    engine = Engine(settings, arrays)
    multiple = engine.input_multiple
    images = 4 if network.family == "kbnet-l" else 2
    floats = images * network.config.width + network.config.channels
    for height, width, gaps in ((1024, 1024, 0.04), (608, 800, 0.04), (320, 512, 0.04), (128, 128, 0.25)):
        assert 1 <= engine.bytes(height, width) / (4 * floats * height * width) < 1 + gaps
    assert engine.bytes(1, 1) == engine.bytes(multiple, multiple)
    # A local context has averages for each cell: of 2 x 2 pixels in the first level with a window of 16.
    cells = 4 * 2 * network.config.width * 64 * 64
    assert engine.bytes(128, 128) + cells < engine.bytes(128, 128, window=16) < engine.bytes(128, 128) + 20 * cells
    assert engine.bytes(128, 128, window=128) < engine.bytes(128, 128) + cells


def test_what_does_not_fit_is_refused(network, settings, arrays):
    engine = Engine(settings, arrays)
    channels = network.config.channels
    for shape in ((1, channels + 1, 8, 8), (channels, 8, 8), (1, channels, 0, 8), (0, channels, 8, 8)):
        with pytest.raises(InvalidInputError, match=rf"\[B,{channels},H,W\]"):
            engine(np.zeros(shape, np.float32))
    with pytest.raises(InvalidInputError, match="belong to another network"):
        engine(image(channels, 8, 8), Shared([np.zeros(3, np.float32)]))
    name = "first.weight"
    with pytest.raises(InvalidInputError, match=r"the weights lack first\.weight"):
        Engine(settings, {key: value for key, value in arrays.items() if key != name})
    with pytest.raises(InvalidInputError, match=r"first.weight has 5 values, expected"):
        Engine(settings, arrays | {name: np.zeros(5, np.float32)})
    with pytest.raises(InvalidInputError, match="doesn't support the instruction set 'z80'"):
        Engine(settings, arrays, instruction_set="z80")
