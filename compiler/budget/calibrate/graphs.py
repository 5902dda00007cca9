"""Graphs of many equal operators that read one X, each with a weight of its own.

What runs after another operator, on weights that have left the cache, costs what it costs in a
model; a graph of one node would time the session's overhead instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from slc.compiler.budget import operation as op
from slc.compiler.budget.operation import Operation
from slc.ops import DOMAIN, OP_VERSION, bitmap

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

_LEVELS = {"": 4, "_level1": 1}
COPIES_MIN, COPIES_MAX = 2, 64  # small weights: those of the other graphs make them cold anyway


def sparse_graphs(
    S: Array, delta: Array, layout: bitmap.Layout, cold_bytes: int
) -> Iterator[tuple[Operation, ModelProto, Feeds]]:
    """BitmapSparseGemm in every form.

    Args:
      S: [N, K] f32 for the bitmaps.
      delta: [N, K] f32 for the delta blobs.
      layout: of i4 codes on this machine.
      cold_bytes: of weights that a graph holds, about: more than the last cache.
    """
    for encoding, value_type, suffix in (
        ("bitmap", "f16", ""), ("bitmap", "i8", ""), ("bitmap", "i8", "_level1"),
        ("bitmap", "i4", ""), ("bitmap", "i4", "_level1"), ("delta", "f16", ""),
        ("delta", "i8", ""), ("full", "f16", ""), ("full", "i8", ""), ("full", "i8", "_level1"),
        ("full", "i4", ""), ("full", "i4", "_level1"),
    ):  # fmt: skip
        yield _sparse_graph(delta if encoding == "delta" else S, encoding, value_type, suffix,
                            layout, cold_bytes)  # fmt: skip


def _sparse_graph(
    S: Array, encoding: Any, value_type: Any, suffix: str, layout: bitmap.Layout, cold_bytes: int
) -> tuple[Operation, ModelProto, Feeds]:
    N, K = S.shape
    group = -(-K // 64) * 64 if encoding == "delta" else 64
    planes = value_type == "i4" and encoding == "bitmap"
    blob = bitmap.encode(S, value_type, group, encoding=encoding,
                         layout=layout if planes else "rows")  # fmt: skip
    kernel = f"{encoding}_{value_type}{suffix}"
    stored = S.size if encoding == "full" else int(np.count_nonzero(S))
    operation = op.sparse(kernel, N, K, stored, blob.nbytes)
    level = 1 if value_type == "f16" or encoding == "delta" else _LEVELS[suffix]
    attributes = {"N": N, "K": K, "accuracy_level": level}
    graph = _repeat("BitmapSparseGemm", DOMAIN, ["x"], [blob], attributes, cold_bytes,
                    {"x": _activations(K)}, N)  # fmt: skip
    return operation, *graph


def quantized_graph(
    N: int, K: int, bits: int, group: int, suffix: str, cold_bytes: int
) -> tuple[Operation, ModelProto, Feeds]:
    """MatMulNBits; random codes take the time of any others."""
    rng = np.random.default_rng(0)
    blocks = -(-K // group)
    codes = rng.integers(0, 256, (N, blocks, group * bits // 8), np.uint8)
    scales = np.full((N, blocks), 0.01, np.float32)
    attributes = {
        "N": N, "K": K, "bits": bits, "block_size": group, "accuracy_level": _LEVELS[suffix],
    }  # fmt: skip
    operation = op.quantized(f"int{bits}{suffix}", N, K, bits, group)
    return operation, *_repeat("MatMulNBits", "com.microsoft", ["x"], [codes, scales], attributes,
                               cold_bytes, {"x": _activations(K)}, N)  # fmt: skip


def dense_graph(N: int, K: int, cold_bytes: int) -> tuple[Operation, ModelProto, Feeds]:
    """MatMul in float32."""
    weight = np.random.default_rng(0).standard_normal((K, N), np.float32)
    graph = _repeat("MatMul", "", ["x"], [weight], {}, cold_bytes, {"x": _activations(K)}, N)
    return op.dense(N, K), *graph


def adapter_graphs(
    N: int, K: int, rank: int, adapter_type: str, cold_bytes: int
) -> Iterator[tuple[Operation, ModelProto, Feeds]]:
    """ConcatAdapterDown, then ConcatAdapterUp."""
    dtype = np.float16 if adapter_type == "f16" else np.int8
    kernel, itemsize = f"adapter_{adapter_type}", np.dtype(dtype).itemsize
    scaled = 1 if adapter_type == "i8" else 0  # an empty tensor is an input that is left out
    A = [_scales(scaled * rank), _scales(0), np.ones((rank, K), dtype)]  # no gate
    yield op.down(kernel, rank, K, itemsize), *_repeat(
        "ConcatAdapterDown", DOMAIN, ["x"], A, {},
        cold_bytes, {"x": _activations(K)}, rank,
    )  # fmt: skip
    B = [_scales(scaled * N), np.ones((N, rank), dtype)]
    yield op.up(kernel, N, rank, itemsize), *_repeat(
        "ConcatAdapterUp", DOMAIN, ["x", "h"], B,
        {"offset": 0}, cold_bytes, {"x": _activations(N), "h": _activations(rank)}, N,
    )  # fmt: skip


def _scales(rows: int) -> Array:
    return np.full(rows, 0.01, np.float32)


def _activations(width: int) -> Array:
    return np.random.default_rng(1).standard_normal((1, width), np.float32)


def _repeat(
    op_type: str, domain: str, inputs: list[str], weights: list[Array], attributes: dict[str, int],
    cold_bytes: int, feeds: Feeds, width: int,
) -> tuple[ModelProto, Feeds]:  # fmt: skip
    """y0, y1, … = op(inputs, weights of its own); all y are outputs, so that none is left out."""
    nodes, outputs, constants = [], [], []
    copies = cold_bytes // max(1, sum(array.nbytes for array in weights))
    for i in range(min(COPIES_MAX, max(COPIES_MIN, copies))):
        names = [f"w{i}_{j}" for j in range(len(weights))]
        if domain != DOMAIN:  # onnxruntime packs equal weights once, and would find them cached
            weights[0].flat[0] = i
        nodes.append(helper.make_node(op_type, [*inputs, *names], [f"y{i}"], name=f"node{i}",
                                      domain=domain, **attributes))  # fmt: skip
        constants += [numpy_helper.from_array(w, n) for n, w in zip(names, weights, strict=True)]
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, width]))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(array.shape))
        for name, array in feeds.items()
    ]
    graph = helper.make_graph(nodes, "graph", values, outputs, constants)
    opsets = [
        helper.make_opsetid("", 17),
        helper.make_opsetid("com.microsoft", 1),
        helper.make_opsetid(DOMAIN, OP_VERSION),
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), feeds
