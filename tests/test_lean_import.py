"""Importing kbnet costs little and starts nothing."""

import json
from types import SimpleNamespace

import pytest
import torch

from kbnet.engine import native
from kbnet.inference import devices

# Of extras, of the tests, or needed by one command alone.
UNWANTED = {
    "accelerate",
    "bm3d",
    "cv2",
    "fastapi",
    "importlinter",
    "matplotlib",
    "huggingface_hub",
    "onnx",
    "onnxruntime",
    "openvino",
    "PIL",
    "pydantic",
    "pyarrow",
    "pytest",
    "pywt",
    "ray",
    "rich",
    "scipy",
    "skimage",
    "tensorboard",
    "typer",
    "uvicorn",
}

LIST_MODULES = """
import json, sys
before = set(sys.modules)
{statement}
print(json.dumps(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})))
"""

USES = {
    "import kbnet": "import kbnet",
    "every public name": "import kbnet; [getattr(kbnet, name) for name in kbnet.__all__]",
    "the operator": "import torch, kbnet; t = torch.ones; "
    "kbnet.ops.kernel_basis_attention(t(1, 2, 3, 3), t(1, 2, 3, 3), t(2, 2, 1, 3, 3), t(2, 2))",
}


@pytest.mark.parametrize("use", USES)
def test_optional_packages_are_not_imported(use, run_python):
    imported = set(json.loads(run_python(LIST_MODULES.format(statement=USES[use]))))
    assert "kbnet" in imported  # the list is of what was imported
    assert imported & UNWANTED == set()


def test_no_use_on_the_cpu_imports_the_triton_kernels(run_python):
    # PyTorch itself imports triton, where it is installed, at the first call of a custom operator.
    kernels = "print('kbnet.ops.triton' in sys.modules, 'kbnet.ops.triton_kernels' in sys.modules)"
    assert run_python(f"import sys; {USES['the operator']}; {kernels}") == "True False\n"
    assert run_python(f"import sys; {USES['every public name']}; print('triton' in sys.modules)") == "False\n"


def test_importing_the_package_alone_does_not_import_torch(run_python):
    # Importing torch takes seconds, and `kbnet --help` needs none of it.
    assert "torch" not in json.loads(run_python(LIST_MODULES.format(statement="import kbnet")))


def test_cuda_is_not_initialised(run_python):
    code = "import kbnet, torch; [getattr(kbnet, name) for name in kbnet.__all__]; print(torch.cuda.is_initialized())"
    assert run_python(code) == "False\n"


def test_nothing_is_printed_and_no_thread_or_global_setting_is_left_behind(run_python):
    code = """
import threading, torch
before = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), threading.active_count())
import kbnet
[getattr(kbnet, name) for name in kbnet.__all__]
after = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), threading.active_count())
assert before == after, (before, after)
"""
    assert run_python(code) == ""


def test_restoring_on_a_machine_without_a_gpu_does_not_import_torch(run_python):
    code = """
import sys, numpy as np, kbnet
from kbnet.inference import devices
devices._DRIVERS = ()
kbnet.restore(np.zeros((32, 32, 3), np.uint8))
print("torch" in sys.modules)
"""
    assert run_python(code) == f"{native.refuses_here() is not None}\n"


def test_a_driver_makes_it_ask_pytorch_for_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "sys", SimpleNamespace(modules={}, platform="linux"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_DRIVERS", (str(tmp_path / "nvidiactl"),))
    assert devices.choose_device("auto") == "cpu"
    (tmp_path / "nvidiactl").touch()
    assert devices.choose_device("auto") == "cuda"
    monkeypatch.setattr(devices, "has_torch", lambda: False)
    assert devices.choose_device("auto") == "cpu"
