"""The examples in docstrings run."""

import doctest
import importlib
import importlib.util
import pkgutil

import numpy as np
import pytest
import torch

import kbnet

# rooms that need an extra to be imported at all
LEFT_OUT = tuple(
    room
    for room, package in {"kbnet.export": "onnx", "kbnet.server": "fastapi"}.items()
    if importlib.util.find_spec(package) is None
)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(kbnet.__path__, "kbnet.")
    if not module.name.endswith(("__main__", "_native")) and not module.name.startswith(LEFT_OUT)
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"torch": torch, "np": np}, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_some_docstrings_have_examples() -> None:
    finder = doctest.DocTestFinder()
    examples = sum(len(t.examples) for name in MODULES for t in finder.find(importlib.import_module(name)))
    assert examples > 10
