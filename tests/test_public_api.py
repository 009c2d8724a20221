"""The public surface: these names and no others, each with its place and its signature."""

import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

import kbnet

PUBLIC = {
    "kbnet": {
        "KBNetError",
        "Restorer",
        "__version__",
        "create_model",
        "errors",
        "list_models",
        "load_model",
        "ops",
        "restore",
    },
    "kbnet.ops": {"available_backends", "kernel_basis_attention", "multiply_adds", "register_flop_formulas"},
    "kbnet.errors": {
        "KBNetError",
        "InvalidInputError",
        "NonFiniteInputError",
        "ImageError",
        "UnreadableImageError",
        "UnsupportedImageError",
        "ImageTooLargeError",
        "NotEnoughMemoryError",
        "OutputError",
        "OutputExistsError",
        "ModelError",
        "UnknownModelError",
        "CheckpointError",
        "DownloadError",
        "BackendError",
        "RecipeError",
        "ExportError",
        "TrainingError",
        "MissingExtraError",
    },
}


def public_names(module):
    if hasattr(module, "__all__"):
        return set(module.__all__)
    return {name for name in vars(module) if not name.startswith("_")}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_module_offers_its_public_names_and_no_others(name):
    module = importlib.import_module(name)
    assert public_names(module) == PUBLIC[name]
    for public in PUBLIC[name]:
        assert getattr(module, public) is not None


def test_dir_lists_the_public_names():
    assert PUBLIC["kbnet"] <= set(dir(kbnet))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'kbnet' has no attribute 'denoise'"):
        kbnet.denoise  # noqa: B018  # the access is the test


def test_a_star_import_brings_exactly_the_public_names():
    namespace = {}
    exec("from kbnet import *", namespace)
    assert namespace.keys() - {"__builtins__"} == PUBLIC["kbnet"]


def test_the_version_stands_in_the_package_and_the_build_reads_it_there():
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"]
    assert "version" not in settings["project"]
    source = Path(__file__).parents[1] / settings["tool"]["scikit-build"]["metadata"]["version"]["input"]
    assert f'__version__ = "{kbnet.__version__}"' in source.read_text(encoding="utf-8")
    assert kbnet.__version__.count(".") == 2


def test_every_error_is_caught_by_its_base_and_drawn_in_the_tree():
    for name in PUBLIC["kbnet.errors"]:
        error = getattr(kbnet.errors, name)
        assert issubclass(error, kbnet.KBNetError)
        assert name in kbnet.errors.__doc__


def test_a_missing_extra_says_what_to_install():
    message = str(kbnet.errors.MissingExtraError("accelerate", "train"))
    assert "'accelerate'" in message
    assert "pip install 'kbnet[train]'" in message


def parameters(function):
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def test_the_operators_signature_is_the_documented_one():
    signature = inspect.signature(kbnet.ops.kernel_basis_attention)
    assert list(signature.parameters) == ["x", "coefficients", "weight", "bias", "backend"]
    assert signature.parameters["backend"].default == "auto"
    assert signature.parameters["backend"].kind is inspect.Parameter.KEYWORD_ONLY


def test_restoring_defaults_to_denoising_and_everything_else_to_auto():
    assert parameters(kbnet.restore)["task"] == "denoise"
    options = parameters(kbnet.Restorer.from_pretrained)
    assert {name: options[name] for name in ("device", "dtype", "tile")} == dict.fromkeys(
        ("device", "dtype", "tile"), "auto"
    )
