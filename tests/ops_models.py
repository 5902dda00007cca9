"""Sparse matrices, one-operator ONNX models and their sessions, for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from slc import ops

Array = npt.NDArray[Any]
ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
}
# Every kind of blob for sparse matrices, as arguments of bitmap.encode.
BLOB_KINDS = [
    {"value_type": "f16"},
    {"value_type": "i8"},
    {"value_type": "i4", "layout": "rows"},
    {"value_type": "i4", "layout": "planes"},
    {"value_type": "f16", "encoding": "delta"},
    {"value_type": "i8", "encoding": "delta"},
]
FULL_KINDS = [
    {"value_type": "f16", "encoding": "full"},
    {"value_type": "i8", "encoding": "full"},
    {"value_type": "i4", "encoding": "full"},
]
# For GPUs: the numpy format and the emulated kernels alone read them.
TILE_KINDS = [
    {"value_type": "f16", "layout": "tiles"},
    {"value_type": "i8", "layout": "tiles"},
    {"value_type": "i4", "layout": "tiles"},
]


def sparse(n: int, k: int, density: float, seed: int = 0, spread: float = 1.0) -> Array:
    """float32 [n, k] with about `density` of its values kept."""
    rng = np.random.default_rng(seed)
    S = rng.standard_normal((n, k)).astype(np.float32) * np.float32(spread)
    return S * (rng.random((n, k)) < density)


def model(
    nodes: list[Any],
    inputs: dict[str, tuple[str, list[Any]]],
    output: tuple[str, str],
    constants: dict[str, Array],
    values: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """A checked model. inputs: name -> (dtype, shape); output and values: name, dtype."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], shape)
            for name, (dtype, shape) in inputs.items()
        ],
        [helper.make_tensor_value_info(output[0], ELEMENT_TYPES[output[1]], None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=[
            helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], None)
            for name, dtype in (values or {}).items()
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ops.DOMAIN, ops.OP_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def sparse_model(
    blob: Array,
    n: int,
    k: int,
    bias: Array | None = None,
    dtype: str = "float32",
    shape: list[Any] | None = None,
    **attributes: int,
) -> onnx.ModelProto:
    """x -> BitmapSparseGemm -> y."""
    constants = {"packed": blob} | ({} if bias is None else {"bias": bias})
    node = helper.make_node(
        "BitmapSparseGemm", ["x", *constants], ["y"], domain=ops.DOMAIN, N=n, K=k, **attributes
    )
    return model([node], {"x": (dtype, shape or ["m", k])}, ("y", dtype), constants)


def session(proto: onnx.ModelProto, threads: int = 2) -> ort.InferenceSession:
    """A CPU session with the operators registered."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    ops.register(options)
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
