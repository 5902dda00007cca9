"""Whole operators in sessions: every variant of the sparse one, and onnxruntime's own beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from machine import copies_of
from onnx import TensorProto, helper, numpy_helper
from ops_models import sparse_model
from timing import Array, Candidate, best_of
from variants import KERNEL_GROUP, Variant, operators_for

from slc import ops

COPIES_MAX = 32
DENSE = "MatMul f32"
NBITS = (4, 8)
BLOCKS = (32, 64, 128)
GEMM_ROWS_MIN = 4  # below, a product is bound by memory
PEAK_SIDE = 512


class Sessions:
    """Makes sessions that leave each other's processor time alone.

    A session's threads spin for some 40 ms after a run; with a pool for each session, tens of them
    would spin beside the one that is timed. All sessions therefore share onnxruntime's global pool;
    versions without one in Python get pools whose threads stop spinning at the end of a run.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.shared_pool = hasattr(ort, "set_global_thread_pool_sizes")
        if self.shared_pool:
            ort.set_global_thread_pool_sizes(threads, 1)

    def __call__(self, proto: onnx.ModelProto) -> ort.InferenceSession:
        """A CPU session with the operators registered."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if self.shared_pool:
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = self.threads
            options.add_session_config_entry("session.force_spinning_stop", "1")
        ops.register(options)
        return ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def dense_model(W: Array) -> onnx.ModelProto:
    """x -> MatMul -> y in float32."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _one_node(node, W.shape, {"w": np.ascontiguousarray(W.T)})


def nbits_model(shape: tuple[int, int], bits: int, block: int) -> onnx.ModelProto:
    """x -> MatMulNBits, accuracy level 4 -> y; random codes take the time of any others."""
    n, k = shape
    rng = np.random.default_rng(0)
    blocks = -(-k // block)
    constants = {
        "w": rng.integers(0, 256, (n, blocks, block * bits // 8), np.uint8),
        "scales": np.full(n * blocks, 0.01, np.float32),
    }
    node = helper.make_node(
        "MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft",
        N=n, K=k, bits=bits, block_size=block, accuracy_level=4,
    )  # fmt: skip
    return _one_node(node, shape, constants)


def _one_node(node: Any, shape: tuple[int, ...], constants: dict[str, Array]) -> onnx.ModelProto:
    n, k = shape
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def operator_candidates(
    make: Sessions,
    m: int,
    S: Array,
    density: float | None,
    floors: dict[Variant, float],
    refuse: Callable[[str, Exception], None],
) -> list[Candidate]:
    """Every operator on X: [m, K] and S: [N, K].

    Args:
      make: makes their sessions.
      m: rows of X.
      S: the weights.
      density: of S; None: full.
      floors: seconds that the instructions of a variant take on one thread.
      refuse: called with the name of an operator that this library does not offer, and why.
    """
    X = np.random.default_rng(1).standard_normal((m, S.shape[1])).astype(np.float32)
    found = [_candidate(make, DENSE, dense_model(S), X, S.size)]
    found[0].floor_s = _dense_floor_s(make, m, S.size)
    for variant in operators_for(density):
        try:
            proto = sparse_model(variant.encode(S), *S.shape, accuracy_level=variant.accuracy_level)
            candidate = _candidate(make, variant.operator_name, proto, X, S.size)
        except Exception as error:  # whatever the encoder, or the runtime, refuses with
            refuse(variant.operator_name, error)
            continue
        candidate.nbits = variant.nbits
        floor_s = floors.get(dataclasses.replace(variant, group=KERNEL_GROUP), 0.0)
        candidate.floor_s = floor_s / make.threads
        found.append(candidate)
    for bits in NBITS:
        for block in BLOCKS:
            name = f"MatMulNBits-{bits} g{block}"
            found.append(_candidate(make, name, nbits_model(S.shape, bits, block), X, S.size))
    return found


def _candidate(
    make: Sessions, name: str, proto: onnx.ModelProto, X: Array, weights: int
) -> Candidate:
    weight_bytes = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    feed = {"x": X}
    sessions = [make(proto)]
    sessions[0].run(None, feed)  # a refusal at run time must come before the other copies
    sessions += [make(proto) for _ in range(copies_of(weight_bytes, COPIES_MAX) - 1)]

    def step(i: int) -> None:
        sessions[i].run(None, feed)

    work = X.shape[0] * weights
    return Candidate(name, weight_bytes, work, make.threads, step, len(sessions))


def _dense_floor_s(make: Sessions, m: int, weights: int) -> float:
    """Seconds of m * weights multiply-adds at the rate of a MatMul that stays in the cache."""
    if m < GEMM_ROWS_MIN:
        return 0.0
    W = np.ones((PEAK_SIDE, PEAK_SIDE), np.float32)
    session = make(dense_model(W))
    return best_of(lambda: session.run(None, {"x": W})) * m * weights / PEAK_SIDE**3
