"""KBNet-L: the U-Net with concatenated skips and transposed attention (arXiv 2303.02881, section 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kbnet.description import coefficient_width
from kbnet.errors import InvalidInputError
from kbnet.models import bounds
from kbnet.models.kbnet_s import run
from kbnet.nn import FullFrame, KBBlockL

LEVELS = 4


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


class KBNetL(nn.Module):
    """KBNet-L (arXiv 2303.02881, section 3.3), [B,channels,H,W] -> the same shape; H and W must be multiples of 8.

    Values are nominally in [0,1] and are not clipped.

    Raises:
        InvalidInputError: the input of `forward` isn't [B,channels,H,W], or its sides aren't multiples of
            `input_multiple`.
    """

    family = "kbnet-l"
    input_multiple = 2 ** (LEVELS - 1)

    def __init__(self, config: KBNetLConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or KBNetLConfig()
        w, counts, heads = config.width, config.blocks, config.heads
        self.first = nn.Conv2d(config.channels, w, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(self._stage(w * 2**i, counts[i], heads[i]) for i in range(3))
        self.downsample = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w * 2**i, w * 2**i // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))
            for i in range(3)
        )
        self.middle = self._stage(w * 8, counts[3], heads[3])
        # From the lowest resolution up: levels 3, 2 and 1. Level 1 keeps both halves of its concatenation.
        self.upsample = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w * 2**i, w * 2**i * 2, 3, padding=1, bias=False), nn.PixelShuffle(2))
            for i in (3, 2, 1)
        )
        self.reduce = nn.ModuleList(nn.Conv2d(w * 2**i * 2, w * 2**i, 1, bias=config.bias) for i in (2, 1))
        self.decoder = nn.ModuleList(self._stage(w * 2 ** max(i, 1), counts[i], heads[i]) for i in (2, 1, 0))
        self.refinement = self._stage(w * 2, config.refinement_blocks, heads[0])
        self.last = nn.Conv2d(w * 2, config.channels, 3, padding=1, bias=False)

    def _stage(self, width: int, count: int, heads: int) -> nn.ModuleList:
        c = self.config
        return nn.ModuleList(
            KBBlockL(
                width,
                heads,
                coefficient_width=coefficient_width(width, c.coefficient_limit),
                bases=c.bases,
                group_channels=c.group_channels,
                kernel_size=c.kernel_size,
                expansion=c.expansion,
                bias=c.bias,
            )
            for _ in range(count)
        )

    def forward(self, image: Tensor, context: FullFrame | None = None) -> Tensor:
        height, width = image.shape[-2:]
        multiple = self.input_multiple
        wrong_shape = image.ndim != 4 or image.shape[1] != self.config.channels or 0 in (height, width)
        if wrong_shape or height % multiple or width % multiple:
            raise InvalidInputError(
                f"expected an image [B,{self.config.channels},H,W] with sides that are multiples of {multiple}, "
                f"got {list(image.shape)}; pad it, or use a Restorer, which pads by itself"
            )
        context = context or FullFrame()
        context.begin(height)

        x = self.first(image.to(self.first.weight.dtype))
        skips = []
        for stage, down in zip(self.encoder, self.downsample, strict=True):
            x = run(stage, x, context)
            skips.append(x)
            x = down(x)
        x = run(self.middle, x, context)
        for level, (stage, up) in enumerate(zip(self.decoder, self.upsample, strict=True)):
            x = torch.cat([up(x), skips.pop()], dim=1)
            if level < len(self.reduce):
                x = self.reduce[level](x)
            x = run(stage, x, context)
        x = run(self.refinement, x, context)
        y: Tensor = self.last(x) + image
        return y
