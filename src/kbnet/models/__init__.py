"""Networks, presets, and loading and saving of weights."""

from kbnet.models.catalogue import TASKS, CatalogueEntry, catalogue, find, list_models, load_model, resolve
from kbnet.models.checkpoint import load_file, matching_presets, save_file, save_official
from kbnet.models.cost import Cost, cost, cost_of
from kbnet.models.hub import push_to_hub
from kbnet.models.kbnet_l import KBNetL, KBNetLConfig
from kbnet.models.kbnet_s import KBNetS, KBNetSConfig
from kbnet.models.presets import PRESETS, Config, Network, build, count_parameters, create_model, preset_config

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
    "resolve",
    "save_file",
    "save_official",
]
