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
    """Settings of a KBNet-S; the defaults are the published Gaussian colour denoiser.

    Attributes:
        channels: of the image, 3 or 1.
        width: channels of the first level; doubled at each further one.
        encoder_blocks, decoder_blocks: blocks per level, as many levels in both.
        middle_blocks: blocks at the lowest resolution.
        ffn_scale: hidden width of a block's feed-forward part over its channels.
        lightweight: the cheaper static branch (SIDD, SenseNoise and the compact presets).
        bases, group_channels, kernel_size: N, G and k of kernel basis attention.
        coefficient_limit: upper bound of the coefficient head's hidden width.
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
            # A list, as a file gives, is made the tuple that compares equal to a preset's.
            object.__setattr__(self, name, bounds.wholes(name, getattr(self, name), 0, bounds.MAX_BLOCKS, levels))
        bounds.whole("middle_blocks", self.middle_blocks, 0, bounds.MAX_BLOCKS)
        if len(self.encoder_blocks) != len(self.decoder_blocks):
            raise InvalidInputError(
                "expected as many encoder as decoder levels, "
                f"got {len(self.encoder_blocks)} and {len(self.decoder_blocks)}"
            )
        bounds.divisible("width", self.width, self.group_channels, "the channels of a group")
        bounds.divisible("width", self.width, 2 if self.lightweight else 4, "for the branches of a block")
        for level in range(len(self.encoder_blocks) + 1):
            hidden = int(self.ffn_scale * self.width * 2**level)
            bounds.divisible("ffn_scale * width * 2^level", hidden, 2, "since the gate halves it")


class KBNetS(nn.Module):
    """KBNet-S, [B,channels,H,W] -> the same shape; any H and W.

    Values are nominally in [0,1] and are not clipped. The input is padded at the bottom and the right with zeros to a
    multiple of `input_multiple` and the output cropped back; the zeros take part in the norms and averages, as in the
    authors' implementation.

    Raises:
        InvalidInputError: the input is not [B,channels,H,W].
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
        """Sides are padded to a multiple of this; two to the number of levels."""
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
            from kbnet.models import compiled  # which knows this class

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
    """Whether a graph is being made of the layers, which wants to see them."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]


def run(stage: nn.Module, x: Tensor, context: FullFrame) -> Tensor:
    """Pass x through the blocks of a stage in turn."""
    assert isinstance(stage, nn.ModuleList)
    for block in stage:
        x = block(x, context)
    return x
