"""Small real graphs with their Linears, for the budget stage."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear


def mlp(sizes: tuple[int, ...], *, bias: bool = True) -> Source:
    """x [batch, length, sizes[0]] through MatMul, Add and Relu per layer, dims open by name."""
    rng = np.random.default_rng(7)
    x = ir.val("x", ir.DataType.FLOAT, ["batch", "length", sizes[0]])
    value, nodes, initializers, linears = x, [], [], []

    def constant(name: str, array: np.ndarray) -> ir.Value:
        made = ir.val(name, const_value=ir.tensor(array, name=name))
        initializers.append(made)
        return made

    def step(op: str, inputs: list[ir.Value], name: str, width: int) -> ir.Value:
        node = ir.node(op, inputs, name=name)
        output = node.outputs[0]
        output.name, output.dtype = f"{name}_out", ir.DataType.FLOAT
        output.shape = ir.Shape(["batch", "length", width])
        nodes.append(node)
        return output

    for i, (K, N) in enumerate(itertools.pairwise(sizes)):
        weight = constant(f"w{i}", rng.standard_normal((K, N)).astype(np.float32))
        value = step("MatMul", [value, weight], f"matmul{i}", N)
        linears.append(Linear(f"layer{i}", N, K, f"w{i}", True, (f"matmul{i}",)))
        if bias:
            row = constant(f"b{i}", np.zeros(N, np.float32))
            value = step("Add", [value, row], f"add{i}", N)
        value = step("Relu", [value], f"relu{i}", N)
    graph = ir.Graph(
        [x], [value], nodes=nodes, initializers=initializers, opset_imports={"": 18}, name="mlp"
    )
    return Source(ir.Model(graph, ir_version=8), "onnx", Path("mlp.onnx"), linears, [])


def table_source(vocabulary: int, width: int, *, tied: bool = False) -> Source:
    """Gather from an embedding, one square MatMul, and an lm_head, perhaps of the same weight."""
    rng = np.random.default_rng(3)
    ids = ir.val("ids", ir.DataType.INT64, ["batch", "length"])
    table = ir.val("table", const_value=ir.tensor(_normal(rng, vocabulary, width), name="table"))
    square = ir.val("square", const_value=ir.tensor(_normal(rng, width, width), name="square"))
    head = table
    initializers = [table, square]
    if not tied:
        head = ir.val("head", const_value=ir.tensor(_normal(rng, width, vocabulary), name="head"))
        initializers.append(head)
    gather = ir.node("Gather", [table, ids], name="gather")
    matmul = ir.node("MatMul", [gather.outputs[0], square], name="matmul")
    if tied:
        turned = ir.node("Transpose", [table], {"perm": [1, 0]}, name="turn")
        last = ir.node("MatMul", [matmul.outputs[0], turned.outputs[0]], name="head")
        nodes = [gather, matmul, turned, last]
    else:
        last = ir.node("MatMul", [matmul.outputs[0], head], name="head")
        nodes = [gather, matmul, last]
    for node in nodes:
        node.outputs[0].name = f"{node.name}_out"
        node.outputs[0].dtype = ir.DataType.FLOAT
    graph = ir.Graph(
        [ids], [last.outputs[0]], nodes=nodes, initializers=initializers,
        opset_imports={"": 18}, name="lm",
    )  # fmt: skip
    linears = [
        Linear("embed", vocabulary, width, "table", False, ("gather",), "embedding"),
        Linear("proj", width, width, "square", True, ("matmul",)),
        Linear("head", vocabulary, width, str(head.name), not tied, ("head",), "lm_head"),
    ]
    return Source(ir.Model(graph, ir_version=8), "onnx", Path("lm.onnx"), linears, [])


def _normal(rng: np.random.Generator, rows: int, columns: int) -> Any:
    return rng.standard_normal((rows, columns)).astype(np.float32)
