"""Stores embedding tables and output heads in 8 bits, by onnxruntime's own operators.

    Gather(W, ids)     -> Reshape((Cast(Gather(Q, ids)) − 128) · Gather(scales, ids)), Cast?
    MatMul(X, Wᵀ)      -> MatMulNBits(X, Q, scales; bits 8, accuracy_level)

Rules:
  1. Only Linears whose Choice is `int8` are touched.
  2. Q is u8 [N, K / group, group] with zero point 128, scales are f32 [N, K / group]: the layout of
     MatMulNBits, which Gather reads as well, so that a tied table and head share their bytes.
  3. Gather is spelt with standard operators: every onnxruntime runs them, and only the rows that
     are read cost memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from slc.compiler.budget.choice import Choice
from slc.compiler.linear import Linear
from slc.compiler.passes.lowering import F32Array, Lowering, add_initializer, nodes_by_name

ZERO_POINT = 128


class QuantizeRows(ir.passes.InPlacePass):
    """The rules above."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrites the Gathers and MatMuls of every int8 Linear."""
        nodes = nodes_by_name(model)
        tables: dict[str, tuple[ir.Value, ir.Value]] = {}
        modified = False
        for linear, choice in self._lowering.chosen("int8"):
            key = choice.shared_with or linear.name
            if key not in tables:
                tables[key] = _table(model, self._lowering, linear, choice)
            for name in linear.nodes:
                node = nodes[name]
                rewrite = _gather if linear.kind == "embedding" else _matmul
                new_nodes = rewrite(node, linear, choice, *tables[key])
                ir.convenience.replace_nodes_and_values(
                    model.graph,
                    node,
                    [node],
                    new_nodes,
                    [node.outputs[0]],
                    [new_nodes[-1].outputs[0]],
                )
                modified = True
        return ir.passes.PassResult(model, modified)


def quantize_rows(
    matrix: F32Array, group: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Rounds W: [N, K] to 8 bits with one scale per `group` columns.

    Returns:
      (Q: u8 [N, K / group, group], scales: f32 [N, K / group]); W ≈ (Q − 128)·scale, where the
      largest magnitude of a group maps to ±127.
    """
    rows, columns = matrix.shape
    blocks = matrix.reshape(rows, columns // group, group)
    scales = (np.abs(blocks).max(axis=2) / np.float32(127)).astype(np.float32)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    quantized = np.rint(blocks * inverse[:, :, None]) + ZERO_POINT
    return quantized.astype(np.uint8), scales


def _table(
    model: ir.Model, lowering: Lowering, linear: Linear, choice: Choice
) -> tuple[ir.Value, ir.Value]:
    blocks, group = linear.K // choice.group, choice.group

    def values() -> ir.TensorProtocol:
        return ir.Tensor(quantize_rows(lowering.weight(linear), group)[0])

    def scales() -> ir.TensorProtocol:
        return ir.Tensor(quantize_rows(lowering.weight(linear), group)[1])

    q_tensor = ir.LazyTensor(
        values, dtype=ir.DataType.UINT8, shape=ir.Shape([linear.N, blocks, group])
    )
    s_tensor = ir.LazyTensor(scales, dtype=ir.DataType.FLOAT, shape=ir.Shape([linear.N, blocks]))
    return (
        add_initializer(model, f"{linear.name}.int8", q_tensor),
        add_initializer(model, f"{linear.name}.scales", s_tensor),
    )


def _gather(
    node: ir.Node, linear: Linear, choice: Choice, table: ir.Value, scales: ir.Value
) -> list[ir.Node]:
    ids = node.inputs[1]
    prefix = node.name

    def make(op_type: str, inputs: list[ir.Value], suffix: str, **attributes: int) -> ir.Node:
        return ir.node(op_type, inputs, attributes, name=f"{prefix}/{suffix}")

    def constant(array: npt.NDArray[np.generic], suffix: str) -> ir.Node:
        return ir.node("Constant", [], {"value": ir.tensor(array)}, name=f"{prefix}/{suffix}")

    def shaped(value: ir.Value, tail: list[int], suffix: str) -> list[ir.Node]:
        """Reshape to the shape of ids and `tail` behind it: valid from opset 5 on."""
        end = constant(np.array(tail, np.int64), f"{suffix}_tail")
        full = make("Concat", [shape.outputs[0], end.outputs[0]], f"{suffix}_shape", axis=0)
        return [end, full, make("Reshape", [value, full.outputs[0]], suffix)]

    assert ids is not None
    shape = make("Shape", [ids], "ids_shape")
    rows = make("Gather", [table, ids], "rows", axis=0)
    real = make("Cast", [rows.outputs[0]], "real", to=int(ir.DataType.FLOAT))
    zero = constant(np.array(ZERO_POINT, np.float32), "zero_point")
    centred = make("Sub", [real.outputs[0], zero.outputs[0]], "centred")
    scale = make("Gather", [scales, ids], "scale", axis=0)
    column = shaped(scale.outputs[0], [linear.K // choice.group, 1], "scale_column")
    scaled = make("Mul", [centred.outputs[0], column[-1].outputs[0]], "scaled")
    result = shaped(scaled.outputs[0], [linear.K], "reshaped")
    nodes = [shape, rows, real, zero, centred, scale, *column, scaled, *result]
    dtype = node.outputs[0].dtype
    if dtype is not None and dtype != ir.DataType.FLOAT:
        nodes.append(make("Cast", [nodes[-1].outputs[0]], "typed", to=int(dtype)))
    return nodes


def _matmul(
    node: ir.Node, linear: Linear, choice: Choice, table: ir.Value, scales: ir.Value
) -> list[ir.Node]:
    attributes = {
        "N": linear.N,
        "K": linear.K,
        "bits": 8,
        "block_size": choice.group,
        "accuracy_level": choice.accuracy_level,
    }
    return [
        ir.node(
            "MatMulNBits",
            [node.inputs[0], table, scales],
            attributes,
            domain="com.microsoft",
            version=1,
            name=node.name,
        )
    ]
