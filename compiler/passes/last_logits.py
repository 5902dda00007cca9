"""A decoder's graph gives the logits of each sequence's last token only.

    logits[B, S, V] = head(X[B, S, H])  ->  logits[B, 1, V] = head(GatherND(X, last))

    last = the last of the S positions that attention_mask has on

Rules:
  1. Nobody who generates text reads the others, and S times V of them outweigh most models: 1 GB in
     f32 of 2048 tokens and 128 256 words.
  2. onnxruntime-genai pads a batch on its right, so that "last" is for the mask to say. A mask that
     is all off there, or longer than what is there, makes it the last position.
  3. onnxruntime-genai sees by dimension 1 of the output that it is so, from GENAI_MIN on; older
     ones want the logits of every token.
  4. Left alone: a graph without an output `logits` of three dimensions whose second is open, and
     one whose path from a product to that output is not one of element-wise operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from slc.compiler.passes.lowering import add_initializer

_PRODUCTS = frozenset({"MatMul", "Gemm", "BitmapSparseGemm", "MatMulNBits"})
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Tanh", "Cast", "Where", "Identity"})
GENAI_MIN = "0.12.2"  # tests/support_matrix: 0.12.1 refuses the shape of the logits
_OPSET_MIN = 15  # Shape with a range


class LastLogits(ir.passes.InPlacePass):
    """The rules above."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Puts the selection in front of the head."""
        mask = next((v for v in model.graph.inputs if v.name == "attention_mask"), None)
        path = _path(model)
        if mask is None or not path or model.opset_imports.get("", 0) < _OPSET_MIN:
            return ir.passes.PassResult(model, False)
        head = path[-1]
        x = head.inputs[0]
        assert x is not None
        assert x.shape is not None
        selected = _last_rows(model, x, mask, head)
        head.replace_input_with(0, selected)
        for node in path:
            made = node.outputs[0]
            if made.shape is not None and len(made.shape) == 3:
                made.shape = ir.Shape([made.shape[0], 1, made.shape[2]])
        return ir.passes.PassResult(model, True)


def gives_last_logits(model: ir.Model) -> bool:
    """Whether the graph has been rewritten so."""
    output = next((v for v in model.graph.outputs if v.name == "logits"), None)
    shape = None if output is None else output.shape
    return shape is not None and len(shape) == 3 and shape[1] == 1


def _path(model: ir.Model) -> list[ir.Node]:
    """The nodes from the one that makes the logits back to the product; empty by rule 4."""
    output = next((v for v in model.graph.outputs if v.name == "logits"), None)
    if output is None or output.shape is None or len(output.shape) != 3:
        return []
    if isinstance(output.shape[1], int):
        return []
    found: list[ir.Node] = []
    value: ir.Value | None = output
    while value is not None:
        node = value.producer()
        if node is None or (value is not output and len(list(value.uses())) != 1):
            return []
        found.append(node)
        if node.op_type in _PRODUCTS:
            x = node.inputs[0]
            rank = len(x.shape) if x is not None and x.shape is not None else 0
            return found if rank == 3 else []
        moving = [v for v in node.inputs if v is not None and v.producer() is not None]
        if node.op_type not in _ELEMENTWISE or len(moving) != 1:
            return []
        value = moving[0]
    return []


def _last_rows(model: ir.Model, x: ir.Value, mask: ir.Value, head: ir.Node) -> ir.Value:
    """X[B, S, H] of the last token: [B, 1, H]."""
    assert x.shape is not None
    batch, hidden = x.shape[0], x.shape[2]

    def constant(name: str, values: list[int]) -> ir.Value:
        return add_initializer(model, name, ir.tensor(np.array(values, np.int64)))

    def made(node: ir.Node, name: str, dtype: ir.DataType, dims: Sequence[Any]) -> ir.Value:
        value: ir.Value = node.outputs[0]
        value.name, value.type = f"{head.name}/last/{name}", ir.TensorType(dtype)
        value.shape = ir.Shape(dims)
        node.name = value.name
        return value

    int64 = ir.DataType.INT64
    length = ir.node("Shape", [x], attributes={"start": 1, "end": 2})
    start = ir.node("Neg", [made(length, "length", int64, [1])])
    end, axis = constant("logits.last.end", [2**62]), constant("logits.last.axis", [1])
    tail = ir.node("Slice", [mask, made(start, "start", int64, [1]), end, axis])
    # onnxruntime's ArgMax knows int32 in every release, int64 in some.
    narrow = ir.node("Cast", [made(tail, "mask", int64, [batch, x.shape[1]])],
                     attributes={"to": ir.DataType.INT32.value})  # fmt: skip
    last = ir.node(
        "ArgMax", [made(narrow, "mask32", ir.DataType.INT32, [batch, x.shape[1]])],
        attributes={"axis": 1, "keepdims": 1, "select_last_index": 1},
    )  # fmt: skip
    depth = constant("logits.last.depth", [2])
    index = ir.node("Unsqueeze", [made(last, "position", int64, [batch, 1]), depth])
    rows = ir.node(
        "GatherND", [x, made(index, "index", int64, [batch, 1, 1])], attributes={"batch_dims": 1}
    )
    x_type = x.dtype or ir.DataType.FLOAT
    result = made(rows, "hidden", x_type, [batch, 1, hidden])
    model.graph.insert_before(head, [length, start, tail, narrow, last, index, rows])
    return result
