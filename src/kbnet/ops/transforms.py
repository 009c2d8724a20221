"""The operator under forward-mode differentiation and the transforms of `torch.func`.

The operator is linear in x, in the coefficients, and in the weight and bias together. Its gradient is linear in each
of these and in dy. So every derivative of either is a sum of calls of both:

    tangent of y:  f(dx, a, W, 0) + f(x, da, W, b) + f(x, a, dW, db)

An operator registered with torch.library has no rule for forward mode, which would silently drop tangents, and none for
nested transforms. A wrapping `autograd.Function` has both. `kernel_basis_attention` calls `Forward` if forward mode or
a transform is active, and the operator itself otherwise; `refuse_tangents` guards the operator.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from kbnet.errors import BackendError

Four = tuple[Tensor, Tensor, Tensor, Tensor]

_inside = threading.local()


def at_work() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is active in this thread."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def refuse_tangents() -> None:
    """Reject direct calls of the operator in forward mode: their result would lack a tangent.

    Raises:
        BackendError: forward-mode differentiation is active, and the call doesn't come from this module.
    """
    if forward_ad._current_level >= 0 and not getattr(_inside, "calls", 0) and not torch.compiler.is_compiling():
        raise BackendError(
            "operators of torch.ops.kbnet have no forward-mode derivative; call "
            "kbnet.ops.kernel_basis_attention, which has one (in blocks, set KBNET_FUSED=off)"
        )


@contextlib.contextmanager
def _calling() -> Iterator[None]:
    _inside.calls = getattr(_inside, "calls", 0) + 1
    try:
        yield
    finally:
        _inside.calls -= 1


def forward(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
    """Apply the operator, differentiable in every mode and order."""
    if at_work():
        result: Tensor = Forward.apply(x, coefficients, weight, bias, backend)  # type: ignore[no-untyped-call]
    else:
        result = torch.ops.kbnet.kernel_basis_attention(x, coefficients, weight, bias, backend)
    return result


def backward(dy: Tensor, x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Four:
    """Return its four gradients, differentiable in every mode and order."""
    if at_work():
        result: Four = Backward.apply(dy, x, coefficients, weight, bias, backend)  # type: ignore[no-untyped-call]
    else:
        result = torch.ops.kbnet.kernel_basis_attention_backward(dy, x, coefficients, weight, bias, backend)
    return result


def tangent(four: Sequence[Tensor], tangents: Sequence[Tensor | None], backend: str) -> Tensor | None:
    """Return the derivative of the operator along tangents of its four inputs; None stands for zero."""
    x, a, weight, bias = four
    dx, da, dweight, dbias = tangents
    total: Tensor | None = None
    if dx is not None:
        total = forward(dx, a, weight, torch.zeros_like(bias), backend)
    if da is not None:
        total = _plus(total, forward(x, da, weight, bias, backend))
    if dweight is not None or dbias is not None:
        total = _plus(total, forward(x, a, _or_zero(dweight, weight), _or_zero(dbias, bias), backend))
    return total


def double_backward(
    dy: Tensor, four: Sequence[Tensor], grads: Sequence[Tensor | None], backend: str
) -> tuple[Tensor | None, ...]:
    """Return the gradients of dy and of the four inputs, given those of the operator's four gradients.

    With g those of the four gradients, <g, gradients> = <dy, tangent along g>, which this differentiates.
    """
    x, a, weight, bias = four
    gx, ga, gweight, gbias = grads
    found: list[Tensor | None] = [None] * 4

    def add(*parts: Tensor | None) -> None:
        for i, part in enumerate(parts):
            found[i] = part if found[i] is None else found[i] if part is None else found[i] + part  # type: ignore[operator]

    if gx is not None:
        _, da, dweight, _ = backward(dy, gx, a, weight, torch.zeros_like(bias), backend)
        add(None, da, dweight, None)
    if ga is not None:
        dx, _, dweight, dbias = backward(dy, x, ga, weight, bias, backend)
        add(dx, None, dweight, dbias)
    if gweight is not None or gbias is not None:
        dx, da, _, _ = backward(dy, x, a, _or_zero(gweight, weight), _or_zero(gbias, bias), backend)
        add(dx, da, None, None)
    return tangent(four, grads, backend), *found


class Forward(Function):
    """The operator as an autograd function."""

    @staticmethod
    def forward(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
        with _calling():
            y: Tensor = torch.ops.kbnet.kernel_basis_attention(x, coefficients, weight, bias, backend)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *four, ctx.backend = inputs
        ctx.save_for_backward(*four)
        ctx.save_for_forward(*four)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 5
        x, a, weight, bias = ctx.saved_tensors
        return *backward(dy, x, a, weight, bias, ctx.backend), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        return tangent(ctx.saved_tensors, tangents[:4], ctx.backend)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        x, a, weight, bias, backend = inputs
        if in_dims[2] is not None or in_dims[3] is not None:
            return _one_by_one(forward, info.batch_size, in_dims, inputs)
        x, a = (
            (t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)).flatten(0, 1)
            for t, dim in zip((x, a), in_dims[:2], strict=True)
        )
        return forward(x, a, weight, bias, backend).unflatten(0, (info.batch_size, -1)), 0


class Backward(Function):
    """The operator's four gradients as an autograd function."""

    @staticmethod
    def forward(dy: Tensor, x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Four:
        with _calling():
            four: Four = torch.ops.kbnet.kernel_basis_attention_backward(dy, x, coefficients, weight, bias, backend)
        return four

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *five, ctx.backend = inputs
        ctx.save_for_backward(*five)
        ctx.save_for_forward(*five)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        dy, *four = ctx.saved_tensors
        return *double_backward(dy, four, grads, ctx.backend), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        (dy, *four), backend = ctx.saved_tensors, ctx.backend
        ddy, dx, da, dweight, dbias, *_ = tangents
        x, a, weight, bias = four
        total: list[Tensor | None] = [None] * 4
        zero = torch.zeros_like(bias)
        # Each of the four is linear in every input that it depends on; the other terms are dropped.
        terms: list[tuple[Tensor | None, ...]] = []
        if ddy is not None:
            terms.append(backward(ddy, x, a, weight, bias, backend))
        if dx is not None:
            terms.append((None, *backward(dy, dx, a, weight, zero, backend)[1:3], None))
        if da is not None:
            gx, _, gweight, gbias = backward(dy, x, da, weight, bias, backend)
            terms.append((gx, None, gweight, gbias))
        if dweight is not None or dbias is not None:
            gx, ga, *_ = backward(dy, x, a, _or_zero(dweight, weight), _or_zero(dbias, bias), backend)
            terms.append((gx, ga, None, None))
        for term in terms:
            total = [t if p is None else _plus(t, p) for t, p in zip(total, term, strict=True)]
        return tuple(_or_zero(t, like) for t, like in zip(total, four, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        return _one_by_one(backward, info.batch_size, in_dims, inputs)


def _one_by_one(function: Any, count: int, in_dims: Sequence[int | None], inputs: Sequence[Any]) -> tuple[Any, Any]:
    """Call `function` on each of `count` slices and stack the results, because a call takes one set of bases."""
    results = [
        function(*(t if dim is None else t.select(dim, i) for t, dim in zip(inputs, in_dims, strict=True)))
        for i in range(count)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(part) for part in zip(*results, strict=True)), (0,) * len(results[0])


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part


def _or_zero(t: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if t is None else t
