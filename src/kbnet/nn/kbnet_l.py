"""KBNet-L: the U-Net with concatenated skips and transposed attention (arXiv 2303.02881, section 3.3)."""

import torch
from torch import Tensor, nn

from kbnet.description import coefficient_width
from kbnet.errors import InvalidInputError
from kbnet.models.config import KBNetLConfig
from kbnet.nn import conformity
from kbnet.nn.blocks import KBBlockL
from kbnet.nn.context import FullFrame
from kbnet.nn.kbnet_s import is_traced, run


class KBNetL(nn.Module):
    """KBNet-L (arXiv 2303.02881, section 3.3), [B,channels,H,W] -> the same shape; H and W must be multiples of 8.

    Values are nominally in [0,1] and are not clipped.

    Raises:
        InvalidInputError: the input of `forward` isn't [B,channels,H,W], or its sides aren't multiples of
            `input_multiple`.
    """

    family = KBNetLConfig.family
    input_multiple = KBNetLConfig.input_multiple

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
        if not (self.training or torch.is_grad_enabled() or is_traced()):
            from kbnet.nn import compiled  # imports this module

            if compiled.refuses(self, image, context) is None:
                return compiled.run(self, image, context)
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


conformity.know(KBNetL)
