"""Weights files as numpy arrays: every stored type, mapped files, and the same digest whatever the type."""

import mmap
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from kbnet.engine import Engine
from kbnet.errors import CheckpointError, InvalidInputError, OutputExistsError
from kbnet.inference.runners import open_weights
from kbnet.inference.runners.engine import EngineRunner
from kbnet.models import PRESETS, Weights, cost, create_model, read_weights, resolve, save_file, weights, write_weights
from kbnet.models.description import shapes_of
from kbnet.models.weights import widened
from kbnet.nn import build, cost_of
from kbnet.nn.checkpoint import network_of, weights_of
from memory_maps import SMAPS, resident

SMALL = {"width": 8, "encoder_blocks": (1, 1), "decoder_blocks": (1, 1), "middle_blocks": 1, "bases": 4}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("kbnet-nano", **SMALL).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mapped", [False, True])
def test_every_stored_type_is_read_exactly(network, tmp_path, monkeypatch, dtype, mapped):
    monkeypatch.setattr(weights, "MAPPED_BYTES", 0 if mapped else 2**30)
    path = tmp_path / "w.safetensors"
    save_file(network, path, dtype=dtype)
    found = read_weights(path)
    assert found.config == network.config
    assert found.parameters == sum(p.numel() for p in network.parameters())
    for name, tensor in network.state_dict().items():
        expected = tensor.to(dtype)
        kept = found.arrays[name]
        assert kept.dtype == (
            np.uint16 if dtype == torch.bfloat16 else expected.float().numpy().astype(str(dtype)[6:]).dtype
        )
        np.testing.assert_array_equal(widened(kept), expected.to(torch.promote_types(dtype, torch.float32)).numpy())
    loaded = network_of(found)
    assert {p.dtype for p in loaded.parameters()} == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert weights_of(loaded).digest == found.digest
    image = np.random.default_rng(0).random((1, 3, 24, 32), np.float32)
    with torch.no_grad():
        expected = loaded(torch.from_numpy(image).to(loaded.first.weight.dtype)).float().numpy()
    np.testing.assert_allclose(open_weights(found)(image, full_frame()), expected, atol=1e-5)


def full_frame():
    from kbnet.engine import FullFrame

    return FullFrame()


def test_the_digest_is_of_settings_and_values(network):
    arrays = dict(weights_of(network).arrays)
    digest = Weights(network.config, arrays).digest
    assert digest == Weights(network.config, dict(reversed(arrays.items()))).digest
    changed = arrays | {"last.bias": arrays["last.bias"] + 1}
    assert Weights(network.config, changed).digest != digest
    assert Weights(PRESETS["kbnet-nano"], arrays).digest != digest


def test_written_weights_are_read_again(network, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(network, path, dtype=torch.bfloat16)
    half = read_weights(path)
    write_weights(half, tmp_path / "again.safetensors")
    again = read_weights(tmp_path / "again.safetensors")
    assert (again.config, again.digest) == (half.config, half.digest)
    with pytest.raises(OutputExistsError):
        write_weights(half, path)


def test_the_arrays_of_a_mapped_file_are_read_only_and_those_of_a_copy_are_not(network, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MAPPED_BYTES", 0)
    path = tmp_path / "w.safetensors"
    save_file(network, path)
    found = read_weights(path)
    assert found.mapping is not None
    with pytest.raises(ValueError, match="read-only"):
        found.arrays["first.weight"][:] = 0
    again = pickle.loads(pickle.dumps(found))
    assert again.mapping is None
    assert again.digest == found.digest
    again.arrays["first.weight"][:] = 0  # which a release of its pages would do, if they were taken for the file's
    assert read_weights(path).digest == found.digest


@pytest.mark.skipif(not SMAPS.exists(), reason="it reads Linux's /proc/self/smaps")
def test_large_images_leave_no_mapped_weights_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MAPPED_BYTES", 0)
    network = create_model("kbnet-small").eval()
    path = tmp_path / "mapped.safetensors"
    save_file(network, path)
    found = read_weights(path)
    assert resident(path) < path.stat().st_size / 4
    run = EngineRunner(found)
    image = np.random.default_rng(0).random((1, 3, 192, 192), np.float32)
    expected = EngineRunner(pickle.loads(pickle.dumps(found)))(image, full_frame())
    np.testing.assert_array_equal(run(image, full_frame()), expected)
    assert resident(path) < path.stat().st_size / 4
    run(image[..., :8, :8], full_frame())  # a small image keeps them for the next one
    assert resident(path) > path.stat().st_size / 2


def test_only_files_mapped_to_be_read_are_released(network, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MAPPED_BYTES", 0)
    path = tmp_path / "w.safetensors"
    save_file(network, path)
    found = read_weights(path)
    with path.open("rb") as file:
        writable = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    with pytest.raises(InvalidInputError, match=r"^expected a read-only mapping"):
        Engine(asdict(found.config), found.arrays, file=writable)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0])
def test_infinity_and_nan_in_bfloat16_are_refused(network, tmp_path, bits):
    path = tmp_path / "w.safetensors"
    save_file(network, path, dtype=torch.bfloat16)
    data = bytearray(path.read_bytes())
    data[-2:] = bits.to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="not a finite floating-point tensor"):
        read_weights(path)


def test_reading_shipped_weights_imports_no_torch(run_python):
    code = "import sys, kbnet.models as m; m.read_weights(m.resolve('denoise')); m.cost(m.PRESETS['kbnet-nano']); "
    assert run_python(code + "print('torch' in sys.modules)") == "False\n"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(64, 96), (40, 24)])
def test_the_cost_from_settings_is_the_cost_of_the_modules(preset, size):
    config = PRESETS[preset]
    with torch.device("meta"):
        network = build(config)
        counted = cost_of(network, torch.empty(1, config.channels, *size))
    assert cost(config, *size) == counted
    assert shapes_of(config) == {name: tuple(t.shape) for name, t in network.state_dict().items()}


def test_a_weights_file_of_the_package_is_the_catalogues(tmp_path):
    assert read_weights(Path(resolve("denoise"))).config == PRESETS["kbnet-nano"]
