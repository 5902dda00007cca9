"""Nodes that read constants alone are no part of a run; readers are found through them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from slc.compiler.budget.folding import final_readers, folded_nodes
from slc.compiler.budget.memory import other_weight_bytes
from slc.compiler.budget.steps import graph_steps
from slc.compiler.linear import Linear


def _tied() -> tuple[ir.Model, ir.Value]:
    """Gather(Transpose(W), ids) -> MatMul(., W): a table tied to the head; W f32 [8, 300]."""
    ids = ir.Value(name="ids", shape=ir.Shape([1, 5]), type=ir.TensorType(ir.DataType.INT64))
    weight = ir.Value(name="W", shape=ir.Shape([8, 300]), type=ir.TensorType(ir.DataType.FLOAT))
    weight.const_value = ir.tensor(np.zeros((8, 300), np.float32), name="W")
    flip = ir.node("Transpose", [weight], attributes={"perm": [1, 0]}, name="flip")
    gather = ir.node("Gather", [flip.outputs[0], ids], name="gather")
    head = ir.node("MatMul", [gather.outputs[0], weight], name="head")
    for node, shape in ((flip, [300, 8]), (gather, [1, 5, 8]), (head, [1, 5, 300])):
        value = node.outputs[0]
        value.name, value.shape = f"{node.name}/y", ir.Shape(shape)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [ids], [head.outputs[0]], nodes=[flip, gather, head], initializers=[weight],
        opset_imports={"": 21},
    )  # fmt: skip
    return ir.Model(graph, ir_version=10), weight


def test_a_tied_table_is_counted_once() -> None:
    model, weight = _tied()
    folded = folded_nodes(model)
    assert folded == {"flip"}
    assert final_readers(weight, folded) == {"gather", "head"}
    linears = [
        Linear("table", 300, 8, "W", True, ("gather",), "embedding"),
        Linear("head", 300, 8, "W", True, ("head",), "lm_head"),
    ]
    assert other_weight_bytes(model, linears, []) == 0
    assert other_weight_bytes(model, linears[:1], []) >= 4 * 8 * 300
    shapes = {"flip/y": (300, 8), "gather/y": (1, 5, 8), "head/y": (1, 5, 300), "ids": (1, 5)}
    made = [value.name for step in graph_steps(model, shapes).steps for value in step.makes]
    assert made == ["gather/y", "head/y"]


def test_what_depends_on_an_input_runs() -> None:
    model, weight = _tied()
    model.graph.inputs.append(weight)  # overridable: no constant
    assert not folded_nodes(model)
