"""The operators in real sessions: values, types, shapes, refusals, threads, the exported symbol."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numerics import assert_within, level4_bound, matmul_bound, with_f16_output
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from ops_models import BLOB_KINDS, FULL_KINDS, model, session, sparse, sparse_model

from slc import ops
from slc.ops import bitmap
from slc.ops.bitmap_sparse_gemm import quantize_activations

DTYPES = ["float32", "float16"]
KINDS = BLOB_KINDS + FULL_KINDS


def takes_int8_activations(kind: dict[str, str]) -> bool:
    """Whether accuracy_level 4 is legal for such a blob."""
    return kind["value_type"] != "f16" and kind.get("encoding") != "delta"


def random(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "int8":
        return rng.integers(-127, 128, shape).astype(np.int8)
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [0, 1, 2, 3, 4, 13, 300])
def test_sparse_gemm(dtype, kind, m) -> None:
    n, k = 70, 200
    blob = bitmap.encode(sparse(n, k, 0.5), **kind)
    W, bias, X = bitmap.decode(blob), random((n,)), random((m, k), dtype)
    proto = sparse_model(blob, n, k, bias, dtype)
    Y = session(proto).run(None, {"x": X})[0]
    assert Y.dtype == X.dtype
    exact = X.astype(np.float64) @ W.T.astype(np.float64) + bias
    bound = matmul_bound(X, W, bias)
    bound = with_f16_output(bound, exact) if dtype == "float16" else bound
    assert_within(Y, exact, bound, f"{dtype} {kind} m {m}")
    reference = ReferenceEvaluator(proto, new_ops=ops.reference_ops()).run(None, {"x": X})[0]
    loose = matmul_bound(X, W, bias, lanes=1)  # numpy promises no order
    loose = with_f16_output(loose, exact) if dtype == "float16" else loose
    assert_within(reference, exact, loose, "the reference")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [k for k in KINDS if takes_int8_activations(k)])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 13, 300])
def test_sparse_gemm_with_int8_activations(dtype, kind, m) -> None:
    n, k = 70, 200
    blob = bitmap.encode(sparse(n, k, 0.5), **kind)
    W, bias, X = bitmap.decode(blob), random((n,)), random((m, k), dtype)
    proto = sparse_model(blob, n, k, bias, dtype, accuracy_level=4)
    q, step = quantize_activations(X.astype(np.float32))
    rounded = (q * np.repeat(step.astype(np.float64), 64, axis=1))[:, :k]
    exact = rounded @ W.T.astype(np.float64) + bias
    bound = level4_bound(X, W, bias)
    bound = with_f16_output(bound, exact) if dtype == "float16" else bound
    assert_within(session(proto).run(None, {"x": X})[0], exact, bound, f"{kind} m {m}")
    reference = ReferenceEvaluator(proto, new_ops=ops.reference_ops()).run(None, {"x": X})[0]
    assert_within(reference, exact, bound, "the reference")


@pytest.mark.parametrize("shape", [(1, 1, 130), (2, 3, 130), (2, 0, 130), (130,), (2, 1, 3, 130)])
def test_leading_dimensions(shape) -> None:
    S = sparse(10, 130, 0.5)
    run = session(sparse_model(bitmap.encode(S), 10, 130, shape=list(shape)))
    assert run.run(None, {"x": random(shape)})[0].shape == (*shape[:-1], 10)


@pytest.mark.parametrize(("n", "k", "m"), [(2048, 2048, 1), (2048, 1024, 130), (8, 2048, 700)])
def test_big_shapes_use_every_thread_and_give_the_same_bits(n, k, m) -> None:
    blob = bitmap.encode(sparse(n, k, 0.3))
    X, W = random((m, k)), bitmap.decode(blob)
    results = [
        session(sparse_model(blob, n, k), threads).run(None, {"x": X})[0] for threads in (1, 2, 3)
    ]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert_within(results[0], X.astype(np.float64) @ W.T, matmul_bound(X, W), f"{n} {k} {m}")


def test_uneven_rows_are_all_computed() -> None:
    S = sparse(1000, 512, 0.02)
    S[3] = 1
    S[990:] = 2
    blob = bitmap.encode(S)
    X = random((2, 512))
    Y = session(sparse_model(blob, 1000, 512)).run(None, {"x": X})[0]
    assert_within(Y, X.astype(np.float64) @ bitmap.decode(blob).T, matmul_bound(X, S))


def test_a_delta_blob_has_no_level_4() -> None:
    blob = bitmap.encode(sparse(70, 200, 0.05), "i8", encoding="delta")
    with pytest.raises(Exception, match="accuracy_level: got 4 with a delta blob, wanted 0 or 1"):
        session(sparse_model(blob, 70, 200, accuracy_level=4))


@pytest.mark.parametrize("kind", KINDS)
def test_four_concurrent_runs_on_one_session(kind) -> None:
    blob = bitmap.encode(sparse(500, 300, 0.5), **kind)
    level = 4 if takes_int8_activations(kind) else 1
    run = session(sparse_model(blob, 500, 300, dtype="float16", accuracy_level=level))
    inputs = [random((m, 300), "float16", m) for m in (1, 2, 5, 64)]
    wanted = [run.run(None, {"x": X})[0] for X in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            results = pool.map(lambda X: run.run(None, {"x": X})[0], inputs)
            assert all(np.array_equal(a, b) for a, b in zip(results, wanted, strict=True))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"N": 71}, "N: got 70 in packed, wanted 71"),
        ({"K": 199}, "K: got 200 in packed"),
        ({"accuracy_level": 2}, "accuracy_level: got 2, wanted 0, 1 or 4"),
        ({"accuracy_level": 4}, "accuracy_level: got 4 with f16 values, wanted 0 or 1"),
    ],
)
def test_sparse_gemm_refuses_attributes(attributes, message) -> None:
    blob = bitmap.encode(sparse(70, 200, 0.5))
    n, k = attributes.pop("N", 70), attributes.pop("K", 200)
    with pytest.raises(Exception, match=message):
        session(sparse_model(blob, n, k, **attributes))


def test_sparse_gemm_needs_its_attributes() -> None:
    proto = sparse_model(bitmap.encode(sparse(70, 200, 0.5)), 70, 200)
    del proto.graph.node[0].attribute[:]
    with pytest.raises(Exception, match="attribute"):
        session(proto)


def test_packed_must_be_constant() -> None:
    node = helper.make_node("BitmapSparseGemm", ["x", "p"], ["y"], domain=ops.DOMAIN, N=7, K=8)
    ops_graph = model(
        [node], {"x": ("float32", [1, 8]), "p": ("int8", [448])}, ("y", "float32"), {}
    )
    ops_graph.graph.input[1].type.tensor_type.elem_type = 2  # uint8
    with pytest.raises(Exception, match="packed: got an input known only at run time"):
        session(ops_graph)


@pytest.mark.parametrize(
    ("X", "bias", "message"),
    [
        (np.zeros((2, 9), np.float32), None, r"X: got float32 \[2, 9\], wanted .*\[..., 8\]"),
        (np.zeros((2, 8), np.float32), np.zeros(6, np.float32), r"bias: got float32 \[6\]"),
    ],
)
def test_sparse_gemm_refuses_inputs(X, bias, message) -> None:
    proto = sparse_model(bitmap.encode(sparse(7, 8, 0.5)), 7, 8, bias, shape=["m", "k"])
    with pytest.raises(Exception, match=message):
        session(proto).run(None, {"x": X})


def adapter_model(
    dtype: str,
    ranks_and_types: list[tuple[int, str]],
    n: int,
    k: int,
    gated: bool = False,
    live: bool = False,
    offset: int = 0,
):
    """x, y0 -> Down -> Up -> y, the exact adapters in float64 and the model's constants."""
    A = [random((r, k), t, i) for i, (r, t) in enumerate(ranks_and_types)]
    B = [random((n, r), t, 9 + i) for i, (r, t) in enumerate(ranks_and_types)]
    extra = random((offset, k), "float32", 99)
    rank_sum = offset + sum(r for r, _ in ranks_and_types)
    i8_rows = sum(r for r, t in ranks_and_types if t == "int8")
    i8_count = sum(t == "int8" for _, t in ranks_and_types)
    constants = {f"A{i}": a for i, a in enumerate(A)} | {f"B{i}": b for i, b in enumerate(B)}
    constants["extra"] = extra
    down_scale, up_scale, gate = "", "", ""
    if i8_count:
        constants |= {
            "sa": 0.01 * random((i8_rows,), seed=5),
            "sb": 0.01 * random((n * i8_count,), seed=6),
        }
        down_scale, up_scale = "sa", "sb"
    if gated:
        constants["gate"], gate = random((rank_sum,), seed=7), "gate"
    names = range(len(A))
    nodes = [
        helper.make_node(
            "ConcatAdapterDown",
            ["x", down_scale, gate, "extra", *(f"A{i}" for i in names)],
            ["h"],
            domain=ops.DOMAIN,
        ),
        helper.make_node(
            "ConcatAdapterUp",
            ["y0", "h", up_scale, *(f"B{i}" for i in names)],
            ["y"],
            domain=ops.DOMAIN,
            offset=offset,
        ),
    ]
    inputs = {"x": (dtype, ["m", k]), "y0": (dtype, ["m", n])}
    if live:
        for i in names:
            inputs |= {
                f"A{i}": (A[i].dtype.name, [f"r{i}", k]),
                f"B{i}": (B[i].dtype.name, [n, f"r{i}"]),
            }
    return model(nodes, inputs, ("y", dtype), constants, {"h": dtype}), constants


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("m", [0, 1, 4, 50])
@pytest.mark.parametrize(
    "ranks_and_types",
    [
        [(4, "float32")],
        [(3, "int8"), (5, "float16"), (0, "float32"), (8, "int8")],
        [(0, "float16")],
        [(0, "int8"), (1, "int8")],
    ],
)
@pytest.mark.parametrize("offset", [0, 3])
def test_adapters_match_the_reference(dtype, gated, m, ranks_and_types, offset) -> None:
    n, k = 90, 70
    proto, _ = adapter_model(dtype, ranks_and_types, n, k, gated, offset=offset)
    feeds = {"x": random((m, k), dtype, 1), "y0": random((m, n), dtype, 2)}
    actual = session(proto).run(None, feeds)[0]
    wanted = ReferenceEvaluator(proto, new_ops=ops.reference_ops()).run(None, feeds)[0]
    assert actual.dtype == wanted.dtype == np.dtype(dtype)
    assert_within(actual, wanted.astype(np.float64), adapter_bound(proto, feeds), "adapters")


def adapter_bound(proto, feeds) -> np.ndarray:
    """Twice the bound of one evaluation, since both sides round."""
    values = {
        t.name: np.abs(numpy_helper.to_array(t).astype(np.float64)) for t in proto.graph.initializer
    }
    down, up = proto.graph.node
    A = np.concatenate(list(rows(values, down, "sa")))
    B = np.concatenate(list(rows(values, up, "sb")), axis=1)
    offset = up.attribute[0].i
    X, Y0 = np.abs(feeds["x"].astype(np.float64)), np.abs(feeds["y0"].astype(np.float64))
    gate = values.get("gate", np.ones(A.shape[0]))
    H = X @ A.T * gate
    H_error = matmul_bound(X, A) * gate
    if feeds["x"].dtype == np.float16:
        H_error = with_f16_output(H_error, H)
    H, H_error = (h[:, offset : offset + B.shape[1]] for h in (H, H_error))
    bound = matmul_bound(H + H_error, B, Y0) + H_error @ B.T
    if feeds["x"].dtype == np.float16:
        bound = with_f16_output(bound, Y0 + H @ B.T)
    return 2 * bound


def rows(values, node, scale_name):
    """|adapter| of a node, int8 ones times their scales."""
    begin = 0
    for name in node.input[3:]:
        adapter = values[name]
        is_i8 = scale_name in values and np.all(adapter == np.rint(adapter)) and adapter.size
        if is_i8:
            adapter = adapter * values[scale_name][begin : begin + adapter.shape[0], None]
            begin += adapter.shape[0]
        elif adapter.size == 0 and scale_name == "sb" and name in {"B0"} and "sb" in values:
            begin += adapter.shape[0] if values["sb"].size > adapter.shape[0] else 0
        yield adapter


def test_adapters_are_replaced_in_a_live_session() -> None:
    proto, _ = adapter_model("float32", [(0, "float16"), (2, "float32")], 20, 30, live=True)
    run = session(proto)
    X, Y0 = random((3, 30), seed=1), random((3, 20), seed=2)
    for rank in (0, 1, 5, 9):
        A, B = random((rank, 30), "float16", 3), random((20, rank), "float16", 4)
        feeds = {"x": X, "y0": Y0, "A0": A, "B0": B}
        constant = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        H = np.concatenate([X @ A.T.astype(np.float32), X @ constant["A1"].T], axis=1)
        wanted = Y0 + H @ np.concatenate([B.astype(np.float32), constant["B1"]], axis=1).T
        np.testing.assert_allclose(run.run(None, feeds)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"A0": np.zeros((2, 29), np.float32)}, r"adapter 1: got float32 \[2, 29\], wanted"),
        ({"B0": np.zeros((19, 2), np.float32)}, r"adapter 0: got float32 \[19, 2\], wanted"),
        ({"B0": np.zeros((20, 9), np.float32)}, "H: got .* wanted a last dimension of at least"),
        ({"y0": np.zeros((4, 20), np.float32)}, "H: got .* wanted the type and leading dimensions"),
    ],
)
def test_adapters_refuse(feeds, message) -> None:
    proto, _ = adapter_model("float32", [(2, "float32")], 20, 30, live=True)
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_value")
    run = session(proto)
    with pytest.raises(Exception, match=message):
        run.run(None, {"x": random((3, 30)), "y0": random((3, 20)), **feeds})


def test_int8_adapters_need_their_scales() -> None:
    proto, _ = adapter_model("float32", [(2, "int8")], 20, 30)
    proto.graph.node[0].input[1] = ""
    with pytest.raises(Exception, match=r"scale: got nothing, wanted float32 \[2\]"):
        session(proto).run(None, {"x": random((3, 30)), "y0": random((3, 20))})


def test_one_exported_symbol(fresh_library) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    command = ["nm", "-D", "--defined-only", str(fresh_library)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["RegisterCustomOps"]


def test_the_kernels_can_be_held_back() -> None:
    """SLC_ISA lowers the instruction set, an unknown word changes nothing."""
    code = (
        "import numpy as np; from slc.ops import bitmap; "
        "from ops_models import session, sparse, sparse_model; "
        "b = bitmap.encode(sparse(64, 512, .5)); "
        "X = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32); "
        "print(session(sparse_model(b, 64, 512)).run(None, {'x': X})[0].tobytes().hex())"
    )
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, os.path.dirname(here), os.environ.get("PYTHONPATH", "")])
    results = {}
    for isa in ("generic", "avx2", "avx512", "neon", "no such thing", ""):
        results[isa] = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"SLC_ISA": isa, "PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    assert results["no such thing"] == results[""]
    W = bitmap.decode(bitmap.encode(sparse(64, 512, 0.5)))
    X = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    for isa, printed in results.items():
        Y = np.frombuffer(bytes.fromhex(printed), np.float32)[None]
        assert_within(Y, X.astype(np.float64) @ W.T, matmul_bound(X, W), isa)


def test_registering_needs_no_onnx_and_no_slc_compiler() -> None:
    code = (
        "import sys, slc.ops, onnxruntime; slc.ops.register(onnxruntime.SessionOptions()); "
        "assert not {'onnx', 'torch', 'slc.compiler'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_library_is_one_helpful_sentence(monkeypatch) -> None:
    monkeypatch.setenv("SLC_OPS_LIBRARY", "/nowhere/libslc_ops.so")
    with pytest.raises(ops.LibraryNotFoundError, match="SLC_OPS_LIBRARY names no operator library"):
        ops.library_path()
