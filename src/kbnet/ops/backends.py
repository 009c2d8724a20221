"""Selects the implementation of the operator for a call.

Each backend has one predicate. It drives the automatic choice, and it explains why a backend that was requested by name
can't run the call.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from kbnet.errors import BackendError
from kbnet.ops import native, reference, triton

_log = logging.getLogger(__name__)

Forward = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Backend:
    """One implementation: `forward(x, coefficients, weight, bias)`, `backward(dy, x, coefficients, weight, bias)`.

    `refuses_here()` returns why the backend can't run on this machine at all, and `refuses(x, weight)` why it can't run
    this call. Both return None if it can.
    """

    name: str
    forward: Forward
    backward: Backward
    refuses_here: Callable[[], str | None]
    refuses: Callable[[Tensor, Tensor], str | None]


def _never_here() -> str | None:
    return None


def _never(x: Tensor, weight: Tensor) -> str | None:
    return None


BACKENDS: tuple[Backend, ...] = (
    Backend("native", native.forward, native.backward, refuses_here=native.refuses_here, refuses=native.refuses),
    Backend("triton", triton.forward, triton.backward, refuses_here=triton.refuses_here, refuses=triton.refuses),
    Backend("reference", reference.forward, reference.backward, refuses_here=_never_here, refuses=_never),
)
"""All backends in order of preference; the last one runs every call."""


def available_backends() -> tuple[str, ...]:
    """Return the names of the backends that this machine can run, in order of preference."""
    return tuple(backend.name for backend in BACKENDS if backend.refuses_here() is None)


def choose(name: str, x: Tensor, weight: Tensor) -> Backend:
    """Select the backend with this name, or the first one that can run the call if the name is "auto".

    Raises:
        BackendError: the backend doesn't exist or can't run this call; the message says why.
    """
    for backend in BACKENDS:
        if name in ("auto", backend.name):
            reason = backend.refuses_here() or backend.refuses(x, weight)
            if reason is None:
                if backend.name == "reference" and name == "auto" and x.device.type == "cpu":
                    _say_slow(native.refuses_here())
                return backend
            if name != "auto":
                raise BackendError(f"backend {name!r} can't run this call: {reason}; use backend='auto'")
    known = ", ".join(repr(backend.name) for backend in BACKENDS)
    raise BackendError(f"expected backend 'auto' or one of {known}, got {name!r}")


@cache
def _say_slow(reason: str | None) -> None:
    """Warn once per process that the slow fallback runs."""
    if reason is not None:
        _log.warning("kbnet is running without its compiled kernels, which is several times slower: %s", reason)
