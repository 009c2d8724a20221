"""Named networks: one table of settings."""

from dataclasses import fields, replace

from torch import nn

from kbnet.errors import InvalidInputError, UnknownModelError
from kbnet.models.kbnet_l import KBNetL, KBNetLConfig
from kbnet.models.kbnet_s import KBNetS, KBNetSConfig

Config = KBNetSConfig | KBNetLConfig
Network = KBNetS | KBNetL

PRESETS: dict[str, Config] = {
    # The authors' networks (arXiv 2303.02881, section 4.1): one set of weights per noise level or data set.
    "kbnet-s-gaussian-color": KBNetSConfig(),
    "kbnet-s-gaussian-gray": KBNetSConfig(channels=1),
    "kbnet-s-real": KBNetSConfig(lightweight=True, ffn_scale=1.5),
    "kbnet-l-derain": KBNetLConfig(),
    "kbnet-l-defocus": KBNetLConfig(),
    # Compact networks for CPUs: most work at low resolution, few bases, two million parameters.
    "kbnet-nano": KBNetSConfig(
        width=16, encoder_blocks=(1, 2, 2, 2), middle_blocks=2, decoder_blocks=(2, 2, 1, 1), bases=8, lightweight=True
    ),
    "kbnet-nano-gray": KBNetSConfig(
        channels=1,
        width=16,
        encoder_blocks=(1, 2, 2, 2),
        middle_blocks=2,
        decoder_blocks=(2, 2, 1, 1),
        bases=8,
        lightweight=True,
    ),
    # Three times as many blocks, mostly at high resolution, where weights are few: 15 MB.
    "kbnet-small": KBNetSConfig(
        width=16, encoder_blocks=(3, 6, 8, 4), middle_blocks=2, decoder_blocks=(4, 8, 6, 3), bases=8, lightweight=True
    ),
}


def preset_config(preset: str, **overrides: object) -> Config:
    """Return the settings of a preset, with overrides.

    Raises:
        UnknownModelError: there is no such preset.
        InvalidInputError: an override isn't a setting of this family of networks, or its value is invalid.
    """
    if preset not in PRESETS:
        raise UnknownModelError(f"expected a preset ({', '.join(PRESETS)}), got {preset!r}")
    config = PRESETS[preset]
    known = {field.name for field in fields(config)}
    if unknown := set(overrides) - known:
        raise InvalidInputError(
            f"{preset} has no setting {', '.join(sorted(unknown))}; expected some of {', '.join(sorted(known))}"
        )
    return replace(config, **overrides)  # type: ignore[arg-type]  # names are checked above; the config checks values


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
