"""An ONNX graph put together node by node: names, constants, and the few helpers that every layer needs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
"""The lowest with the reductions and splits that are used here, known to runtimes since early 2023. Later ones add
nothing to it: LayerNormalization is of 17, and Gelu (20) is recognised in its parts."""

IR_VERSION = 8  # that of the first onnx release with this opset


class Builder:
    """Collects nodes and constants; values are handled by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        return self.nodes_of(operator, 1, *inputs, **attributes)[0]

    def nodes_of(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several outputs, and return their names."""
        self._count += 1
        names = [f"{operator}_{self._count}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"{operator}_{self._count}", **attributes))
        return names

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """A named constant."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def floats(self, *values: float, shape: Sequence[int] | None = None) -> str:
        """A float32 constant, by default of one axis; equal ones are stored once."""
        return self._small(np.array(values, np.float32).reshape([len(values)] if shape is None else shape))

    def ints(self, *values: int, scalar: bool = False) -> str:
        """An int64 constant of one axis, or a scalar; equal ones are stored once."""
        return self._small(np.array(values[0] if scalar else values, np.int64))

    def _small(self, array: NDArray[Any]) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.weight(f"constant_{len(self._known)}", array)
        return self._known[key]

    def lengths(self, x: str) -> tuple[str, str]:
        """Height and width of [B,C,H,W], int64 [1] each."""
        return self.node("Shape", x, start=2, end=3), self.node("Shape", x, start=3, end=4)

    def indices(self, length: str) -> str:
        """0, 1, ..., up to a length given as int64 [1]."""
        # not Range: ONNX Runtime takes its scalar argument for one of one axis where the length is known
        ones = self.node("ConstantOfShape", length, value=helper.make_tensor("value", TensorProto.INT64, [1], [1]))
        return self.node("CumSum", ones, self.ints(0, scalar=True), exclusive=1)

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        facts: dict[str, str],
        version: str,
        defaults: Mapping[str, NDArray[Any]],
    ) -> onnx.ModelProto:
        """The whole graph, checked, with facts as its metadata; inputs with a default need not be given."""
        given = [numpy_helper.from_array(values, name) for name, values in defaults.items()]
        graph = helper.make_graph(self.nodes, "kbnet", inputs, outputs, self.constants + given)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="kbnet",
            producer_version=version,
        )
        helper.set_model_props(model, facts)
        onnx.checker.check_model(model)
        return model


def float_value(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """A float32 input or output; axes of unknown length have names."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def value(name: str, kind: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """An input or output of kind "uint8", "int64" or "bool"."""
    kinds = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    return helper.make_tensor_value_info(name, kinds[kind], list(shape))
