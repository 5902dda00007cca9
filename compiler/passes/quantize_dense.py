"""Stores whole weights in 8 or 4 bits, by onnxruntime's own operators.

    Gather(W, ids)     -> Reshape((Cast(codes of Gather(Q, ids)) − zero) · Gather(scales, ids))
    MatMul(X, Wᵀ)      -> MatMulNBits(X, Q, scales; bits, block_size, accuracy_level)
    Gemm(X, W, C?)     -> MatMulNBits(X, Q, scales), then + beta·C

Rules:
  1. Only Linears whose Choice is `int8` or `int4` are touched.
  2. Q is u8 [N, blocks, bytes of a block] and scales are f32 [N, blocks], the zero point is half of
     the range: the layout of MatMulNBits, which Gather reads as well, so that a tied table and head
     share their bytes. Of 4 bits the first of two codes lies in the low half of a byte.
  3. Gather is spelt with standard operators: every onnxruntime runs them, and only the rows that
     are read cost memory.
  4. Gemm's alpha is folded into the scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from slc.compiler.block_tensor import BlockTensor, Piece
from slc.compiler.budget.choice import Choice
from slc.compiler.linear import Linear
from slc.compiler.passes.gemm_bias import beta, scaled
from slc.compiler.passes.lowering import Lowering, add_initializer, nodes_by_name
from slc.compiler.structure.dense_codes import BITS_OF, DenseCodes, block_bytes


class QuantizeDense(ir.passes.InPlacePass):
    """The rules above."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrites the Gathers, MatMuls and Gemms of every int8 and int4 Linear."""
        nodes = nodes_by_name(model)
        tables: dict[str, tuple[ir.Value, ir.Value]] = {}
        modified = False
        for linear, choice in self._lowering.chosen("int8", "int4"):
            key = choice.shared_with or linear.name
            if key not in tables:
                tables[key] = _table(model, self._lowering, linear, choice)
            for name in linear.nodes:
                rewrite = _gather if linear.kind == "embedding" else _matmul
                _replace(model, nodes[name], rewrite(nodes[name], linear, choice, *tables[key]))
                modified = True
        return ir.passes.PassResult(model, modified)


def _replace(model: ir.Model, node: ir.Node, new_nodes: list[ir.Node]) -> None:
    ir.convenience.replace_nodes_and_values(
        model.graph, node, [node], new_nodes, [node.outputs[0]], [new_nodes[-1].outputs[0]]
    )


def _table(
    model: ir.Model, lowering: Lowering, linear: Linear, choice: Choice
) -> tuple[ir.Value, ir.Value]:
    bits = BITS_OF[choice.encoding]
    blocks = -(-linear.K // choice.group)
    kept: dict[int, npt.NDArray[np.float32]] = {}  # scales that came with values just written

    def values() -> Iterator[Piece]:
        for index, codes in enumerate(lowering.code_pieces(linear, choice)):
            yield partial(_values, codes, index, kept)

    def scales() -> Iterator[Piece]:
        for index, codes in enumerate(lowering.code_pieces(linear, choice)):
            yield partial(_scales, codes, index, kept, np.float32(linear.alpha))

    shape = [linear.N, blocks, block_bytes(bits, choice.group)]
    q_tensor = BlockTensor(values, ir.DataType.UINT8, ir.Shape(shape))
    s_tensor = BlockTensor(scales, ir.DataType.FLOAT, ir.Shape([linear.N, blocks]))
    return (
        add_initializer(model, f"{linear.name}.{choice.encoding}", q_tensor),
        add_initializer(model, f"{linear.name}.scales", s_tensor),
    )


def _values(
    make: Callable[[], DenseCodes], index: int, kept: dict[int, npt.NDArray[np.float32]]
) -> npt.NDArray[np.uint8]:
    codes = make()
    kept[index] = codes.scales
    return codes.packed()


def _scales(
    make: Callable[[], DenseCodes], index: int, kept: dict[int, npt.NDArray[np.float32]],
    alpha: np.float32,
) -> npt.NDArray[np.float32]:  # fmt: skip
    scales = kept.pop(index, None)
    return alpha * (make().scales if scales is None else scales)


class _Nodes:
    """The nodes that replace one node, in order."""

    def __init__(self, prefix: str) -> None:
        self.made: list[ir.Node] = []
        self._prefix = prefix

    def add(
        self, op_type: str, inputs: list[ir.Value], suffix: str, **attributes: int | str
    ) -> ir.Value:
        """A node and its only output."""
        node = ir.node(op_type, inputs, attributes, name=f"{self._prefix}/{suffix}")
        self.made.append(node)
        return node.outputs[0]

    def constant(self, array: npt.NDArray[np.generic], suffix: str) -> ir.Value:
        """A Constant's output."""
        node = ir.node("Constant", [], {"value": ir.tensor(array)}, name=f"{self._prefix}/{suffix}")
        self.made.append(node)
        return node.outputs[0]

    def shaped(self, value: ir.Value, like: ir.Value, tail: list[int], suffix: str) -> ir.Value:
        """Reshape to the shape `like` and `tail` behind it: valid from opset 5 on."""
        end = self.constant(np.array(tail, np.int64), f"{suffix}_tail")
        full = self.add("Concat", [like, end], f"{suffix}_shape", axis=0)
        return self.add("Reshape", [value, full], suffix)


def _gather(
    node: ir.Node, linear: Linear, choice: Choice, table: ir.Value, scales: ir.Value
) -> list[ir.Node]:
    ids = node.inputs[1]
    assert ids is not None
    make = _Nodes(str(node.name))
    bits, blocks = BITS_OF[choice.encoding], -(-linear.K // choice.group)
    shape = make.add("Shape", [ids], "ids_shape")
    rows = make.add("Gather", [table, ids], "rows", axis=0)
    if bits == 4:
        rows = _halves(make, rows, shape, [blocks, choice.group])
    real = make.add("Cast", [rows], "real", to=int(ir.DataType.FLOAT))
    zero = make.constant(np.array(2 ** (bits - 1), np.float32), "zero_point")
    centred = make.add("Sub", [real, zero], "centred")
    scale = make.add("Gather", [scales, ids], "scale", axis=0)
    column = make.shaped(scale, shape, [blocks, 1], "scale_column")
    product = make.add("Mul", [centred, column], "scaled")
    result = make.shaped(product, shape, [linear.K], "reshaped")
    dtype = node.outputs[0].dtype
    if dtype is not None and dtype != ir.DataType.FLOAT:
        make.add("Cast", [result], "typed", to=int(dtype))
    return make.made


def _halves(make: _Nodes, rows: ir.Value, shape: ir.Value, tail: list[int]) -> ir.Value:
    """Both codes of every byte, in order; by shifts, which u8 has in every onnxruntime."""
    four = make.constant(np.array(4, np.uint8), "four")
    left = make.add("BitShift", [rows, four], "low_left", direction="LEFT")
    low = make.add("BitShift", [left, four], "low", direction="RIGHT")
    high = make.add("BitShift", [rows, four], "high", direction="RIGHT")
    pairs = [*tail[:-1], tail[-1] // 2, 1]
    columns = [
        make.shaped(low, shape, pairs, "low_column"),
        make.shaped(high, shape, pairs, "high_column"),
    ]
    both = make.add("Concat", columns, "both", axis=-1)
    return make.shaped(both, shape, tail, "codes")


def _matmul(
    node: ir.Node, linear: Linear, choice: Choice, table: ir.Value, scales: ir.Value
) -> list[ir.Node]:
    attributes = {
        "N": linear.N,
        "K": linear.K,
        "bits": BITS_OF[choice.encoding],
        "block_size": choice.group,
        "accuracy_level": choice.accuracy_level,
    }
    base = ir.node(
        "MatMulNBits", [node.inputs[0], table, scales], attributes,
        domain="com.microsoft", version=1, name=node.name,
    )  # fmt: skip
    addend = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if addend is None:
        return [base]
    nodes = [base, *scaled(addend, beta(node))]
    last = nodes[-1].outputs[0] if len(nodes) > 1 else addend
    return [*nodes, ir.node("Add", [base.outputs[0], last], name=f"{node.name}/bias")]
