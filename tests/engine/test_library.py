"""The C interface, called through the Python extension, which also exports it: values, formats, limits, bad input."""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from c_library import FORMATS, Options, Progress, declare, restore, view
from safetensors import safe_open
from safetensors.numpy import save

import kbnet
from kbnet.engine.native import bfloat16_instruction_sets, extension, instruction_sets, refuses_here
from kbnet.models import create_model, save_file
from kbnet.models.usage import Usage
from memory_maps import SMAPS, resident

OK, ARGUMENT, FILE, MEMORY, VALUES, CANCELLED = range(6)
WHITE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
SMALL = {"width": 8, "encoder_blocks": (1, 1), "middle_blocks": 1, "decoder_blocks": (1, 1), "bases": 4}


@pytest.fixture(scope="module")
def library():
    return declare(ctypes.CDLL(extension().__file__))


NETWORKS = {
    "colour": ("kbnet-nano", SMALL),
    "gray": ("kbnet-nano", {**SMALL, "channels": 1}),
    "large": (
        "kbnet-l-derain",
        {"width": 8, "blocks": (1, 1, 1, 1), "refinement_blocks": 1, "heads": (1, 2, 2, 4), "bases": 4},
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def weights(request, tmp_path_factory):
    import torch

    preset, settings = NETWORKS[request.param]
    torch.manual_seed(len(request.param))
    network = create_model(preset, **settings).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("_scale"):
                parameter.uniform_(-0.5, 0.5)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(network, path)
    return path


@pytest.fixture
def model(library, weights):
    model = library.kbnet_open(str(weights).encode())
    assert model, library.kbnet_error()
    yield model
    library.kbnet_free(model)


def picture(height=70, width=90, channels=3, dtype="uint8"):
    y, x = np.mgrid[:height, :width]
    planes = [0.5 + 0.4 * np.sin(0.2 * x + 0.1 * c * y) for c in range(1, channels + 1)]
    values = np.clip(np.stack(planes, -1) + np.random.default_rng(1).normal(0, 0.1, (height, width, channels)), 0, 1)
    return (values * WHITE[dtype]).round(0 if dtype != "float32" else 7).astype(dtype)


def by_restorer(weights, array, *, tile=0, window=0, strength=1.0):
    context = "local" if window else "global"
    restorer = kbnet.Restorer.from_pretrained(weights, device="cpu", tile=tile, context=context)
    restorer.window = window or restorer.window
    colours = array[..., :3] if array.shape[2] >= 3 else array[..., 0]
    result = restorer(np.ascontiguousarray(colours), strength=strength)
    return result.reshape(*array.shape[:2], -1)


def close(result, expected):
    if result.dtype == np.float32:
        np.testing.assert_allclose(result, expected, atol=2e-5)
    else:  # a rounding may fall to the other side
        assert int(np.abs(result.astype(int) - expected.astype(int)).max()) <= 1
        assert np.mean(result != expected) < 0.01


@pytest.mark.parametrize("window", [0, 16])
@pytest.mark.parametrize("tile", [-1, 64])
@pytest.mark.parametrize("dtype", FORMATS)
def test_results_are_those_of_the_restorer(library, weights, model, dtype, tile, window):
    array = picture(150, 203, dtype=dtype)
    status, result = restore(library, model, array, tile=tile, window=window)
    assert status == OK, library.kbnet_error()
    close(result, by_restorer(weights, array, tile=max(tile, 0), window=window))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (130, 2), (17, 33), (9, 64)])
@pytest.mark.parametrize("window", [0, 16])
def test_odd_sizes(library, weights, model, size, window):
    array = picture(*size, dtype="float32")
    status, result = restore(library, model, array, tile=64, window=window)
    assert status == OK, library.kbnet_error()
    close(result, by_restorer(weights, array, tile=64, window=window))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_gray_and_alpha(library, weights, model, channels):
    array = picture(channels=channels)
    status, result = restore(library, model, array)
    assert status == OK
    colours = channels - (channels + 1) % 2
    close(result[..., :colours], by_restorer(weights, array)[..., :colours])
    if channels % 2 == 0:
        np.testing.assert_array_equal(result[..., -1], array[..., -1])


def test_strides_in_place_and_other_formats(library, weights, model):
    array = picture(150, 100)
    expected = restore(library, model, array, tile=64)[1]
    planar = np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0)
    np.testing.assert_array_equal(restore(library, model, planar, tile=64)[1], expected)
    flipped = np.ascontiguousarray(array[::-1])[::-1]  # rows from the bottom to the top
    np.testing.assert_array_equal(restore(library, model, flipped, tile=64)[1], expected)
    wider = np.full((150, 120, 4), 7, np.uint8)
    wider[:, 10:110, :3] = array
    part = wider[:, 10:110, :3]
    np.testing.assert_array_equal(restore(library, model, part, part, tile=64)[1], expected)
    assert (wider[:, :10] == 7).all()
    assert (wider[:, 110:] == 7).all()
    assert (wider[..., 3] == 7).all()
    floats = np.empty(array.shape, np.float32)
    assert restore(library, model, array, floats, tile=64)[0] == OK
    np.testing.assert_array_equal(np.rint(np.clip(floats, 0, 1) * np.float32(255)), expected)


def test_strength(library, weights, model):
    array = picture()
    np.testing.assert_array_equal(restore(library, model, array, strength=0)[1], array)
    close(restore(library, model, array, strength=0.3)[1], by_restorer(weights, array, strength=0.3))


@pytest.mark.parametrize("instruction_set", instruction_sets() if refuses_here() is None else ())
def test_bfloat16_where_it_is_faster(library, weights, instruction_set, monkeypatch):
    monkeypatch.setenv("KBNET_INSTRUCTION_SET", instruction_set)
    model = library.kbnet_open(str(weights).encode())
    assert library.kbnet_instruction_set(model).decode() == instruction_set
    assert library.kbnet_has_bfloat16(model) == (instruction_set in bfloat16_instruction_sets())
    array = picture(dtype="float32")
    exact, rounded = (restore(library, model, array, bfloat16=asked)[1] for asked in (0, 1))
    assert (np.abs(exact - rounded).max() > 0) == library.kbnet_has_bfloat16(model)
    assert np.abs(exact - rounded).max() < 0.02
    library.kbnet_free(model)


def test_an_instruction_set_that_there_is_not(library, weights, monkeypatch):
    monkeypatch.setenv("KBNET_INSTRUCTION_SET", "mmx")
    assert not library.kbnet_open(str(weights).encode())
    assert b"expected KBNET_INSTRUCTION_SET to be one of " in library.kbnet_error()


def test_programs_can_be_older_than_the_library(library, model):
    """Options that their header doesn't have yet keep their defaults, and no byte behind the struct is touched."""
    older = Options.bfloat16.offset
    made = Options(bfloat16=7)
    library.kbnet_options_init_sized(ctypes.addressof(made), older)
    assert (made.size, made.strength, made.bfloat16) == (older, 1.0, 7)
    array = picture()
    result = np.empty_like(array)
    images = ctypes.byref(view(array)), ctypes.byref(view(result))
    assert library.kbnet_restore(model, *images, ctypes.addressof(made)) == OK
    assert np.array_equal(result, restore(library, model, array)[1])


@pytest.mark.parametrize(("context", "window"), [("local", 16), ("global", 0), ("tile", 0)])
def test_the_window_is_that_of_the_weights_file(library, tmp_path, context, window):
    network = create_model("kbnet-nano", **SMALL)
    save_file(network, tmp_path / "own.safetensors", usage=Usage("denoise", context, 16))
    model = library.kbnet_open(str(tmp_path / "own.safetensors").encode())
    assert library.kbnet_window(model) == window
    array = picture(dtype="float32")
    found = restore(library, model, array)[1]
    assert np.array_equal(found, restore(library, model, array, window=window)[1])
    assert not np.array_equal(found, restore(library, model, array, window=16 - window)[1])
    library.kbnet_free(model)


@pytest.mark.parametrize(
    "usage", ["", "{", '{"context": "local"}', '{"context": "nowhere", "window": 9}', '{"window": 9}', "9"]
)
def test_a_damaged_window_is_refused(library, tmp_path, usage):
    path = tmp_path / "own.safetensors"
    save_file(create_model("kbnet-nano", **SMALL), path, usage=Usage("denoise", "local", 16))
    with safe_open(path, framework="np") as file:
        header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    path.write_bytes(save(arrays, metadata=header | {"usage": usage}))
    assert not library.kbnet_open(str(path).encode())
    assert b"the weights are damaged" in library.kbnet_error()


def test_threads_change_nothing(library, model):
    array = picture(150, 203, dtype="float32")
    one = restore(library, model, array, tile=64, threads=1)[1]
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(restore(library, model, array, tile=64, threads=threads)[1], one)


def test_a_memory_limit_makes_tiles(library, model):
    array = picture(400, 300, dtype="float32")
    totals = []
    notice = Progress(lambda user, done, total: totals.append((done, total)) or 0)
    assert restore(library, model, array, memory_limit=4 << 20, progress=notice)[0] == OK
    assert [done for done, _ in totals] == list(range(1, len(totals) + 1))
    assert {total for _, total in totals} == {len(totals)}
    assert len(totals) > 1
    assert restore(library, model, array, memory_limit=1 << 16)[0] == MEMORY
    needed = int(re.search(rb"at least (\d+) bytes", library.kbnet_error())[1])
    assert restore(library, model, array, memory_limit=needed)[0] == OK
    assert restore(library, model, array, memory_limit=needed - 1)[0] == MEMORY


def test_a_callback_cancels(library, model):
    calls = []
    stop = Progress(lambda user, done, total: calls.append(done) or int(done == 2))
    assert restore(library, model, picture(300, 300), tile=64, progress=stop)[0] == CANCELLED
    assert calls == [1, 2]
    assert b"cancelled" in library.kbnet_error()


def test_values_that_are_not_finite_are_refused(library, model):
    array = picture(dtype="float32")
    array[5, 6, 1] = np.nan
    assert restore(library, model, array)[0] == VALUES
    assert b"NaN or infinity" in library.kbnet_error()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strength": 1.5}, b"strength"),
        ({"strength": float("nan")}, b"strength"),
        ({"tile": -2}, b"tile"),
        ({"tile": 3}, b"a tile of at least"),
        ({"window": -2}, b"window"),
        ({"threads": -1}, b"threads"),
        ({"bfloat16": 2}, b"bfloat16"),
        ({"size": 3}, b"kbnet_options_init"),
    ],
)
def test_options_out_of_range(library, model, changes, says):
    array = picture()
    status, result = restore(library, model, array, np.full_like(array, 9), **changes)
    assert (status, (result == 9).all()) == (ARGUMENT, True)
    assert says in library.kbnet_error()


@pytest.mark.parametrize(
    ("field", "value"), [("data", None), ("width", 0), ("height", -1), ("channels", 5), ("channels", 0), ("format", 3)]
)
def test_images_out_of_range(library, model, field, value):
    array = picture()
    good, bad = view(array), view(array)
    setattr(bad, field, value)
    for images in ((bad, good), (good, bad)):
        assert library.kbnet_restore(model, *map(ctypes.byref, images), None) == ARGUMENT
    assert library.kbnet_restore(None, ctypes.byref(good), ctypes.byref(good), None) == ARGUMENT
    assert library.kbnet_restore(model, None, ctypes.byref(good), None) == ARGUMENT


def test_what_a_model_says_of_itself(library, weights, model):
    from kbnet.models import load_file

    assert library.kbnet_channels(model) == load_file(weights).config.channels
    assert library.kbnet_instruction_set(model).decode() in ("amx", "avx512bf16", "avx512", "avx2", "portable")
    assert library.kbnet_version().decode() == kbnet.__version__
    assert library.kbnet_abi_version() == 1
    assert library.kbnet_channels(None) == 0
    library.kbnet_free(None)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_other_dtypes(library, weights, dtype, tmp_path):
    import torch

    from kbnet.models import load_file

    network = load_file(weights)
    path = tmp_path / "other.safetensors"
    save_file(network, path, dtype=getattr(torch, dtype))
    data = path.read_bytes()
    model = library.kbnet_open_memory(data, len(data))
    assert model, library.kbnet_error()
    array = picture(dtype="float32")
    result = restore(library, model, array)[1]
    library.kbnet_free(model)
    stored = tmp_path / "stored.safetensors"
    save_file(load_file(path).float(), stored)
    close(result, by_restorer(stored, array))


@pytest.mark.skipif(not SMAPS.exists(), reason="it reads Linux's /proc/self/smaps")
def test_a_large_file_is_mapped_and_hardly_in_memory(library, tmp_path):
    path = tmp_path / "large.safetensors"
    save_file(create_model("kbnet-s-real", width=32).eval(), path)
    model = library.kbnet_open(str(path).encode())
    assert model, library.kbnet_error()
    assert resident(path) < path.stat().st_size / 4
    array = picture(400, 400, dtype="float32")
    result = restore(library, model, array, tile=-1)[1]
    assert resident(path) < path.stat().st_size / 4
    close(result, by_restorer(path, array))
    library.kbnet_free(model)
    kept = resident(path)
    assert kept == 0 or kept < path.stat().st_size / 4  # of the Restorer


def test_damaged_weights_are_refused(library, weights):
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")

    def refused(changed, says=b""):
        assert not library.kbnet_open_memory(changed, len(changed))
        assert says in library.kbnet_error()

    refused(b"", b"expected a .safetensors file")
    refused(b"\x89PNG" * 10, b"another format")
    refused(data[: 8 + length // 2], b"longer than the file")
    refused(data[:-4], b"outside the file")
    refused((2**40).to_bytes(8, "little") + data[8:], b"longer than the file")
    refused(data[:8] + b"{" + data[8 : 7 + length] + data[8 + length :], b"JSON")
    refused(data.replace(b'"kbnet":"1"', b'"kbnet":"2"'), b"written by kbnet")
    large = b'"kbnet-l"' in data
    refused(data.replace(b"kbnet-l" if large else b"kbnet-s", b"kbnet-m"), b"got kbnet-m")
    refused(
        data.replace(*((b"kbnet-l", b"kbnet-s") if large else (b"kbnet-s", b"kbnet-l"))), b"is missing or out of range"
    )
    for old, new in ((b'\\"width\\": 8', b'\\"width\\": 7'), (b'\\"bases\\": 4', b'\\"bases\\": 5')):
        assert old in data
        refused(data.replace(old, new), b"match their settings" if b"bases" in old else b"width")
    count = b"refinement_blocks" if large else b"middle_blocks"
    refused(data.replace(count + b'\\": 1', count + b'\\": 0'), b"unexpected parameter")
    refused(data[:-4] + b"\x00\x00\xc0\x7f", b"NaN")
    header = data[8 : 8 + length].rstrip()
    twice = header[:-1] + b"," + re.search(rb'"last\.weight":\{.*?\}', header)[0] + b"}"
    refused(len(twice).to_bytes(8, "little") + twice + data[8 + length :], b"is there twice")
    assert not library.kbnet_open(b"/nowhere/weights.safetensors")
    assert b"No such file" in library.kbnet_error()


def test_changed_bytes_of_the_header_never_crash(library, weights):
    data = bytearray(weights.read_bytes())
    length = int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(5)
    for _ in range(400):
        changed = bytearray(data)
        for at in rng.integers(0, 8 + length, int(rng.integers(1, 4))):
            changed[at] = int(rng.choice([0, 34, 44, 48, 57, 91, 92, 93, 123, 125, 255]))
        model = library.kbnet_open_memory(bytes(changed), len(changed))
        library.kbnet_free(model)


def test_several_threads_use_one_model(library, model):
    from concurrent.futures import ThreadPoolExecutor

    arrays = [picture(60 + i, 70, dtype="float32") for i in range(6)]
    alone = [restore(library, model, array, threads=1)[1] for array in arrays]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda array: restore(library, model, array, threads=2)[1], arrays))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


PEAK = """
import ctypes, re, sys
from pathlib import Path
import numpy as np
from kbnet.engine.native import extension

sys.path.insert(0, sys.argv[1])
from c_library import declare, restore

def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

library = declare(ctypes.CDLL(extension().__file__))
model = library.kbnet_open(sys.argv[2].encode())
array = np.random.default_rng(0).integers(0, 256, (1500, 1600, 3), np.uint8)
assert restore(library, model, array[:40, :40], threads=2)[0] == 0
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = memory("VmRSS")
status, _ = restore(library, model, array, array, memory_limit=96 << 20, window=int(sys.argv[3]), threads=2)
print(status, memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer keeps freed memory")
@pytest.mark.parametrize("window", [0, 16])
def test_the_memory_limit_holds(weights, window):
    arguments = (str(Path(__file__).parent), str(weights), str(window))
    child = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=True)
    status, grown = map(int, child.stdout.split())
    assert status == OK
    assert (20 << 20) < grown < 1.1 * (96 << 20)  # with the scratch of two threads
