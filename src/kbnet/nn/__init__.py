"""Layers and blocks built on the operator. A block's `forward` takes the context that provides its averages."""

from kbnet.nn.blocks import KBBlockL, KBBlockS, MultiAxisFusion
from kbnet.nn.context import FullFrame, Gather, Local, Shared
from kbnet.nn.layers import (
    ChannelBranch,
    CoefficientHead,
    KernelBasisAttention,
    LayerNorm2d,
    SimpleGate,
    TransposedAttention,
)

__all__ = [
    "ChannelBranch",
    "CoefficientHead",
    "FullFrame",
    "Gather",
    "KBBlockL",
    "KBBlockS",
    "KernelBasisAttention",
    "LayerNorm2d",
    "Local",
    "MultiAxisFusion",
    "Shared",
    "SimpleGate",
    "TransposedAttention",
]
