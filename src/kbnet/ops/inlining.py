"""The operator's Triton kernels as torch.compile sees them: launches in its graph, not a call it cannot look into.

`torch.library.triton_op` does this for an operator that is Triton kernels and nothing else, and imports triton when one
is declared. This operator has three backends and chooses for each call, so the rule is registered here, by the same
means: while AOTAutograd traces, a call that the Triton backend would run is replaced by its launches, wrapped by
`torch.library.wrap_triton`. All other calls stay whole, and so do those of exported programs, which hold no kernels.
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
    """Let torch.compile trace `launches(*tensors)` in the place of the operator where the Triton backend would run it.

    Args:
        operator: takes tensors, x and the weight under these names among them, and then the name of a backend.
        launches: the same by the Triton backend.
    """
    names = [argument.name for argument in operator._opoverload._schema.arguments]

    def traced(mode: FunctionalTensorMode, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        *tensors, backend = (given[name] for name in names)
        if not _inlines(backend, given["x"], given["weight"]):
            return mode.__torch_dispatch__(op, types, args, kwargs)
        # Its cache on disk tells compiled graphs apart by the operators' kernels, among others.
        known.triton_ops_to_kernels.setdefault(operator._qualname, triton.kernels())
        with mode, triton.tracing():
            return launches(*tensors)

    operator.register_torch_dispatch(FunctionalTensorMode, traced)


def _inlines(backend: str, x: Tensor, weight: Tensor) -> bool:
    if not triton.traceable() or choose(backend, x, weight).name != "triton":
        return False
    from torch.export._trace import custom_triton_ops_decomposition_disabled

    return not custom_triton_ops_decomposition_disabled()
