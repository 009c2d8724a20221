"""Checks that live modules are exactly what their description says, by an allow-list.

Code that computes a block from its parameters (compiled kernels, exported graphs) ignores any other change to its
modules. It may therefore run only if there is none: every module has exactly the described type, children, settings and
parameters; no method is replaced, in the module or its class; there are no hooks, buffers or parametrizations.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from kbnet.description import Layer
from kbnet.nn.layers import (
    ChannelBranch,
    CoefficientHead,
    KernelBasisAttention,
    LayerNorm2d,
    SimpleGate,
    TransposedAttention,
)

PLAIN = (nn.Parameter, Tensor)
"""Tensor types without behaviour of their own."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CALLS = ("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__")

_kinds: dict[str, type[nn.Module]] = {}
_methods: dict[type[nn.Module], list[tuple[str, object]]] = {}


def know(*kinds: type[nn.Module]) -> None:
    """Register module types by name and remember their current methods, so that `departure` notices replaced ones."""
    for kind in kinds:
        _kinds[kind.__name__] = kind
        above = [c for c in kind.__mro__ if issubclass(c, nn.Module) and c is not nn.Module]
        names = {name for c in above for name, value in vars(c).items() if callable(value) and name != "__init__"}
        _methods[kind] = [(name, getattr(kind, name)) for name in sorted(names.union(_CALLS))]


def departure(root: nn.Module, layers: Iterable[Layer]) -> str | None:
    """Return how `root` or one of its submodules differs from its description, in a few words; None if it doesn't.

    Args:
        root: the module to check.
        layers: the description, from `root` on; each layer follows the module that contains it. Submodules that it
            doesn't list are not checked.
    """
    if torch_module._has_any_global_hook():
        return "global module hooks are registered"
    return _departure(root, _checks(tuple(layers)))


class _Check:
    """A layer's description in a form that compares fast: the check runs at every call of every block."""

    def __init__(self, layer: Layer) -> None:
        self.path = layer.path
        self.parent, _, self.name = layer.path.rpartition(".")
        self.kind = _kinds[layer.kind]
        self.children = layer.children
        self.parameters = tuple(layer.parameters)
        self.shapes = tuple(layer.parameters.values())
        self.settings = tuple(layer.settings.items())
        names = tuple(layer.settings)
        self.get: Callable[[dict[str, Any]], tuple[Any, ...]] = (
            itemgetter(*names) if len(names) > 1 else lambda d: tuple(d[name] for name in names)
        )
        self.values = tuple(layer.settings.values())
        usual = vars(nn.Module()).keys() | {"_reversed_padding_repeated_twice", "settings"}
        self.attributes = frozenset(usual.union(names))

    def differs(self, module: nn.Module) -> str | None:
        """Return how a module of the right type differs, apart from the values and shapes of its parameters."""
        d = module.__dict__
        for hooks in _HOOKS:
            if d[hooks]:
                return "has a hook"
        if not d.keys() <= self.attributes:
            for name in d.keys() - self.attributes:
                if hasattr(self.kind, name) or name in self.parameters or name in self.children:
                    return f"has an instance attribute {name}"
        if tuple(d["_modules"]) != self.children:
            return f"holds {', '.join(d['_modules']) or 'nothing'}, not {', '.join(self.children) or 'nothing'}"
        if d["_buffers"]:
            return "has a buffer"
        if tuple(d["_parameters"]) != self.parameters:
            return f"has the parameters {', '.join(d['_parameters'])}, not {', '.join(self.parameters)}"
        try:
            if self.get(d) == self.values:
                return None
        except KeyError:
            pass
        wrong = next(name for name, value in self.settings if d.get(name) != value)
        return f"has {wrong} {d.get(wrong)!r}, not {dict(self.settings)[wrong]!r}"


@lru_cache(maxsize=256)
def _checks(layers: tuple[Layer, ...]) -> tuple[_Check, ...]:
    return tuple(_Check(layer) for layer in layers)


def _departure(root: nn.Module, checks: tuple[_Check, ...]) -> str | None:
    seen: dict[str, nn.Module] = {}
    common: tuple[torch.dtype, torch.device] | None = None  # of all parameters
    for check in checks:
        module = seen[check.parent]._modules.get(check.name) if check.path else root
        name = check.path or "the module"
        if type(module) is not check.kind:
            return f"{name} is of type {type(module).__name__}, not {check.kind.__name__}"
        assert module is not None
        seen[check.path] = module
        reason = check.differs(module)
        if reason is not None:
            return f"{name} {reason}"
        for p, shape in zip(module._parameters.values(), check.shapes, strict=True):
            if p is None or shape is None:
                if p is not None or shape is not None:
                    return f"{name} has {'a missing' if p is None else 'an additional'} parameter"
                continue
            if type(p) not in PLAIN or p.layout is not torch.strided:
                return f"a parameter of {name} is not a plain strided tensor"
            if p.shape != shape:
                return f"a parameter of {name} has shape {list(p.shape)}, not {list(shape)}"
            found = (p.dtype, p.device)
            if common is None:
                common = found
            elif found != common:
                return f"a parameter of {name} is {found[0]} on {found[1]}, but others are {common[0]} on {common[1]}"
    for kind in {check.kind for check in checks}:
        for method, original in _methods[kind]:
            if getattr(kind, method) is not original:
                return f"{kind.__name__}.{method} was replaced"
    return None


know(nn.Conv2d, nn.Sequential, nn.ModuleList, nn.PixelShuffle, nn.PixelUnshuffle)
know(ChannelBranch, CoefficientHead, KernelBasisAttention, LayerNorm2d, SimpleGate, TransposedAttention)
