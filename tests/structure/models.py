"""Small sources for the structure tests: a chain of Linears with ragged shapes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx_ir as ir

from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear, Refusal

WIDTHS = (24, 40, 17, 130, 33)


def chain(folder: Path, *, widths: tuple[int, ...] = WIDTHS, seed: int = 0) -> Source:
    """x [batch, widths[0]] through alternating MatMul and Gemm(transB=1), Relu between them."""
    rng = np.random.default_rng(seed)
    x = ir.Input("x", ir.Shape(["batch", widths[0]]), ir.TensorType(ir.DataType.FLOAT))
    nodes, initializers, linears = [], [], []
    h = x
    for i, (K, N) in enumerate(itertools.pairwise(widths)):
        transposed = i % 2 == 0
        W = rng.standard_normal((N, K), dtype=np.float32) / np.float32(np.sqrt(K))
        tensor = ir.tensor(np.ascontiguousarray(W.T) if transposed else W, name=f"w{i}")
        weight = ir.Value(
            name=f"w{i}", const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape
        )
        initializers.append(weight)
        attributes = {} if transposed else {"transB": 1}
        node = ir.node("MatMul" if transposed else "Gemm", [h, weight], attributes, name=f"n{i}")
        relu = ir.node("Relu", [node.outputs[0]], name=f"relu{i}")
        nodes += [node, relu]
        h = relu.outputs[0]
        linears.append(Linear(f"layer.{i}", N, K, f"w{i}", transposed, (f"n{i}",)))
    h.name = "y"
    h.type, h.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", widths[-1]])
    graph = ir.Graph(
        [x], [h], nodes=nodes, initializers=initializers, opset_imports={"": 18}, name="chain"
    )
    return Source(
        graph=ir.Model(graph, ir_version=9),
        kind="onnx",
        path=Path("chain.onnx"),
        linears=linears,
        refusals=[Refusal("tiny", "is under 1 KB: nothing to gain")],
        workdir=folder,
        find_sha256=lambda: "00ff",
    )


def weight(source: Source, linear: Linear) -> np.ndarray:
    """W f32 [N, K], a copy."""
    value = source.graph.graph.initializers[linear.weight]
    W = np.array(value.const_value.numpy())
    return np.ascontiguousarray(W.T if linear.transposed else W)


def statistics(source: Source, seed: int = 0) -> dict[str, np.ndarray]:
    """Mean squares as uneven as activations have them."""
    rng = np.random.default_rng(seed)
    return {linear.name: rng.lognormal(0, 2, linear.K) for linear in source.linears}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by relative name."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
