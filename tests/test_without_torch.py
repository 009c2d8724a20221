"""kbnet restores where PyTorch can't be imported, and names the extra for whatever needs it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kbnet
from kbnet.engine import native
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.models import create_model, save_file, save_official

NEEDED = "this needs the package 'torch', which is not installed; run: pip install 'kbnet[torch]'"

BLOCK = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {blocked!r} or name in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
COMMAND = "from kbnet.cli import main\ncode = main(sys.argv[1:])\nassert 'torch' not in sys.modules\nsys.exit(code)"

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)

compiled = pytest.mark.skipif(native.refuses_here() is not None, reason="no compiled kernels")


@pytest.fixture
def without(tmp_path, monkeypatch):
    """`without(code, *arguments)` runs Python in an empty folder, where PyTorch can't be imported."""
    monkeypatch.chdir(tmp_path)
    write_photo(Photo(PIXELS), "noisy.png")

    def run(code, *arguments, blocked=("torch",)):
        package = str(Path(kbnet.__file__).parents[1])
        return subprocess.run(
            [sys.executable, "-c", BLOCK.format(blocked=blocked) + code, *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": package},
        )

    return run


@compiled
def test_a_file_is_restored_as_with_pytorch(without):
    done = without(COMMAND, "restore", "noisy.png", "-o", "clean.png", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    np.testing.assert_array_equal(read_photo("clean.png").pixels, kbnet.restore(PIXELS))


@compiled
def test_a_large_network_is_restored_as_with_pytorch(without, tmp_path):
    small = create_model("kbnet-l-derain", width=12, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 4))
    save_file(small, tmp_path / "large.safetensors")
    done = without(COMMAND, "restore", "noisy.png", "-o", "clean.png", "--quiet", "--model", "large.safetensors")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    restorer = kbnet.Restorer.from_pretrained(tmp_path / "large.safetensors")
    np.testing.assert_array_equal(read_photo("clean.png").pixels, restorer(PIXELS))


USES = {
    "the public names": "import kbnet; kbnet.Restorer, kbnet.restore, kbnet.list_models(), kbnet.errors.KBNetError",
    "an array and a Pillow image": """
import numpy as np, kbnet
from PIL import Image
restorer = kbnet.Restorer.from_pretrained("denoise", tile=64, context="global", ensemble=True)
assert restorer.describe()["runtime"] == "engine"
pixels = np.asarray(Image.open("noisy.png"))
assert restorer(pixels).dtype == np.uint8
assert restorer(Image.fromarray(pixels)).size == (56, 40)
assert kbnet.Restorer.from_pretrained("denoise", dtype="bfloat16")(pixels).shape == pixels.shape
assert restorer(pixels / 255.0, strength=0.5).dtype == np.float64
""",
    "rows of a file": """
from pathlib import Path
import kbnet
from kbnet.inference.streaming import restore_streamed
restore_streamed(kbnet.Restorer.from_pretrained("denoise"), Path("noisy.png"), Path("rows.tif"))
""",
    "the hub, the metrics, a plan of many images": "import kbnet.models.hub, kbnet.metrics, kbnet.distributed",
    "the server": "import pytest; pytest.importorskip('fastapi'); import kbnet.server",
}


@compiled
@pytest.mark.parametrize("use", USES)
def test_the_python_api_needs_no_pytorch(without, use):
    done = without(USES[use] + "\nassert 'torch' not in sys.modules")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [["models"], ["info"], ["info", "denoise"], ["info", "kbnet-l-derain"], ["--help"]])
def test_commands_about_models_need_no_pytorch(without, command):
    done = without(COMMAND, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


COMMANDS = {
    "a GPU": ["restore", "noisy.png", "-o", "out.png", "--device", "cuda"],
    "the authors' file": ["restore", "noisy.png", "-o", "out.png", "--model", "theirs.pth"],
    "convert": ["convert", "denoise", "out.pth"],
    "download": ["download", "kbnet-s-real", "-o", "out.safetensors"],
    "export": ["export", "denoise", "-o", "out.onnx"],
    "evaluate": ["evaluate", "--benchmark", "gaussian-color", "--data", "."],
    "train": ["train", "recipe.toml", "--data", ".", "--run", "run"],
    "inspect model": ["inspect", "model", "denoise", "noisy.png", "-o", "out.png"],
    "inspect degradations": ["inspect", "degradations", "noisy.png", "-o", "out.png"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_needs_pytorch_says_so_in_one_line(without, tmp_path, name):
    (tmp_path / "recipe.toml").write_text("", encoding="utf-8")
    small = create_model("kbnet-l-derain", width=12, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 4))
    save_official(small, tmp_path / "theirs.pth", "params")
    before = set(tmp_path.iterdir())
    done = without(COMMAND, *COMMANDS[name])
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"kbnet: error: {NEEDED}"]
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "use",
    [
        "kbnet.load_model('denoise')",
        "kbnet.create_model('kbnet-nano')",
        "kbnet.ops.available_backends()",
        "kbnet.Restorer.from_pretrained('denoise').network",
        "__import__('kbnet.models').models.load_model",
        *(f"__import__('kbnet.{name}')" for name in ("nn", "data", "degradations", "training", "evaluation", "export")),
    ],
)
def test_python_raises_the_error_that_names_the_extra(without, use):
    code = f"""
import kbnet
try:
    {use}
except kbnet.errors.MissingExtraError as error:
    assert isinstance(error, ImportError)
    print(error)
"""
    done = without(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, NEEDED + "\n", "")


@pytest.mark.parametrize("context", ["local", "global", "tile"])
def test_without_compiled_kernels_numpy_restores(without, context, tmp_path):
    """The last resort: slow, and it says so."""
    settings = {"width": 8, "encoder_blocks": (1, 1), "decoder_blocks": (1, 1), "middle_blocks": 1, "bases": 4}
    save_file(create_model("kbnet-nano", **settings), tmp_path / "small.safetensors")
    options = {"tile": 64, "overlap": 16, "context": context}
    image = np.random.default_rng(1).random((48, 100, 3), np.float32)
    np.save("image.npy", image)
    code = f"""
import numpy as np, kbnet
restorer = kbnet.Restorer.from_pretrained("small.safetensors", **{options!r})
assert restorer.describe()["runtime"] == "numpy"
np.save("restored.npy", restorer(np.load("image.npy")))
"""
    done = without(code, blocked=("torch", "kbnet.engine._native"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "running in numpy" in done.stderr
    assert "compiled kernels" in done.stderr
    expected = kbnet.Restorer.from_pretrained("small.safetensors", **options)(image)
    np.testing.assert_allclose(np.load("restored.npy"), expected, atol=1e-5)
