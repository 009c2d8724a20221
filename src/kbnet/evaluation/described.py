"""Networks of other papers, for counting their cost: layers and their sizes, without weights.

Each follows the description in its paper, is built from kbnet's layers, and runs only on the meta device, which
computes shapes but no values. Tests compare the number of parameters with the published one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbnet.nn import FullFrame, LayerNorm2d, SimpleGate, TransposedAttention


@dataclass(frozen=True)
class Described:
    """A network of another paper.

    Attributes:
        build: builds the network, [B,channels,H,W] -> the same shape.
        channels: image channels.
        source: the paper.
        parameters_published, gmacs_published: published parameters in millions, and multiply-adds in 10^9 at 256 x 256;
            None if not published.
    """

    build: Callable[[], nn.Module]
    channels: int
    source: str
    parameters_published: float | None = None
    gmacs_published: float | None = None


class DnCNN(nn.Module):
    """`depth` 3x3 convolutions with 64 channels and batch norm (arXiv 1608.03981, section III)."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(64, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x - self.body(x)
        return y


class FFDNet(nn.Module):
    """3x3 convolutions at half the resolution, with a noise level map (arXiv 1710.04026, section III)."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(4 * channels + 1, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 4 * channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        small = F.pixel_unshuffle(x, 2)
        return F.pixel_shuffle(self.body(torch.cat([small, small[:, :1]], 1)), 2)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


class DRUNet(nn.Module):
    """A U-Net of residual blocks, 64 to 512 channels, with a noise level map (arXiv 2008.13751, section 3.1)."""

    def __init__(self, channels: int, blocks: int = 4) -> None:
        super().__init__()
        widths = (64, 128, 256, 512)
        self.first = nn.Conv2d(channels + 1, 64, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(self._stage(width, blocks) for width in widths[:3])
        self.downsample = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2, bias=False) for w in widths[:3])
        self.middle = self._stage(512, blocks)
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2, bias=False) for w in widths[2::-1])
        self.decoder = nn.ModuleList(self._stage(width, blocks) for width in widths[2::-1])
        self.last = nn.Conv2d(64, channels, 3, padding=1, bias=False)

    @staticmethod
    def _stage(width: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(*(_Residual(width) for _ in range(blocks)))

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(torch.cat([image, image[:, :1]], 1))
        skips = [x]
        for stage, down in zip(self.encoder, self.downsample, strict=True):
            x = down(stage(x))
            skips.append(x)
        x = self.middle(x)
        for stage, up in zip(self.decoder, self.upsample, strict=True):
            x = stage(up(x + skips.pop()))
        y: Tensor = self.last(x + skips.pop())
        return y


class _NAFBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.ffn_norm = LayerNorm2d(c), LayerNorm2d(c)
        self.spatial = nn.Sequential(
            nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c), SimpleGate()
        )
        self.channel = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.out = nn.Conv2d(c, c, 1)
        self.ffn = nn.Sequential(nn.Conv2d(c, 2 * c, 1), SimpleGate(), nn.Conv2d(c, c, 1))
        self.scales = nn.Parameter(torch.zeros(2, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        u = self.spatial(self.norm(x))
        x = x + self.out(u * self.channel(u)) * self.scales[0]
        y: Tensor = x + self.ffn(self.ffn_norm(x)) * self.scales[1]
        return y


class NAFNet(nn.Module):
    """A U-Net of blocks with gates instead of activations (arXiv 2204.04676, section 4; the sizes for SIDD)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        widths = [width * 2**level for level in range(4)]
        self.encoder = nn.ModuleList(map(self._stage, widths, (2, 2, 4, 8)))
        self.downsample = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths)
        self.middle = self._stage(16 * width, 12)
        self.upsample = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * w, 4 * w, 1, bias=False), nn.PixelShuffle(2)) for w in widths[::-1]
        )
        self.decoder = nn.ModuleList(self._stage(w, 2) for w in widths[::-1])

    @staticmethod
    def _stage(width: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(*(_NAFBlock(width) for _ in range(blocks)))

    def forward(self, image: Tensor) -> Tensor:
        x, skips = self.first(image), []
        for stage, down in zip(self.encoder, self.downsample, strict=True):
            skips.append(stage(x))
            x = down(skips[-1])
        x = self.middle(x)
        for stage, up in zip(self.decoder, self.upsample, strict=True):
            x = stage(up(x) + skips.pop())
        y: Tensor = self.last(x) + image
        return y


class _RestormerBlock(nn.Module):
    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        hidden = int(c * 2.66)
        self.norm, self.ffn_norm = LayerNorm2d(c), LayerNorm2d(c)
        self.attention = TransposedAttention(c, heads)
        self.ffn_in = nn.Sequential(
            nn.Conv2d(c, 2 * hidden, 1, bias=False),
            nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False),
        )
        self.ffn_out = nn.Conv2d(hidden, c, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x), FullFrame())
        first, second = self.ffn_in(self.ffn_norm(x)).chunk(2, 1)
        y: Tensor = x + self.ffn_out(F.gelu(first) * second)
        return y


class Restormer(nn.Module):
    """A U-Net of transposed attention and gated feed-forward layers (arXiv 2111.09881, sections 3 and 4)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        w, blocks, heads = width, (4, 6, 6, 8), (1, 2, 4, 8)
        self.first, self.last = self._convolution(3, w), self._convolution(2 * w, 3)
        self.encoder = nn.ModuleList(self._stage(w * 2**i, blocks[i], heads[i]) for i in range(3))
        self.downsample = nn.ModuleList(
            nn.Sequential(self._convolution(w * 2**i, w * 2**i // 2), nn.PixelUnshuffle(2)) for i in range(3)
        )
        self.middle = self._stage(w * 8, blocks[3], heads[3])
        self.upsample = nn.ModuleList(
            nn.Sequential(self._convolution(w * 2**i, w * 2**i * 2), nn.PixelShuffle(2)) for i in (3, 2, 1)
        )
        self.reduce = nn.ModuleList(
            [*(nn.Conv2d(w * 2**i * 2, w * 2**i, 1, bias=False) for i in (2, 1)), nn.Identity()]
        )
        self.decoder = nn.ModuleList(self._stage(w * 2 ** max(i, 1), blocks[i], heads[i]) for i in (2, 1, 0))
        self.refinement = self._stage(w * 2, 4, 1)

    @staticmethod
    def _convolution(channels: int, out: int) -> nn.Conv2d:
        return nn.Conv2d(channels, out, 3, padding=1, bias=False)

    @staticmethod
    def _stage(width: int, blocks: int, heads: int) -> nn.Sequential:
        return nn.Sequential(*(_RestormerBlock(width, heads) for _ in range(blocks)))

    def forward(self, image: Tensor) -> Tensor:
        x, skips = self.first(image), []
        for stage, down in zip(self.encoder, self.downsample, strict=True):
            skips.append(stage(x))
            x = down(skips[-1])
        x = self.middle(x)
        for up, reduce, stage in zip(self.upsample, self.reduce, self.decoder, strict=True):
            x = stage(reduce(torch.cat([up(x), skips.pop()], 1)))
        y: Tensor = self.last(self.refinement(x)) + image
        return y


DESCRIBED: dict[str, Described] = {
    "DnCNN, gray": Described(lambda: DnCNN(1, 17), 1, "arXiv 1608.03981", 0.556),
    "DnCNN, colour": Described(lambda: DnCNN(3, 20), 3, "arXiv 1608.03981", 0.668),
    "FFDNet, gray": Described(lambda: FFDNet(1, 64, 15), 1, "arXiv 1710.04026", 0.485),
    "FFDNet, colour": Described(lambda: FFDNet(3, 96, 12), 3, "arXiv 1710.04026", 0.852),
    "DRUNet, colour": Described(lambda: DRUNet(3), 3, "arXiv 2008.13751", 32.64),
    "NAFNet, width 64": Described(lambda: NAFNet(64), 3, "arXiv 2204.04676", 115.9, 65.0),
    "Restormer": Described(Restormer, 3, "arXiv 2111.09881", 26.1, 141.0),
}
