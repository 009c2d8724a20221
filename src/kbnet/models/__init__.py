"""Networks as plain data: settings, presets, the catalogue of shipped weights, and their files. Needs no PyTorch.

Modules are in `kbnet.nn`. Their names are available here too, and import PyTorch on first use (PEP 562).
"""

from typing import TYPE_CHECKING, Any

from kbnet.models.catalogue import TASKS, CatalogueEntry, catalogue, find, list_models, resolve
from kbnet.models.config import PRESETS, Config, KBNetLConfig, KBNetSConfig, matching_presets, preset_config
from kbnet.models.cost import Cost, cost
from kbnet.models.hub import push_to_hub
from kbnet.models.usage import Usage
from kbnet.models.weights import Weights, read_weights, write_weights

if TYPE_CHECKING:
    from kbnet.nn import (
        KBNetL,
        KBNetS,
        Network,
        build,
        cost_of,
        count_parameters,
        create_model,
        load_file,
        load_model,
        save_file,
        save_official,
    )

__all__ = [
    "PRESETS",
    "TASKS",
    "CatalogueEntry",
    "Config",
    "Cost",
    "KBNetL",
    "KBNetLConfig",
    "KBNetS",
    "KBNetSConfig",
    "Network",
    "Usage",
    "Weights",
    "build",
    "catalogue",
    "cost",
    "cost_of",
    "count_parameters",
    "create_model",
    "find",
    "list_models",
    "load_file",
    "load_model",
    "matching_presets",
    "preset_config",
    "push_to_hub",
    "read_weights",
    "resolve",
    "save_file",
    "save_official",
    "write_weights",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from kbnet import nn

        return getattr(nn, name)
    raise AttributeError(f"module 'kbnet.models' has no attribute {name!r}")
