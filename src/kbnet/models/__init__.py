"""The networks, their presets, and how their weights are loaded and saved."""

from kbnet.models.kbnet_l import KBNetL, KBNetLConfig
from kbnet.models.kbnet_s import KBNetS, KBNetSConfig
from kbnet.models.presets import PRESETS, Network, build, count_parameters, create_model, preset_config

__all__ = [
    "PRESETS",
    "KBNetL",
    "KBNetLConfig",
    "KBNetS",
    "KBNetSConfig",
    "Network",
    "build",
    "count_parameters",
    "create_model",
    "preset_config",
]
