"""The layers of KBNet as standard ONNX operators; each follows the module of the same name in `kbnet.nn`."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from kbnet.export.builder import Builder
from kbnet.export.pooling import WholeInput
from kbnet.export.traced import BASES_AT_ONCE
from kbnet.nn import (
    ChannelBranch,
    CoefficientHead,
    KBBlockL,
    KBBlockS,
    KernelBasisAttention,
    LayerNorm2d,
    MultiAxisFusion,
    TransposedAttention,
)

_SHORTEST = 1e-15  # minimum length of a query or key; PyTorch uses 1e-12 / sqrt(pixels), but pixels are unknown here


class Layers:
    """Writes layers into a graph. Values are referred to by name, and weights have the names of the modules.

    Args:
        builder: builder of the graph.
        pooling: where averages over the image come from.
        at_once: number of bases that one convolution applies.
    """

    def __init__(self, builder: Builder, pooling: WholeInput, at_once: int = BASES_AT_ONCE) -> None:
        self.b, self.pooling, self.at_once = builder, pooling, at_once

    def convolution(self, x: str, layer: nn.Conv2d, name: str) -> str:
        """Add a convolution, [B,C,H,W] -> [B,D,h,w]."""
        parameters = [self.b.weight(f"{name}.weight", array(layer.weight))]
        if layer.bias is not None:
            parameters.append(self.b.weight(f"{name}.bias", array(layer.bias)))
        padding, strides, kernel = (list(map(int, v)) for v in (layer.padding, layer.stride, layer.kernel_size))
        return self.b.node(
            "Conv", x, *parameters, kernel_shape=kernel, pads=padding * 2, strides=strides, group=layer.groups
        )

    def sequence(self, x: str, layers: nn.Sequential, name: str) -> str:
        """Add convolutions and resampling by two, one after another."""
        for number, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                x = self.convolution(x, layer, f"{name}.{number}")
            elif isinstance(layer, nn.PixelShuffle):
                x = self.b.node("DepthToSpace", x, blocksize=2, mode="CRD")
            else:
                assert isinstance(layer, nn.PixelUnshuffle)
                x = self._unshuffle(x, layers[number - 1])
        return x

    def _unshuffle(self, x: str, before: nn.Module) -> str:
        assert isinstance(before, nn.Conv2d)
        channels = before.out_channels
        # SpaceToDepth orders channels by (pixel, channel), PyTorch by (channel, pixel).
        order = [pixel * channels + c for c in range(channels) for pixel in range(4)]
        return self.b.node("Gather", self.b.node("SpaceToDepth", x, blocksize=2), self.b.ints(*order), axis=1)

    def norm(self, x: str, layer: LayerNorm2d, name: str) -> str:
        """Add layer norm over the channels of each pixel."""
        b = self.b
        weight, bias = (b.weight(f"{name}.{key}", array(getattr(layer, key))) for key in ("weight", "bias"))
        last = b.node("Transpose", x, perm=[0, 2, 3, 1])
        normal = b.node("LayerNormalization", last, weight, bias, axis=-1, epsilon=layer.eps)
        return b.node("Transpose", normal, perm=[0, 3, 1, 2])

    def gate(self, x: str) -> str:
        """Add a SimpleGate: one half of the channels times the other."""
        return self.b.node("Mul", *self.b.nodes_of("Split", 2, x, axis=1, num_outputs=2))

    def scaled(self, x: str, scale: Tensor, name: str) -> str:
        """Add a multiplication by learned values, one per channel."""
        return self.b.node("Mul", x, self.b.weight(name, array(scale)))

    def coefficients(self, x: str, head: CoefficientHead, name: str) -> str:
        """Add the coefficient head, [B,C,H,W] -> [B,N,H,W]."""
        hidden = self.gate(self.convolution(x, head.grouped, f"{name}.grouped"))
        expanded = self.scaled(self.convolution(hidden, head.expand, f"{name}.expand"), head.scale, f"{name}.scale")
        return self.b.node("Add", expanded, self.convolution(x, head.projection, f"{name}.projection"))

    def kernel_basis_attention(self, x: str, coefficients: str, kba: KernelBasisAttention, name: str) -> str:
        """Add `y = sum_n a_n * (grouped_conv(x; W_n) + b_n)`, a few bases at a time, which limits the memory.

        One grouped convolution computes `at_once * C` channels, [B,C/G,n,G,pixels]. They are multiplied by the
        coefficients and summed over n, which gives [B,C/G,G,pixels]. A single basis at a time needs no reshaping. The
        biases are a 1x1 convolution of the coefficients.
        """
        if self.at_once == 1:
            return self._one_by_one(x, coefficients, kba, name)
        b = self.b
        group, size, _ = kba.taps
        n, c = kba.weight.shape[:2]
        groups = c // group
        weight = array(kba.weight).reshape(n, groups, group, *kba.taps)
        bias = b.weight(f"{name}.bias", array(kba.bias).T[:, :, None, None])
        y = b.node("Reshape", b.node("Conv", coefficients, bias), b.ints(0, groups, group, -1))
        for start in range(0, n, self.at_once):
            count = min(self.at_once, n - start)
            part = weight[start : start + count].swapaxes(0, 1).reshape(groups * count * group, *kba.taps)
            pads = [size // 2] * 4
            stacked = b.weight(f"{name}.weight.{start}", part)
            z = b.node("Conv", x, stacked, kernel_shape=[size, size], pads=pads, group=groups)
            z = b.node("Reshape", z, b.ints(0, groups, count, group, -1))
            some = coefficients
            if count < n:
                some = b.node("Slice", some, b.ints(start), b.ints(start + count), b.ints(1))
            weighed = b.node("Mul", z, b.node("Reshape", some, b.ints(0, 1, count, 1, -1)))
            y = b.node("Add", y, b.node("ReduceSum", weighed, b.ints(2), keepdims=0))
        return b.node("Reshape", y, b.node("Shape", x))

    def _one_by_one(self, x: str, a: str, kba: KernelBasisAttention, name: str) -> str:
        b, (group, size, _) = self.b, kba.taps
        n, c = kba.weight.shape[:2]
        y = b.node("Conv", a, b.weight(f"{name}.bias", array(kba.bias).T[:, :, None, None]))
        for i in range(n):
            weight = b.weight(f"{name}.weight.{i}", array(kba.weight[i]).reshape(c, *kba.taps))
            z = b.node("Conv", x, weight, kernel_shape=[size, size], pads=[size // 2] * 4, group=c // group)
            y = b.node("Add", y, b.node("Mul", z, b.node("Slice", a, b.ints(i), b.ints(i + 1), b.ints(1))))
        return y

    def channel_branch(self, u: str, branch: ChannelBranch, level: int, name: str) -> str:
        """Add the channel branch, [B,C,H,W] -> [B,D,1,1], or [B,D,H,W] with a window."""
        b = self.b
        means, cell = self.pooling.grid(u, level)
        mixed = self.convolution(self.pooling.share(means, (branch.mix.in_channels, 1, 1)), branch.mix, f"{name}.mix")
        if cell == 1:
            return mixed
        scales = b.floats(1, 1, cell, cell)
        return b.node("Resize", mixed, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")

    def fusion(self, u: str, block: KBBlockS | MultiAxisFusion, level: int, name: str) -> str:
        """Add the product of the three branches of normalized features, without the last convolution."""
        b = self.b
        v = self.sequence(u, block.adaptive_in, f"{name}.adaptive_in")
        a = self.coefficients(u, block.coefficients, f"{name}.coefficients")
        mixed = self.kernel_basis_attention(v, a, block.kba, f"{name}.kba")
        adaptive = b.node("Add", self.scaled(mixed, block.kba_scale, f"{name}.kba_scale"), v)
        static = self.sequence(u, block.static_branch, f"{name}.static_branch")
        if isinstance(block, MultiAxisFusion):
            static = self.gelu(static)
        channel = self.channel_branch(u, block.channel_branch, level, f"{name}.channel_branch")
        return b.node("Mul", b.node("Mul", adaptive, static), channel)

    def gelu(self, x: str) -> str:
        """Add the exact GELU, by the error function."""
        b = self.b
        inner = b.node("Add", b.node("Erf", b.node("Div", x, b.floats(math.sqrt(2), shape=()))), b.floats(1, shape=()))
        return b.node("Mul", b.node("Mul", x, inner), b.floats(0.5, shape=()))

    def block_s(self, x: str, block: KBBlockS, level: int, name: str) -> str:
        """Add a `KBBlockS`, [B,C,H,W] -> [B,C,H,W]."""
        b = self.b
        merged = self.fusion(self.norm(x, block.fusion_norm, f"{name}.fusion_norm"), block, level, name)
        out = self.convolution(merged, block.fusion_out, f"{name}.fusion_out")
        x = b.node("Add", x, self.scaled(out, block.fusion_scale, f"{name}.fusion_scale"))
        hidden = self.convolution(self.norm(x, block.ffn_norm, f"{name}.ffn_norm"), block.ffn_in, f"{name}.ffn_in")
        out = self.convolution(self.gate(hidden), block.ffn_out, f"{name}.ffn_out")
        return b.node("Add", x, self.scaled(out, block.ffn_scale, f"{name}.ffn_scale"))

    def block_l(self, x: str, block: KBBlockL, level: int, name: str) -> str:
        """Add a `KBBlockL`, [B,C,H,W] -> [B,C,H,W]."""
        b = self.b
        u = self.norm(x, block.fusion_norm, f"{name}.fusion_norm")
        merged = self.fusion(u, block.fusion, level, f"{name}.fusion")
        assert isinstance(block.fusion.out, nn.Conv2d)
        x = b.node("Add", x, self.convolution(merged, block.fusion.out, f"{name}.fusion.out"))
        u = self.norm(x, block.attention_norm, f"{name}.attention_norm")
        return b.node("Add", x, self.transposed_attention(u, block.attention, level, f"{name}.attention"))

    def transposed_attention(self, x: str, layer: TransposedAttention, level: int, name: str) -> str:
        """Add attention across channels. Its averages over pixels are shared like those of the channel branch."""
        b, pooling, heads = self.b, self.pooling, layer.heads
        per_head = layer.out.in_channels // heads
        qkv = self.convolution(
            self.convolution(x, layer.qkv, f"{name}.qkv"), layer.qkv_depthwise, f"{name}.qkv_depthwise"
        )
        parts = b.nodes_of("Split", 3, qkv, axis=1, num_outputs=3)
        q, k, v = (b.node("Reshape", part, b.ints(0, heads, per_head, -1)) for part in parts)
        counted_q, counted_k = (pooling.counted(flat, x, level) for flat in (q, k))
        pixels = pooling.pixels(x, level)
        gram = b.node("Div", b.node("MatMul", counted_q, b.node("Transpose", k, perm=[0, 1, 3, 2])), pixels)
        gram = pooling.share(gram, (heads, per_head, per_head))
        lengths = []
        for counted, flat in ((counted_q, q), (counted_k, k)):
            squares = b.node("ReduceSum", b.node("Mul", counted, flat), b.ints(3))
            length = b.node("Sqrt", pooling.share(b.node("Div", squares, pixels), (heads, per_head, 1)))
            lengths.append(b.node("Max", length, b.floats(_SHORTEST, shape=())))
        across = b.node("Transpose", lengths[1], perm=[0, 1, 3, 2])
        cosine = b.node("Div", gram, b.node("Mul", lengths[0], across))
        attention = b.node("Softmax", self.scaled(cosine, layer.temperature[None], f"{name}.temperature"), axis=-1)
        mixed = b.node("Reshape", b.node("MatMul", attention, v), b.node("Shape", x))
        return self.convolution(mixed, layer.out, f"{name}.out")


def array(values: Tensor) -> NDArray[Any]:
    """Convert a parameter to float32."""
    found: NDArray[Any] = values.detach().cpu().float().numpy()
    return np.array(found)
