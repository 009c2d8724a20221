"""KBNet-S: the U-Net with additive skips used for denoising (arXiv 2303.02881, section 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbnet.description import coefficient_width
from kbnet.errors import InvalidInputError
from kbnet.models import bounds
from kbnet.nn import FullFrame, KBBlockS


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


class KBNetS(nn.Module):
    """KBNet-S (arXiv 2303.02881, section 3.3), [B,channels,H,W] -> the same shape, for any H and W.

    Values are nominally in [0,1] and are not clipped. The network pads its input with zeros at the bottom and the right
    to a multiple of `input_multiple` and crops its output. As in the authors' implementation, these zeros take part in
    the norms and averages.

    Raises:
        InvalidInputError: the input of `forward` isn't [B,channels,H,W].
    """

    family = "kbnet-s"

    def __init__(self, config: KBNetSConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or KBNetSConfig()
        width = config.width
        self.first = nn.Conv2d(config.channels, width, 3, padding=1)
        self.encoder, self.downsample = nn.ModuleList(), nn.ModuleList()
        for count in config.encoder_blocks:
            self.encoder.append(self._stage(width, count))
            self.downsample.append(nn.Conv2d(width, width * 2, 2, stride=2))
            width *= 2
        self.middle = self._stage(width, config.middle_blocks)
        self.decoder, self.upsample = nn.ModuleList(), nn.ModuleList()
        for count in config.decoder_blocks:
            self.upsample.append(nn.Sequential(nn.Conv2d(width, width * 2, 1, bias=False), nn.PixelShuffle(2)))
            width //= 2
            self.decoder.append(self._stage(width, count))
        self.last = nn.Conv2d(width, config.channels, 3, padding=1)

    @property
    def input_multiple(self) -> int:
        """The network pads sides to a multiple of this: 2 to the power of the number of levels."""
        return int(2 ** len(self.config.encoder_blocks))

    def _stage(self, width: int, count: int) -> nn.ModuleList:
        c = self.config
        return nn.ModuleList(
            KBBlockS(
                width,
                coefficient_width=coefficient_width(width, c.coefficient_limit),
                bases=c.bases,
                group_channels=c.group_channels,
                kernel_size=c.kernel_size,
                ffn_scale=c.ffn_scale,
                lightweight=c.lightweight,
            )
            for _ in range(count)
        )

    def forward(self, image: Tensor, context: FullFrame | None = None) -> Tensor:
        if image.ndim != 4 or image.shape[1] != self.config.channels or 0 in image.shape[2:]:
            raise InvalidInputError(f"expected an image [B,{self.config.channels},H,W], got {list(image.shape)}")
        context = context or FullFrame()
        if not (self.training or torch.is_grad_enabled() or _is_traced()):
            from kbnet.models import compiled  # imports this module

            if compiled.refuses(self, image, context) is None:
                return compiled.run(self, image, context)
        height, width = image.shape[2:]
        multiple = self.input_multiple
        padded = F.pad(image, (0, -width % multiple, 0, -height % multiple))
        context.begin(padded.shape[2])

        x = self.first(padded.to(self.first.weight.dtype))
        skips = []
        for stage, down in zip(self.encoder, self.downsample, strict=True):
            x = run(stage, x, context)
            skips.append(x)
            x = down(x)
        x = run(self.middle, x, context)
        for stage, up in zip(self.decoder, self.upsample, strict=True):
            x = run(stage, up(x) + skips.pop(), context)
        y: Tensor = self.last(x) + padded
        return y[:, :, :height, :width]


def _is_traced() -> bool:
    """Whether the network is being compiled or traced, which needs its layers."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]


def run(stage: nn.Module, x: Tensor, context: FullFrame) -> Tensor:
    """Run the blocks of a stage one after another."""
    assert isinstance(stage, nn.ModuleList)
    for block in stage:
        x = block(x, context)
    return x
