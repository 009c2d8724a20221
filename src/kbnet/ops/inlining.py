"""Shows the launches of the operator's Triton kernels to torch.compile, instead of one opaque call.

`torch.library.triton_op` does this for an operator that always runs Triton kernels, and imports triton when it declares
one. This operator selects one of three backends for each call, so the same dispatch rule is registered here directly:
while AOTAutograd traces, a call that the Triton backend runs is replaced by its launches, wrapped by
`torch.library.wrap_triton`. All other calls stay opaque, and so do those of exported programs, which hold no kernels.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._library import triton as known
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.functional_tensor import FunctionalTensorMode

from kbnet.ops import triton
from kbnet.ops.backends import choose


def show_launches(operator: CustomOpDef, launches: Callable[..., Any]) -> None:
    """Let torch.compile trace `launches(*tensors)` instead of the operator if the Triton backend runs the call.

    Args:
        operator: takes tensors, among them `x` and `weight`, and then the name of a backend.
        launches: the same function in the Triton backend.
    """
    names = [argument.name for argument in operator._opoverload._schema.arguments]

    def traced(mode: FunctionalTensorMode, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        *tensors, backend = (given[name] for name in names)
        if not _inlines(backend, given["x"], given["weight"]):
            return mode.__torch_dispatch__(op, types, args, kwargs)
        # The key of the compiler's cache includes the source of these kernels, in releases that have the table.
        getattr(known, "triton_ops_to_kernels", {}).setdefault(operator._qualname, triton.kernels())
        with mode, triton.tracing():
            return launches(*tensors)

    operator.register_torch_dispatch(FunctionalTensorMode, traced)


def _inlines(backend: str, x: Tensor, weight: Tensor) -> bool:
    if not triton.traceable() or choose(backend, x, weight).name != "triton":
        return False
    from torch.export._trace import custom_triton_ops_decomposition_disabled

    return not custom_triton_ops_decomposition_disabled()
