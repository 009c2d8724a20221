"""Builds an ONNX graph node by node: names, constants, and a few helpers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
"""The lowest opset with the reductions and splits used here, supported by runtimes since early 2023. Later ones bring
no benefit: LayerNormalization came with 17, and runtimes recognize the parts of Gelu (20)."""

IR_VERSION = 8  # of the first onnx release with this opset


class Builder:
    """Collects nodes and constants. Values are referred to by name."""

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
        """Add a named constant, and return its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def floats(self, *values: float, shape: Sequence[int] | None = None) -> str:
        """Add a float32 constant, one-dimensional by default, and return its name. Equal constants are stored once."""
        return self._small(np.array(values, np.float32).reshape([len(values)] if shape is None else shape))

    def ints(self, *values: int, scalar: bool = False) -> str:
        """Add an int64 constant, one-dimensional or a scalar, and return its name. Equal constants are stored once."""
        return self._small(np.array(values[0] if scalar else values, np.int64))

    def _small(self, array: NDArray[Any]) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.weight(f"constant_{len(self._known)}", array)
        return self._known[key]

    def lengths(self, x: str) -> tuple[str, str]:
        """Add nodes for the height and width of [B,C,H,W], int64 [1] each."""
        return self.node("Shape", x, start=2, end=3), self.node("Shape", x, start=3, end=4)

    def indices(self, length: str) -> str:
        """Add nodes for 0, 1, ..., length - 1, where `length` is int64 [1]."""
        # Not Range: ONNX Runtime treats its scalar argument as one-dimensional if the length is known.
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
        """Return the checked graph, with `facts` as its metadata. Inputs with a default are optional."""
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
    """Declare a float32 input or output; names stand for dynamic axes."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def value(name: str, kind: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """Declare an input or output with the dtype "uint8", "int64" or "bool"."""
    kinds = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    return helper.make_tensor_value_info(name, kinds[kind], list(shape))
