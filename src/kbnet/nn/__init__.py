"""Layers, blocks and networks built on the operator, and their weights.

A block's or network's `forward` takes the context that provides its averages.
"""

from kbnet import needs_torch  # noqa: F401
from kbnet.nn.blocks import KBBlockL, KBBlockS, MultiAxisFusion
from kbnet.nn.checkpoint import load_file, load_model, save_file, save_official
from kbnet.nn.context import FullFrame, Gather, Local, Shared
from kbnet.nn.cost import cost_of
from kbnet.nn.kbnet_l import KBNetL
from kbnet.nn.kbnet_s import KBNetS
from kbnet.nn.layers import (
    ChannelBranch,
    CoefficientHead,
    KernelBasisAttention,
    LayerNorm2d,
    SimpleGate,
    TransposedAttention,
)
from kbnet.nn.networks import Network, build, count_parameters, create_model

__all__ = [
    "ChannelBranch",
    "CoefficientHead",
    "FullFrame",
    "Gather",
    "KBBlockL",
    "KBBlockS",
    "KBNetL",
    "KBNetS",
    "KernelBasisAttention",
    "LayerNorm2d",
    "Local",
    "MultiAxisFusion",
    "Network",
    "Shared",
    "SimpleGate",
    "TransposedAttention",
    "build",
    "cost_of",
    "count_parameters",
    "create_model",
    "load_file",
    "load_model",
    "save_file",
    "save_official",
]
