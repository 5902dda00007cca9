"""What Gemm adds: beta·C, as the vector that an operator's epilogue takes or as nodes behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from slc.compiler.linear import Linear
from slc.compiler.passes.lowering import add_initializer


def beta(node: ir.Node) -> float:
    """Gemm's factor on C."""
    return float(node.attributes["beta"].value) if "beta" in node.attributes else 1.0


def scaled(value: ir.Value, factor: float) -> list[ir.Node]:
    """The nodes that make beta·C, of C's own type; none when beta is 1."""
    if factor == 1.0:
        return []
    dtype = np.float32 if value.dtype is None else value.dtype.numpy()
    constant = ir.node("Constant", [], {"value": ir.tensor(np.array(factor, dtype))})
    return [constant, ir.node("Mul", [value, constant.outputs[0]])]


def gemm_bias(model: ir.Model, node: ir.Node, linear: Linear) -> ir.Value | None:
    """beta·C as a vector [N], or None when C is not a constant that is one row for all."""
    value = node.inputs[2]
    assert value is not None
    tensor = value.const_value
    if tensor is None or value.is_graph_input():
        return None
    array = tensor.numpy()
    if array.size not in (1, linear.N) or (array.ndim == 2 and array.shape[0] != 1):
        return None
    row = np.broadcast_to(array.reshape(-1), (linear.N,)).astype(np.float32)
    factor = beta(node)
    # The operator's bias is float32 whatever X is.
    if factor == 1.0 and array.shape == (linear.N,) and tensor.dtype == ir.DataType.FLOAT:
        return value
    return add_initializer(model, f"{node.name}.bias", ir.tensor(row * np.float32(factor)))
