"""Kernel basis attention as one operator. README.md in this folder gives its equation, gradients and cost."""

from kbnet import needs_torch  # noqa: F401
from kbnet.ops.backends import available_backends
from kbnet.ops.flops import multiply_adds, register_flop_formulas
from kbnet.ops.kba import kernel_basis_attention

__all__ = ["available_backends", "kernel_basis_attention", "multiply_adds", "register_flop_formulas"]
