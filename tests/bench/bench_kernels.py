"""Time every kernel of kernels.inc, and the operator against onnxruntime's own, over shape files.

    python tests/bench/bench_kernels.py [--shapes FILE...] [--threads 2] [--seconds 2] [--json FILE]

Kernels run on one thread through the test library; operators run in sessions of --threads threads.
Weights are cold: copies of more than 64 MB in all take turns. All candidates of a shape are
interleaved in one loop, so that a noisy neighbour hits them alike; the table gives the median and
the fastest tenth. Gw/s counts N*K weights a row of X; GB/s counts the bytes of the weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from native_kernels import DENSE_DTYPES, NativeKernels, build, pad_columns  # noqa: E402
from ops_models import session, sparse_model  # noqa: E402

from slc.ops import bitmap  # noqa: E402

COLD_BYTES = 64 << 20
COPIES_MAX = 24
ADAPTER_RANK = 64
Array = npt.NDArray[Any]
Step = Callable[[int], Any]  # runs one copy, by number


@dataclass
class Candidate:
    """One thing to time on one shape."""

    name: str
    weight_bytes: int
    weights: int
    threads: int
    step: Step
    copies: int


@dataclass
class Timing:
    """One row of the table."""

    shape: str
    name: str
    threads: int
    runs: int
    median_us: float
    fastest_tenth_us: float
    fastest_tenth_gw_s: float
    fastest_tenth_gb_s: float


def copies_of(weight_bytes: int) -> int:
    return max(1, min(COPIES_MAX, -(-COLD_BYTES // weight_bytes)))


def kernel_candidates(kernels: NativeKernels, m: int, S: Array) -> list[Candidate]:
    """Every sparse kernel that takes m rows, on one thread."""
    op = "sparse_gemv" if m <= 3 else "sparse_gemm"
    X = pad_columns(np.random.default_rng(1).standard_normal((m, S.shape[1])).astype(np.float32))
    Y = np.empty((m, S.shape[0]), np.float32)
    found = []
    for name in kernels.names(op):
        blob = bitmap.encode(S, name.split("_")[2])  # type: ignore[arg-type]
        blobs = [blob.copy() for _ in range(copies_of(blob.nbytes))]
        views = [kernels.open(copy) for copy in blobs]

        def step(
            i: int, name: str = name, views: list[int] = views, keep: list[Array] = blobs
        ) -> None:
            kernels.sparse_into(name, views[i], X, None, Y)

        found.append(Candidate(name, blob.nbytes, m * S.size, 1, step, len(views)))
    return found


def adapter_candidates(kernels: NativeKernels, m: int, k: int) -> list[Candidate]:
    """Every adapter kernel with A: [ADAPTER_RANK, k], on one thread."""
    X = np.ones((m, k), np.float32)
    found = []
    for name in kernels.names("adapter_dot"):
        A = np.ones((ADAPTER_RANK, k), DENSE_DTYPES[name.split("_")[2]])

        def step(_: int, name: str = name, A: Array = A) -> None:
            kernels.dense(name, A, X)

        found.append(Candidate(name, A.nbytes, m * A.size, 1, step, 1))
    return found


def dense_model(S: Array) -> Any:
    """x -> MatMul -> y in float32."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return one_node(node, S, {"w": np.ascontiguousarray(S.T)})


def nbits_model(S: Array, bits: int) -> Any:
    """x -> MatMulNBits (block 32, accuracy level 4) -> y; random codes take the same time."""
    n, k = S.shape
    rng = np.random.default_rng(0)
    blocks = -(-k // 32)
    constants = {
        "w": rng.integers(0, 256, (n, blocks, 4 * bits)).astype(np.uint8),
        "scales": np.full(n * blocks, 0.01, np.float32),
    }
    node = helper.make_node(
        "MatMulNBits",
        ["x", *constants],
        ["y"],
        domain="com.microsoft",
        K=k,
        N=n,
        bits=bits,
        block_size=32,
        accuracy_level=4,
    )
    return one_node(node, S, constants)


def one_node(node: Any, S: Array, constants: dict[str, Array]) -> Any:
    n, k = S.shape
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def session_candidates(m: int, S: Array, threads: int) -> list[Candidate]:
    """The operator and onnxruntime's own, each in its sessions."""
    n, k = S.shape
    X = np.random.default_rng(1).standard_normal((m, k)).astype(np.float32)
    blobs = {value: bitmap.encode(S, value) for value in ("f16", "i8")}  # type: ignore[arg-type]
    models = {
        f"BitmapSparseGemm {value}": (sparse_model(blob, n, k), blob.nbytes)
        for value, blob in blobs.items()
    }
    models["MatMul f32"] = (dense_model(S), 4 * S.size)
    for bits in (4, 8):
        models[f"MatMulNBits-{bits} level 4"] = (
            nbits_model(S, bits),
            S.size * bits // 8 + S.size // 8,
        )
    found = []
    for name, (proto, weight_bytes) in models.items():
        sessions = [session(proto, threads) for _ in range(min(8, copies_of(weight_bytes)))]

        def step(i: int, sessions: list[Any] = sessions) -> None:
            sessions[i].run(None, {"x": X})

        found.append(Candidate(name, weight_bytes, m * S.size, threads, step, len(sessions)))
    return found


def time_interleaved(shape: str, candidates: list[Candidate], seconds: float) -> list[Timing]:
    """Rounds over all candidates until each had `seconds` on average."""
    for candidate in candidates:
        candidate.step(0)
    times: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    end = time.perf_counter() + seconds * len(candidates)
    turn = 0
    while time.perf_counter() < end or turn < 5:
        for candidate in candidates:
            begin = time.perf_counter()
            candidate.step(turn % candidate.copies)
            times[candidate.name].append(time.perf_counter() - begin)
        turn += 1
    return [timing(shape, candidate, times[candidate.name]) for candidate in candidates]


def timing(shape: str, candidate: Candidate, seconds: list[float]) -> Timing:
    ordered = np.sort(seconds)
    tenth = float(ordered[: max(1, len(ordered) // 10)].mean())
    return Timing(
        shape,
        candidate.name,
        candidate.threads,
        len(seconds),
        float(np.median(ordered)) * 1e6,
        tenth * 1e6,
        candidate.weights / tenth / 1e9,
        candidate.weight_bytes / tenth / 1e9,
    )


def bench_shape(kernels: NativeKernels, line: str, threads: int, seconds: float) -> list[Timing]:
    m, n, k, density = (float(word) if "." in word else int(word) for word in line.split())
    rng = np.random.default_rng(0)
    S = rng.standard_normal((n, k), np.float32) * (rng.random((n, k), np.float32) < density)
    candidates = kernel_candidates(kernels, m, S) + adapter_candidates(kernels, m, k)
    rows = time_interleaved(line, candidates, seconds / 4)
    return rows + time_interleaved(line, session_candidates(m, S, threads), seconds)


def print_rows(rows: list[Timing]) -> None:
    dense = next(row for row in rows if row.name == "MatMul f32").fastest_tenth_us
    print(f"\nM N K density = {rows[0].shape}")
    print(
        f"{'':32}{'threads':>8}{'median us':>12}{'tenth us':>12}{'Gw/s':>8}{'GB/s':>8}"
        f"{'x MatMul':>10}"
    )
    for row in rows:
        ratio = f"{dense / row.fastest_tenth_us:10.2f}" if row.threads > 1 else ""
        print(
            f"{row.name:32}{row.threads:8}{row.median_us:12.1f}{row.fastest_tenth_us:12.1f}"
            f"{row.fastest_tenth_gw_s:8.2f}{row.fastest_tenth_gb_s:8.2f}{ratio}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parent / "shapes" / "default.txt"
    parser.add_argument("--shapes", type=Path, nargs="+", default=[default])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each candidate")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), "slc_ops_testing")
        kernels = NativeKernels(Path(folder) / "libslc_ops_testing.so")
        rows: list[Timing] = []
        for path in arguments.shapes:
            lines = [line.strip() for line in path.read_text().splitlines()]
            for line in [line for line in lines if line and not line.startswith("#")]:
                rows += bench_shape(kernels, line, arguments.threads, arguments.seconds)
                print_rows([row for row in rows if row.shape == line])
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
