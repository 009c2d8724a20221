"""Builds networks from their settings."""

from torch import nn

from kbnet.models.config import Config, KBNetSConfig, preset_config
from kbnet.nn.kbnet_l import KBNetL
from kbnet.nn.kbnet_s import KBNetS

Network = KBNetS | KBNetL


def build(config: Config) -> Network:
    """Build a network with these settings and random weights, in training mode."""
    return KBNetS(config) if isinstance(config, KBNetSConfig) else KBNetL(config)


def create_model(preset: str, **overrides: object) -> Network:
    """Create a network from a preset, with random weights, in training mode.

    Args:
        preset: one of `kbnet.models.PRESETS`.
        overrides: settings to replace, fields of `KBNetSConfig` or `KBNetLConfig`.

    Raises:
        UnknownModelError: there is no such preset.
        InvalidInputError: an override isn't a setting of this family of networks, or its value is invalid.

    Example:
        >>> import kbnet
        >>> kbnet.create_model("kbnet-nano", width=8).config.width
        8
    """
    return build(preset_config(preset, **overrides))


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned values of a module."""
    return sum(p.numel() for p in model.parameters())
