"""Which implementation of the operator runs a call, and why another one cannot.

One predicate per backend both makes the automatic choice and, when the user asked for the backend by name, gives the
reason of the refusal.
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

    `refuses_here()` says why the backend cannot run on this machine at all, `refuses(x, weight)` why it cannot run this
    call; None means that it can.
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
"""In order of preference; the last one runs everything."""


def available_backends() -> tuple[str, ...]:
    """Names of the backends usable on this machine, the preferred one first."""
    return tuple(backend.name for backend in BACKENDS if backend.refuses_here() is None)


def choose(name: str, x: Tensor, weight: Tensor) -> Backend:
    """The backend of that name, or with "auto" the first that accepts the call.

    Raises:
        BackendError: there is no such backend, or it cannot run this call; the message says why.
    """
    for backend in BACKENDS:
        if name in ("auto", backend.name):
            reason = backend.refuses_here() or backend.refuses(x, weight)
            if reason is None:
                if backend.name == "reference" and name == "auto" and x.device.type == "cpu":
                    _say_slow(native.refuses_here())
                return backend
            if name != "auto":
                raise BackendError(f"backend {name!r} cannot run this call: {reason}; use backend='auto'")
    known = ", ".join(repr(backend.name) for backend in BACKENDS)
    raise BackendError(f"expected backend 'auto' or one of {known}, got {name!r}")


@cache
def _say_slow(reason: str | None) -> None:
    """Once a process: whoever waits should know why."""
    if reason is not None:
        _log.warning("kbnet runs without its compiled kernels, several times slower: %s", reason)
