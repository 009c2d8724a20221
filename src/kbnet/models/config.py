"""Networks as plain data: their settings, checked, and the table of named ones.

`kbnet.nn` builds modules from these settings, `kbnet.engine` runs them, and `kbnet.models.description` lists their
layers.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from kbnet.errors import InvalidInputError, UnknownModelError
from kbnet.models import bounds

LEVELS = 4
"""Levels of every KBNet-L."""


@dataclass(frozen=True)
class KBNetSConfig:
    """Settings of a KBNet-S. The defaults are the published colour denoiser for Gaussian noise.

    Attributes:
        channels: image channels, 3 or 1.
        width: channels of the first level; each further level doubles them.
        encoder_blocks, decoder_blocks: number of blocks of each level; both list the same number of levels.
        middle_blocks: number of blocks at the lowest resolution.
        ffn_scale: ratio of the hidden width of a block's feed-forward half to its channels.
        lightweight: use the cheaper static branch (SIDD, SenseNoise and the compact presets).
        bases, group_channels, kernel_size: N, G and k of kernel basis attention.
        coefficient_limit: upper bound on the hidden width of the coefficient head.

    Raises:
        InvalidInputError: a setting is out of range, or settings contradict each other.
    """

    channels: int = 3
    width: int = 64
    encoder_blocks: tuple[int, ...] = (2, 2, 4, 8)
    middle_blocks: int = 12
    decoder_blocks: tuple[int, ...] = (2, 2, 2, 2)
    ffn_scale: float = 2.0
    lightweight: bool = False
    bases: int = 32
    group_channels: int = 4
    kernel_size: int = 3
    coefficient_limit: int = 32

    family: ClassVar[str] = "kbnet-s"

    def __post_init__(self) -> None:
        bounds.whole("channels", self.channels, 1, 64)
        bounds.whole("width", self.width, 2, 1024)
        bounds.kernel_basis_attention(self.bases, self.group_channels, self.kernel_size, self.coefficient_limit)
        bounds.positive("ffn_scale", self.ffn_scale, 16)
        levels = (1, bounds.MAX_LEVELS)
        for name in ("encoder_blocks", "decoder_blocks"):
            # Files hold lists; as a tuple the setting compares equal to a preset's.
            object.__setattr__(self, name, bounds.wholes(name, getattr(self, name), 0, bounds.MAX_BLOCKS, levels))
        bounds.whole("middle_blocks", self.middle_blocks, 0, bounds.MAX_BLOCKS)
        if len(self.encoder_blocks) != len(self.decoder_blocks):
            raise InvalidInputError(
                "expected the same number of encoder and decoder levels, "
                f"got {len(self.encoder_blocks)} and {len(self.decoder_blocks)}"
            )
        bounds.divisible("width", self.width, self.group_channels, "group_channels")
        bounds.divisible("width", self.width, 2 if self.lightweight else 4, "the groups of a block's convolutions")
        for level in range(len(self.encoder_blocks) + 1):
            hidden = int(self.ffn_scale * self.width * 2**level)
            bounds.divisible("ffn_scale * width * 2^level", hidden, 2, "the gate halves it")

    @property
    def input_multiple(self) -> int:
        """The network pads sides to a multiple of this: 2 to the power of the number of levels."""
        return int(2 ** len(self.encoder_blocks))


@dataclass(frozen=True)
class KBNetLConfig:
    """Settings of a KBNet-L. The defaults are the published network for deraining and defocus deblurring.

    Attributes:
        channels: image channels, 3 or 1.
        width: channels of the first level; each further level doubles them.
        blocks: number of blocks of each of the four levels, the lowest resolution last. The decoder mirrors the first
            three.
        refinement_blocks: number of blocks at full resolution after the decoder.
        heads: number of attention heads of each level.
        expansion: ratio of the fusion's hidden width to its channels.
        bias: whether convolutions outside the channel branch and the coefficient head have biases.
        bases, group_channels, kernel_size: N, G and k of kernel basis attention.
        coefficient_limit: upper bound on the hidden width of the coefficient head.

    Raises:
        InvalidInputError: a setting is out of range, or settings contradict each other.
    """

    channels: int = 3
    width: int = 48
    blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    refinement_blocks: int = 4
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    expansion: float = 1.5
    bias: bool = False
    bases: int = 32
    group_channels: int = 2
    kernel_size: int = 3
    coefficient_limit: int = 24

    family: ClassVar[str] = "kbnet-l"
    input_multiple: ClassVar[int] = 2 ** (LEVELS - 1)

    def __post_init__(self) -> None:
        bounds.whole("channels", self.channels, 1, 64)
        bounds.whole("width", self.width, 2, 1024)
        bounds.kernel_basis_attention(self.bases, self.group_channels, self.kernel_size, self.coefficient_limit)
        bounds.positive("expansion", self.expansion, 16)
        for name, low, high in (("blocks", 0, bounds.MAX_BLOCKS), ("heads", 1, 1024)):
            # Files hold lists; as a tuple the setting compares equal to a preset's.
            values = bounds.wholes(name, getattr(self, name), low, high, (LEVELS, LEVELS))
            object.__setattr__(self, name, values)
        bounds.whole("refinement_blocks", self.refinement_blocks, 0, bounds.MAX_BLOCKS)
        bounds.divisible("width", self.width, 2, "the coefficient head and the resampling halve it")
        for level, heads in enumerate(self.heads):
            width = self.width * 2**level
            bounds.divisible("width * 2^level", width, heads, "the attention heads of that level")
            bounds.divisible(
                "expansion * width * 2^level", int(width * self.expansion), self.group_channels, "group_channels"
            )


Config = KBNetSConfig | KBNetLConfig

CONFIGS: dict[str, type[KBNetSConfig] | type[KBNetLConfig]] = {"kbnet-s": KBNetSConfig, "kbnet-l": KBNetLConfig}
"""The settings of each family."""

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
    # For the four colours of a camera's sensor, and their noise, each half as large as the photo.
    "kbnet-nano-raw": KBNetSConfig(
        channels=5,
        width=32,
        encoder_blocks=(3, 2, 2),
        middle_blocks=2,
        decoder_blocks=(2, 2, 3),
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


def config_from(family: str, settings: Any) -> Config:
    """Build a configuration from the settings in a file.

    Args:
        family: "kbnet-s" or "kbnet-l".
        settings: what the file holds; names and types are checked.

    Raises:
        TypeError: `settings` isn't a dict, or a setting is unknown or has the wrong type.
        InvalidInputError: a setting is out of range, or the family is unknown.
    """
    if family not in CONFIGS:
        raise InvalidInputError(f"expected the family {' or '.join(CONFIGS)}, got {family!r:.40}")
    kind = CONFIGS[family]
    if not isinstance(settings, dict):
        raise TypeError("expected the settings as a table")
    defaults = {field.name: field.default for field in fields(kind)}
    for name, value in settings.items():
        want = type(defaults[name]) if name in defaults else None
        if isinstance(value, list) and want is tuple and all(type(v) is int for v in value):
            continue
        if want is None or not (type(value) is want or (want is float and type(value) is int)):
            raise TypeError(f"the setting {name!r:.80} is unknown or has the wrong type")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
    return kind(**values)


def matching_presets(config: Config) -> list[str]:
    """Return the names of the presets with exactly these settings."""
    return [name for name, preset in PRESETS.items() if preset == config]
