"""KBNet-S: the U-Net with additive skips used for denoising (arXiv 2303.02881, section 3.3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbnet.description import coefficient_width
from kbnet.errors import InvalidInputError
from kbnet.models.config import KBNetSConfig
from kbnet.nn import conformity
from kbnet.nn.blocks import KBBlockS
from kbnet.nn.context import FullFrame


class KBNetS(nn.Module):
    """KBNet-S (arXiv 2303.02881, section 3.3), [B,channels,H,W] -> the same shape, for any H and W.

    Values are nominally in [0,1] and are not clipped. The network pads its input with zeros at the bottom and the right
    to a multiple of `input_multiple` and crops its output. As in the authors' implementation, these zeros take part in
    the norms and averages.

    Raises:
        InvalidInputError: the input of `forward` isn't [B,channels,H,W].
    """

    family = KBNetSConfig.family

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
        return self.config.input_multiple

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
        if not (self.training or torch.is_grad_enabled() or is_traced()):
            from kbnet.nn import compiled  # imports this module

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


def is_traced() -> bool:
    """Whether the network is being compiled or traced, which needs its layers."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]


def run(stage: nn.Module, x: Tensor, context: FullFrame) -> Tensor:
    """Run the blocks of a stage one after another."""
    assert isinstance(stage, nn.ModuleList)
    for block in stage:
        x = block(x, context)
    return x


conformity.know(KBNetS)
