"""A graph that computes statistics of what its Linears read, and nothing else.

Each distinct input x of a Linear gets a Reshape to [rows, K], a reduction over the rows and the
number of rows as graph outputs; the model's own outputs go, so that no logits ever leave the
session. Another statistic of x is another reduction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir

from slc.compiler.linear import Linear

Reduction = Callable[[ir.Graph, ir.Value, str], ir.Value]
"""(graph, x [rows, K] f32, name of the result) -> the statistic with its shape, nodes appended."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """The outputs that watch one activation."""

    statistic: str
    rows: str  # int64 [1]: how many vectors the statistic covers


def sum_of_squares(graph: ir.Graph, x: ir.Value, name: str) -> ir.Value:
    """Σ x² over the rows: f32 [K]."""
    if graph.opset_imports.get("", 1) >= 18:
        axes = _constant(graph, [0], f"{name}.axes")
        node = ir.node("ReduceSumSquare", [x, axes], {"keepdims": 0})
    else:
        node = ir.node("ReduceSumSquare", [x], {"axes": [0], "keepdims": 0})
    sums = _append(graph, node, name)
    assert x.shape is not None
    sums.shape = ir.Shape([x.shape[1]])
    return sums


def all_rows(graph: ir.Graph, x: ir.Value, name: str) -> ir.Value:
    """The rows themselves: f32 [rows, K]; for statistics that BLAS makes of many texts at once."""
    rows = _append(graph, ir.node("Identity", [x]), name)
    rows.shape = x.shape
    return rows


def instrument(
    model: ir.Model, linears: list[Linear], reduction: Reduction = sum_of_squares
) -> tuple[ir.Model, dict[str, list[Probe]]]:
    """A copy of `model` whose outputs are `reduction` of every Linear's input.

    Args:
      model: left unchanged.
      linears: to be watched; embeddings read indices and are left out.
      reduction: what is computed of each input.

    Returns:
      The copy, and by Linear name the probes of its nodes; a statistic of the Linear is their sum.
    """
    copy = model.clone()
    graph = copy.graph
    by_name = {node.name: node for node in graph}
    graph.outputs.clear()
    seen: dict[ir.Value, Probe] = {}
    probes: dict[str, list[Probe]] = {}
    for linear in linears:
        if linear.kind == "embedding":
            continue
        for name in linear.nodes:
            node = by_name.get(name)
            x = node.inputs[0] if node is not None else None
            if x is None:
                continue
            if x not in seen:
                seen[x] = _probe(graph, x, linear.K, f"slc.probe.{len(seen)}", reduction)
            probes.setdefault(linear.name, []).append(seen[x])
    graph.sort()
    return copy, probes


def _probe(graph: ir.Graph, x: ir.Value, K: int, name: str, reduction: Reduction) -> Probe:
    shape = _constant(graph, [-1, K], f"{name}.shape")
    rows = _append(graph, ir.node("Reshape", [x, shape]), f"{name}.x")
    wide = _append(graph, ir.node("Cast", [rows], {"to": ir.DataType.FLOAT}), f"{name}.f32")
    wide.shape, wide.type = ir.Shape([None, K]), ir.TensorType(ir.DataType.FLOAT)
    statistic = reduction(graph, wide, f"{name}.statistic")
    statistic.type = ir.TensorType(ir.DataType.FLOAT)
    sizes = _append(graph, ir.node("Shape", [rows]), f"{name}.size")
    first = _constant(graph, [0], f"{name}.first")
    count = _append(graph, ir.node("Gather", [sizes, first], {"axis": 0}), f"{name}.rows")
    count.type, count.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    graph.outputs.extend((statistic, count))
    return Probe(f"{name}.statistic", f"{name}.rows")


def _append(graph: ir.Graph, node: ir.Node, name: str) -> ir.Value:
    node.name = name
    node.outputs[0].name = name
    graph.append(node)
    return node.outputs[0]


def _constant(graph: ir.Graph, values: list[int], name: str) -> ir.Value:
    tensor = ir.tensor(values, dtype=ir.DataType.INT64, name=name)
    value = ir.Value(
        name=name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape([len(values)]),
    )
    graph.register_initializer(value)
    return value
