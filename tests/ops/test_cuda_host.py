"""libslc_ops_cuda.so's host code, and onnxruntime's glue over it, with a driver that is faked.

The kernels run in the emulator; device memory ends at pages that nobody may touch, so that a read
outside a damaged blob ends the process.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_emulator import Plan
from cuda_host import A100, H100, ORIN_NANO, Host, build_host, cuda_process
from cuda_interface import CudaError
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import assert_within, matmul_bound, with_f16_output
from onnx import helper
from ops_models import model, sparse, sparse_model

from slc import ops
from slc.ops import bitmap

VALUES = ["f16", "i8", "i4"]
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cuda-host")
    build_host(made)
    return made


@pytest.fixture(scope="module")
def call(folder: Path) -> Iterator[Call]:
    with cuda_process(folder, H100) as made:
        yield made


def _product(
    host: Host, blob: np.ndarray, X: np.ndarray, n: int, plan: Plan | None = None
) -> np.ndarray:
    packed = host.put(blob)
    try:
        return host.gemm(host.open(packed, blob.size), X, n, plan)
    finally:
        host.free(packed)


@pytest.mark.parametrize("gpu", [H100, A100, ORIN_NANO])
def test_products_on_every_kind_of_gpu(folder: Path, gpu: str) -> None:
    """By the plan that the host chooses there: clusters, warps, rows of X."""
    with cuda_process(folder, gpu) as call:
        for seed, (value_type, m) in enumerate([("f16", 1), ("i8", 20), ("i4", 3), ("f16", 70)]):
            blob = bitmap.encode(sparse(70, 600, 0.5, seed), value_type, 64, layout="tiles")
            W = bitmap.decode(blob).astype(np.float64)
            X = np.random.default_rng(seed).standard_normal((m, 600)).astype(np.float16)
            exact = X.astype(np.float64) @ W.T
            bound = with_f16_output(matmul_bound(X, W, lanes=1), exact)
            assert_within(call(_product, blob, X, 70), exact, bound, f"{gpu} {value_type} {m}")


def test_a_wide_product_where_there_is_wgmma(folder: Path, call: Call) -> None:
    blob = bitmap.encode(sparse(70, 300, 0.5), "f16", layout="tiles")
    W = bitmap.decode(blob).astype(np.float64)
    X = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float16)
    exact = X.astype(np.float64) @ W.T
    bound = with_f16_output(matmul_bound(X, W, lanes=1), exact)
    assert_within(call(_product, blob, X, 70, Plan(256, 8, 2)), exact, bound, "wide")
    with cuda_process(folder, A100) as on_a100, pytest.raises(CudaError, match="plan: got 256"):
        on_a100(_product, blob, X, 70, Plan(256, 8))


def test_a_plan_that_no_kernel_has_is_refused(call: Call) -> None:
    blob = bitmap.encode(sparse(20, 100, 0.5), "f16", layout="tiles")
    X = np.ones((1, 100), np.float16)
    for plan in (Plan(24, 8), Plan(8, 17), Plan(8, 8, 16), Plan(128, 8), Plan(8, 0)):
        with pytest.raises(CudaError, match="plan: got"):
            call(_product, blob, X, 20, plan)


def _opened(host: Host, blob: np.ndarray, size: int, m: int) -> str | None:
    """Why a blob is refused; one that is not is multiplied with, which must not read outside it."""
    packed = host.put(blob)
    try:
        opened = host.open(packed, size)
    except CudaError as reason:
        return str(reason)
    else:
        n, k = (int(x) for x in blob[8:24].view(np.uint64))
        host.gemm(opened, np.ones((m, k), np.float16), n)
        return None
    finally:
        host.free(packed)


FIELDS = {  # name: offset, type, wrong values
    "magic": (0, "u4", [0, 0x41434C53]),
    "version": (4, "u2", [0, 2, 65535]),
    "encoding": (6, "u1", [0, 2, 3, 4]),
    "value_type": (7, "u1", [0, 4, 255]),
    "n": (8, "u8", [0, 1, 34, 49, 2**40, 2**63, 2**64 - 1]),
    "k": (16, "u8", [0, 1, 64, 199, 257, 2**63, 2**64 - 1]),
    "nnz": (24, "u8", [0, 1, 2**62, 2**64 - 1]),
    "group": (32, "u4", [1, 63, 64, 2**32 - 64]),
    "tile_rows": (36, "u2", [0, 1, 65535]),
    "layout": (38, "u1", [0, 1, 3]),
    "reserved": (39, "u1", [1]),
    "values_offset": (40, "u8", [0, 64, 2**63, 2**64 - 1]),
    "total_bytes": (48, "u8", [0, 64, 2**63, 2**64 - 1]),
    "exponent": (56, "i4", [-150, 128, -(2**31)]),
}


@pytest.mark.parametrize("value_type", VALUES)
@pytest.mark.parametrize("name", FIELDS)
def test_every_wrong_field_of_the_header_is_refused(call: Call, name: str, value_type: str) -> None:
    """Sizes that leave every block as it is (N 36 of 35) are seen by the checksum alone."""
    offset, dtype, wrongs = FIELDS[name]
    for wrong in wrongs:
        blob = bitmap.encode(sparse(35, 200, 0.5), value_type, 128, layout="tiles")
        field = blob[offset : offset + np.dtype(dtype).itemsize].view(dtype)
        field[0] = np.array(wrong, np.dtype(dtype))
        reason = call(_opened, blob, blob.size, 1)
        assert reason is not None, wrong
        assert "packed blob" in reason


def test_other_value_types_are_refused_by_their_sizes(call: Call) -> None:
    for was in (1, 2, 3):
        for code in {1, 2, 3} - {was}:
            blob = bitmap.encode(sparse(35, 200, 0.5), VALUES[was - 1], layout="tiles")
            blob[7] = code
            assert call(_opened, blob, blob.size, 1) is not None


@settings(max_examples=150, deadline=None)
@given(
    value_type=st.sampled_from(VALUES),
    n=st.integers(1, 40),
    k=st.integers(1, 200),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    data=st.data(),
)
def test_damage_anywhere_is_an_error_and_never_a_fault(
    call: Call, value_type: str, n: int, k: int, density: float, data: st.DataObject
) -> None:
    """Bytes of any section, a length that is not the blob's, or both."""
    blob = bitmap.encode(sparse(n, k, density, n), value_type, 64, layout="tiles")
    header = bitmap.read_header(blob)
    values_at = header.values_offset
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.one_of(st.integers(0, 63), st.integers(64, blob.size - 1)))
        blob[at] = data.draw(st.integers(0, 255))
    size = data.draw(st.sampled_from([blob.size] * 3 + [blob.size // 2, 64, 63, 0]))
    whole = blob.copy()
    reason = call(_opened, blob[: max(size, 1)], size, data.draw(st.sampled_from([1, 70])))
    # What structure does not show (values, scales, a mask's bit moved) the checksum alone would.
    fresh = bitmap.encode(sparse(n, k, density, n), value_type, 64, layout="tiles")
    if size == blob.size and np.array_equal(whole[:values_at], fresh[:values_at]):
        assert reason is None
    if size != blob.size:
        assert reason is not None


def test_a_mask_of_another_count_is_an_error_in_a_session(call: Call) -> None:
    """The sentence comes through onnxruntime as its own error."""
    blob = bitmap.encode(sparse(35, 200, 0.5), "f16", layout="tiles")
    at = bitmap.read_header(blob).sections.where
    blob[at] ^= 1
    said = call(_session_error, sparse_model(blob, 35, 200).SerializeToString())
    assert "BitmapSparseGemm (CUDA)" in said
    assert "mask bits: got" in said or "starts" in said


def _session(host: Host, model: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.register_custom_ops_library(str(host.folder / "libslc_ops_cuda_on_cpu.so"))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _session_error(host: Host, model: bytes) -> str:
    try:
        _session(host, model)
    except Exception as error:  # onnxruntime's classes of errors are many
        return str(error)
    return ""


def _session_run(host: Host, model: bytes, feeds: dict[str, np.ndarray]) -> tuple[Any, int, int]:
    session = _session(host, model)
    host.taken()
    found = session.run(None, feeds)[0]
    return found, *host.taken()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_sessions_run_the_cuda_operators(call: Call, dtype: Any) -> None:
    """cuda_ops.cc: types, shapes, batches, the bias."""
    blob = bitmap.encode(sparse(35, 200, 0.5), "i8", layout="tiles")
    X = np.random.default_rng(0).standard_normal((2, 3, 200)).astype(np.float16).astype(dtype)
    bias = np.arange(35, dtype=np.float32)
    proto = sparse_model(blob, 35, 200, bias, np.dtype(dtype).name, ["a", "b", 200])
    made = proto.SerializeToString()
    found, launches, _ = call(_session_run, made, {"x": X})
    W = bitmap.decode(blob).astype(np.float64)
    exact = X.astype(np.float64) @ W.T + bias
    bound = matmul_bound(X.reshape(6, 200), W, bias, lanes=1).reshape(exact.shape)
    assert_within(found, exact, with_f16_output(bound, exact) if dtype is np.float16 else bound)
    assert launches == 1


def _adapters(host: Host, ranks: list[int], n: int, k: int, m: int) -> Any:
    """H, Y and its bound, for adapters of these ranks; what Down and Up launched and read."""
    rng = np.random.default_rng(0)  # the same matrices however they are cut into adapters
    whole_A = rng.standard_normal((sum(ranks), k)).astype(np.float16)
    whole_B = rng.standard_normal((n, sum(ranks))).astype(np.float16)
    X = rng.standard_normal((m, k)).astype(np.float16)
    Y0 = rng.standard_normal((m, n)).astype(np.float16)
    cuts = np.cumsum(ranks)[:-1]
    host.taken()
    H = host.down(X, np.split(whole_A, cuts))
    down = host.taken()
    Y = host.up(Y0, H, [np.ascontiguousarray(one) for one in np.split(whole_B, cuts, axis=1)])
    bound = matmul_bound(H, whole_B, Y0, lanes=1)
    return H, Y, with_f16_output(bound, Y.astype(np.float64)), down, host.taken()


@pytest.mark.parametrize("m", [1, 8, 40])
def test_many_adapters_cost_what_one_of_their_rank_does(call: Call, m: int) -> None:
    """One launch of Down and one of Up, and at most 1.1 times the bytes; equal results of Down."""
    n, k = 96, 256
    H1, Y1, bound, down1, up1 = call(_adapters, [64], n, k, m)
    for ranks in ([32, 32], [16] * 4, [8] * 8, [40, 20, 4]):
        H, Y, _, down, up = call(_adapters, ranks, n, k, m)
        np.testing.assert_array_equal(H, H1)
        assert_within(Y, Y1.astype(np.float64), 2 * bound)  # each is within one of what is exact
        for one, many in ((down1, down), (up1, up)):
            assert (one[0], many[0]) == (1, 1)
            assert many[1] <= 1.1 * one[1], ranks


def _captured(host: Host, blob: np.ndarray, X: np.ndarray, n: int, plan: Plan | None) -> Any:
    """A product recorded into a graph and replayed with another X; then a check while recording."""
    driver = host.driver
    packed = host.put(blob)
    opened = host.open(packed, blob.size)
    Y = np.zeros((len(X), n), np.float16)
    x, y = host.put(np.zeros_like(X)), host.put(Y)
    args = [
        ctypes.byref(opened), ctypes.c_void_p(x), 0, None, ctypes.c_void_p(y),
        ctypes.c_int64(len(X)), None,
    ]  # fmt: skip
    host.taken()
    driver.cuStreamBeginCapture_v2(None, 0)
    host.call("bitmap_sparse_gemm", *args)
    graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
    driver.cuStreamEndCapture(None, ctypes.byref(graph))
    driver.cuGraphInstantiateWithFlags(ctypes.byref(ready), graph, ctypes.c_uint64(0))
    assert host.taken()[0] == 0  # nothing has run yet
    ctypes.memmove(x, X.ctypes.data, X.nbytes)
    driver.cuGraphLaunch(ready, None)
    driver.cuStreamBeginCapture_v2(None, 0)
    try:
        host.open(packed, blob.size)
        refused = ""
    except CudaError as reason:
        refused = str(reason)
    driver.cuStreamEndCapture(None, ctypes.byref(graph))
    return host.get(y, Y), refused


def test_products_can_be_captured_in_a_graph(call: Call) -> None:
    """Nothing in them allocates or waits: the fake driver refuses that while it records."""
    blob = bitmap.encode(sparse(35, 700, 0.5), "f16", layout="tiles")
    for m in (1, 70):
        X = np.random.default_rng(m).standard_normal((m, 700)).astype(np.float16)
        found, refused = call(_captured, blob, X, 35, None)
        np.testing.assert_array_equal(found, call(_product, blob, X, 35))
        assert "CAPTURE_UNSUPPORTED" in refused  # so that the test can fail


def test_gpu_check_runs_to_its_end(folder: Path, tmp_path: Path) -> None:
    """Every part of the script, over the fake driver, within seconds."""
    fake = folder / "fake-driver"
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(fake), "SLC_FAKE_GPU": ORIN_NANO, "PYTHON": sys.executable,
        "SLC_CUBLAS": str(fake / "libcuda.so.1"), "DRY": "1", "SECONDS_CORRECT": "2",
        "SECONDS_TIME": "20", "SECONDS_TUNE": "4",
        "SLC_CUDA_LIBRARY": str(folder / "libslc_ops_cuda.so"),
    }  # fmt: skip
    script = Path(__file__).resolve().parents[1] / "bench" / "gpu_check.sh"
    done = subprocess.run(
        [str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found["device"] == "fake sm_87"
    assert found["correct"]["failed"] == 0
    assert found["correct"]["cases"] > 0
    timed = {(r["values"], r["m"]) for r in found["time"]["results"]}
    assert timed == {*itertools.product(VALUES, (1, 70))}
    assert all("ratio" in r for r in found["time"]["results"])
    assert {one["adapters"] for one in found["time"]["adapters"]} == {1, 2, 4, 8}
    assert found["tune"]["loss"] >= 1
    text = (tmp_path / "gpu_check.md").read_text()
    assert "gpu_table.h here: `{87, " in text


def test_gpu_check_finds_a_wrong_product(folder: Path, tmp_path: Path) -> None:
    """So that a clean run means something: values that are not those of the reference."""
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(folder / "fake-driver"), "SLC_FAKE_GPU": ORIN_NANO,
        "SLC_FAKE_WRONG": "slc_stream_f16_half_8", "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    script = Path(__file__).resolve().parents[1] / "bench" / "gpu_check.py"
    done = subprocess.run(
        [sys.executable, str(script), "correct", "--few", "--seconds", "3", "--library",
         str(folder / "libslc_ops_cuda.so"), "--out", str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "f16" in done.stdout
    assert "of the bound" in done.stdout


@pytest.mark.parametrize(("count", "launches"), [(3, 2), (17, 4)])
def test_adapters_in_a_session(call: Call, count: int, launches: int) -> None:
    """Through onnxruntime: one launch of Down and one of Up for up to 16 adapters."""
    rng = np.random.default_rng(count)
    n, k, m, rank = 24, 40, 3, 4
    A = {f"A{i}": rng.standard_normal((rank, k)).astype(np.float16) for i in range(count)}
    B = {f"B{i}": rng.standard_normal((n, rank)).astype(np.float16) for i in range(count)}
    X = rng.standard_normal((m, k)).astype(np.float16)
    Y0 = rng.standard_normal((m, n)).astype(np.float16)
    nodes = [
        helper.make_node("ConcatAdapterDown", ["x", "", "", *A], ["h"], domain=ops.DOMAIN),
        helper.make_node("ConcatAdapterUp", ["y0", "h", "", *B], ["y"], domain=ops.DOMAIN),
    ]
    inputs = {"x": ("float16", ["m", k]), "y0": ("float16", ["m", n])}
    made = model(nodes, inputs, ("y", "float16"), A | B, {"h": "float16"}).SerializeToString()
    found, launched, _ = call(_session_run, made, {"x": X, "y0": Y0})
    assert launched == launches
    whole_A, whole_B = np.concatenate(list(A.values())), np.concatenate(list(B.values()), axis=1)
    X64, A64, B64, Y64 = (one.astype(np.float64) for one in (X, whole_A, whole_B, Y0))
    H = X64 @ A64.T
    H_bound = with_f16_output(matmul_bound(X, whole_A), H)
    exact = Y64 + H @ B64.T
    bound = matmul_bound(H + H_bound, whole_B, Y0) + H_bound @ np.abs(B64).T
    for _ in range(launches // 2):  # each Up rounds Y once; halves of sums that are not the last
        bound = with_f16_output(bound, np.abs(Y64) + np.abs(H) @ np.abs(B64).T)
    assert_within(found, exact, bound)
