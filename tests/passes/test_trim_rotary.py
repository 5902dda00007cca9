"""Rotary tables are cut to the context, and only those."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from slc.compiler.passes.trim_rotary import TrimRotary


def _model(*, read_elsewhere: bool) -> ir.Model:
    def value(name: str, shape: list[int | str]) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))

    x, ids = value("x", ["b", "s", 8]), value("ids", ["b", "s"])
    tables = {}
    for name in ("cos", "sin"):
        tables[name] = value(name, [32, 4])
        array = np.arange(128, dtype=np.float32).reshape(32, 4)
        tables[name].const_value = ir.tensor(array, name=name)
    node = ir.node(
        "RotaryEmbedding", [x, ids, tables["cos"], tables["sin"]], domain="com.microsoft"
    )
    node.outputs[0].name = "y"
    nodes = [node]
    if read_elsewhere:
        nodes.append(ir.node("Identity", [tables["cos"]]))
    graph = ir.Graph(
        [x, ids], [node.outputs[0]], nodes=nodes, initializers=list(tables.values()),
        opset_imports={"": 21, "com.microsoft": 1},
    )  # fmt: skip
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(("context", "rows"), [(5, 5), (32, 32), (100, 32)])
def test_a_table_ends_where_the_context_does(context: int, rows: int) -> None:
    model = _model(read_elsewhere=False)
    assert TrimRotary(context)(model).modified == (rows < 32)
    for name in ("cos", "sin"):
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), np.arange(128.0).reshape(32, 4)[:rows])


def test_a_table_that_others_read_is_left_alone() -> None:
    model = _model(read_elsewhere=True)
    assert TrimRotary(5)(model).modified
    shapes = {name: list(v.shape or ()) for name, v in model.graph.initializers.items()}
    assert shapes == {"cos": [32, 4], "sin": [5, 4]}
