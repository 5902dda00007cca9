"""Small graphs with our operators, and artifacts of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from slc.compiler.artifact.manifest import OpLibrary, build_manifest, write_manifest
from slc.compiler.artifact.sbom import add_sbom
from slc.compiler.artifact.writer import write_model
from slc.compiler.budget.choice import Choice
from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear, Refusal, SourceRows
from slc.ops import DOMAIN, OP_VERSION, bitmap

K, HIDDEN, N, RANK = 96, 160, 40, 6


def sparse_matrix(seed: int, rows: int, columns: int, density: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
    matrix[rng.random((rows, columns)) >= density] = 0
    return matrix


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def two_layers(
    *,
    value_type: str = "f16",
    slots: bool = False,
    level: int = 1,
    encoding: str = "bitmap",
    layout: str = "rows",
    change=lambda name, matrix: matrix,
) -> ir.Model:
    """Y = Relu(S1·X + B·A·X + b)·S2ᵀ over X: [batch, length, K].

    `level` is the accuracy_level of both sparse operators. `change` may alter a matrix before it
    is packed: how the tests plant a fault.
    """
    f32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["batch", "length", K]), type=f32)
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 18, DOMAIN: OP_VERSION}, name="two")
    rng = np.random.default_rng(7)

    def packed(name: str, seed: int, rows: int, columns: int) -> ir.Value:
        matrix = change(name, sparse_matrix(seed, rows, columns))
        blob = bitmap.encode(matrix, value_type, 64, encoding=encoding, layout=layout)
        return _initializer(graph, f"{name}.packed", blob)

    def add(op: str, inputs: list[ir.Value | None], domain: str = DOMAIN, **attributes: int):
        node = ir.node(op, inputs, attributes, domain=domain, name=f"{op}_{len(graph)}")
        node.outputs[0].name = f"{node.name}.out"
        node.outputs[0].type = f32
        graph.append(node)
        return node.outputs[0]

    bias = _initializer(graph, "bias", rng.standard_normal(HIDDEN).astype(np.float32))

    def sparse(inputs: list[ir.Value | None], rows: int, columns: int) -> ir.Value:
        return add("BitmapSparseGemm", inputs, N=rows, K=columns, accuracy_level=level)

    y0 = sparse([x, packed("first", 1, HIDDEN, K), bias], HIDDEN, K)
    down = rng.standard_normal((RANK, K)).astype(np.float16)
    up = (rng.standard_normal((HIDDEN, RANK)) / 8).astype(np.float16)
    a, b = [_initializer(graph, "A", down)], [_initializer(graph, "B", up)]
    if slots:
        a.append(_initializer(graph, "slot.A", np.zeros((0, K), np.float32)))
        b.append(_initializer(graph, "slot.B", np.zeros((HIDDEN, 0), np.float32)))
        a[1].shape, b[1].shape = ir.Shape(["rank", K]), ir.Shape([HIDDEN, "rank"])
        graph.inputs.extend([a[1], b[1]])
    h = add("ConcatAdapterDown", [x, None, None, *a])
    y1 = add("ConcatAdapterUp", [y0, h, None, *b], offset=0)
    z = add("Relu", [y1], domain="")
    y = sparse([z, packed("second", 2, N, HIDDEN)], N, HIDDEN)
    y.name, y.shape = "y", ir.Shape(["batch", "length", N])
    graph.outputs.append(y)
    return ir.Model(graph, ir_version=9)


def source_of(model: ir.Model) -> Source:
    rows = (SourceRows("first.weight", 0, HIDDEN),)
    linears = [
        Linear("first", HIDDEN, K, "first.packed", False, ("first",), sources=rows),
        Linear("second", N, HIDDEN, "second.packed", False, ("second",)),
    ]
    refusals = [Refusal("tiny", "under 1 KB")]
    return Source(
        model, "onnx", Path("somewhere/two.onnx"), linears, refusals, find_sha256=lambda: "0" * 64
    )


def write_artifact(folder: Path, model: ir.Model | None = None, *, sbom: bool = False) -> Path:
    """An artifact of `two_layers` or of another graph with its Linears.

    By itself without a bill of materials, as slc wrote them once: tests may then edit the manifest.
    """
    from slc.compiler.artifact.artifact import host_platform

    model = two_layers() if model is None else model
    folder.mkdir(parents=True, exist_ok=True)
    write_model(model, folder)
    source = source_of(model)
    choices = {
        "first": Choice("first", "bitmap", "f16", 0.5, 7680, RANK, weight_bytes=17000),
        "second": Choice("second", "dense", "f32", weight_bytes=25600, reason="for the test"),
    }
    manifest = build_manifest(
        folder,
        source=source,
        choices=choices,
        device={"name": "host", "platform": host_platform(), "ort_min": "1.17", "cores": 2},
        provider="cpu",
        options={"density": 0.5, "rank": RANK},
        memory_lines=[("weights", 42600), ("runtime", 10_000_000)],
        op_library=OpLibrary(None, "none in this test"),
        budget_bytes=50_000_000,
    )
    if sbom:
        add_sbom(folder, manifest, source)
    write_manifest(folder, manifest)
    return folder
