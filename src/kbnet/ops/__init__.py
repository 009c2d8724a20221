"""Kernel basis attention as one operator; see README.md in this folder for the equation, the gradients and the cost."""

from kbnet.ops.backends import available_backends
from kbnet.ops.flops import multiply_adds, register_flop_formulas
from kbnet.ops.kba import kernel_basis_attention

__all__ = ["available_backends", "kernel_basis_attention", "multiply_adds", "register_flop_formulas"]
