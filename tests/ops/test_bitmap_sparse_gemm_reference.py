"""The numpy operator: float32 activations against a product, int8 ones against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from ops_models import BLOB_KINDS, FULL_KINDS, sparse, sparse_model

from slc import ops
from slc.ops import bitmap
from slc.ops.bitmap_sparse_gemm import bitmap_sparse_gemm, quantize_activations

INTEGER_KINDS = BLOB_KINDS[1:4] + FULL_KINDS[1:]
UNIT = 2.0**-24


def quantized_by_definition(block: np.ndarray) -> tuple[list[int], np.float32]:
    """One block of a row, value by value, in scalars of float32."""
    m = max(abs(x) for x in block)
    if m == 0:
        return [0] * len(block), np.float32(0)
    with np.errstate(over="ignore"):
        inverse = np.float32(127) / m
    if np.isinf(inverse):
        return [0] * len(block), np.float32(0)
    # round() takes halves to even, like rint.
    integers = [max(-127, min(127, round(float(np.float32(x * inverse))))) for x in block]
    return integers, np.float32(m / np.float32(127))


def product_by_definition(X: np.ndarray, blob: np.ndarray) -> np.ndarray:
    """Three loops."""
    header = bitmap.read_header(blob)
    codes, scales = bitmap.decode_integers(blob)
    Y = np.zeros((X.shape[0], header.n))
    for i, row in enumerate(X):
        for begin in range(0, header.k, 64):
            q, step = quantized_by_definition(row[begin : begin + 64])
            for n in range(header.n):
                part = codes[n, begin : begin + 64].tolist()
                exact = sum(a * b for a, b in zip(q, part, strict=True))
                Y[i, n] += float(step) * scales[n, begin // header.group] * exact
    return Y


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(0, 4),
    n=st.integers(1, 9),
    k=st.integers(1, 200),
    kind=st.sampled_from(INTEGER_KINDS),
    group=st.sampled_from([64, 128]),
    density=st.sampled_from([0, 0.05, 0.5, 1]),
    spread=st.sampled_from([1e-38, 1e-3, 1.0, 1e20]),
    seed=st.integers(0, 2**32 - 1),
)
def test_int8_activations(m, n, k, kind, group, density, spread, seed) -> None:
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((m, k)) * spread).astype(np.float32)
    X *= rng.random((m, -(-k // 64))).repeat(64, axis=1)[:, :k] < 0.8  # some blocks are zero
    bias = rng.standard_normal(n).astype(np.float32) if seed % 2 else None
    blob = bitmap.encode(sparse(n, k, density, seed), group=group, **kind)
    Y = bitmap_sparse_gemm(X, blob, bias, N=n, K=k, accuracy_level=4)
    assert Y.dtype == np.float32
    exact = product_by_definition(X, blob) + (0 if bias is None else bias)
    # Rounded to float32 once; float64 sums differ in their order.
    np.testing.assert_allclose(
        Y, exact, rtol=1.01 * UNIT, atol=1e-12 * np.abs(exact).max(initial=0)
    )

    # Against float activations: half a step for each column. A float32 product of up to 127 whose
    # factors were rounded adds 127 * 3.1 * 2^-24 steps, the rounded step 127 * 2^-24.
    W = bitmap.decode(blob).astype(np.float64)
    _, step = quantize_activations(X)
    weight = np.abs(np.pad(W, ((0, 0), (0, -k % 64)))).reshape(n, -1, 64).sum(axis=2)
    slack = (0.5 + 127 * 4.2 * UNIT) * step.astype(np.float64)
    # Blocks whose inverse overflows are lost whole; subnormal steps are rounded by 2^-150.
    slack += np.where(step == 0, 127 * 2.0**-128, 127 * 2.0**-150)
    plain = X.astype(np.float64) @ W.T + (0 if bias is None else bias)
    assert np.all(np.abs(exact - plain) <= slack @ weight.T)


def test_halves_round_to_even() -> None:
    X = np.zeros((1, 70), np.float32)
    X[0, :7] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5]
    X[0, 64:66] = [-254, 5]
    q, step = quantize_activations(X)
    assert q.dtype == np.int8
    assert q.shape == (1, 128)
    assert step.tolist() == [[1, 2]]
    assert q[0, :7].tolist() == [127, 0, 2, 2, 0, -2, -126]
    assert q[0, 64:66].tolist() == [-127, 2]
    assert not q[0, 70:].any()


@pytest.mark.parametrize(
    ("peak", "vanishes"), [(0, True), (1.4e-45, True), (3.7e-37, True), (3.8e-37, False)]
)
def test_peaks_whose_inverse_overflows_vanish(peak: float, vanishes: bool) -> None:
    q, step = quantize_activations(np.full((1, 3), peak, np.float32))
    assert (q[0, :3] == (0 if vanishes else 127)).all()
    assert (step[0, 0] == 0) == vanishes


def test_the_largest_float_is_quantized() -> None:
    largest = np.finfo(np.float32).max
    q, step = quantize_activations(np.array([[largest, -largest, largest / 2]], np.float32))
    assert q[0, :2].tolist() == [127, -127]
    assert np.isfinite(step).all()


@pytest.mark.parametrize("kind", INTEGER_KINDS)
@pytest.mark.parametrize("shape", [(130,), (2, 3, 130), (0, 130)])
def test_leading_dimensions_and_float16(kind, shape) -> None:
    blob = bitmap.encode(sparse(10, 130, 0.5), **kind)
    X = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    Y = bitmap_sparse_gemm(X, blob, N=10, K=130, accuracy_level=4)
    assert Y.dtype == np.float16
    assert Y.shape == (*shape[:-1], 10)
    exact = product_by_definition(X.astype(np.float32).reshape(-1, 130), blob)
    np.testing.assert_allclose(Y.reshape(-1, 10), exact, rtol=2.0**-10, atol=2.0**-24)


@pytest.mark.parametrize("kind", BLOB_KINDS + FULL_KINDS, ids=lambda kind: "_".join(kind.values()))
@pytest.mark.parametrize("level", [0, 1])
def test_float_activations(kind, level: int) -> None:
    blob = bitmap.encode(sparse(10, 600, 0.2), **kind)
    X = np.random.default_rng(0).standard_normal((4, 600)).astype(np.float32)
    Y = bitmap_sparse_gemm(X, blob, N=10, K=600, accuracy_level=level)
    np.testing.assert_array_equal(Y, X @ bitmap.decode(blob).T)


@pytest.mark.parametrize("level", [0, 4])
def test_the_evaluator_passes_the_level(level: int) -> None:
    blob = bitmap.encode(sparse(10, 130, 0.5), "i4")
    X = np.random.default_rng(0).standard_normal((4, 130)).astype(np.float32)
    model = sparse_model(blob, 10, 130, accuracy_level=level)
    (Y,) = ReferenceEvaluator(model, new_ops=ops.reference_ops()).run(None, {"x": X})
    wanted = bitmap_sparse_gemm(X, blob, N=10, K=130, accuracy_level=level)
    other = bitmap_sparse_gemm(X, blob, N=10, K=130, accuracy_level=4 - level)
    assert np.array_equal(Y, wanted)
    assert not np.array_equal(Y, other)


@pytest.mark.parametrize(
    ("kind", "level", "message"),
    [
        (BLOB_KINDS[0], 4, "accuracy_level: got 4 with f16 values, wanted 0 or 1"),
        (BLOB_KINDS[4], 4, "accuracy_level: got 4 with a delta blob, wanted 0 or 1"),
        (BLOB_KINDS[5], 4, "accuracy_level: got 4 with a delta blob, wanted 0 or 1"),
        (FULL_KINDS[0], 4, "accuracy_level: got 4 with f16 values, wanted 0 or 1"),
        (BLOB_KINDS[1], 2, "accuracy_level: got 2, wanted 0, 1 or 4"),
    ],
)
def test_levels_that_do_not_go_with_a_blob(kind, level: int, message: str) -> None:
    blob = bitmap.encode(sparse(10, 130, 0.5), **kind)
    with pytest.raises(ValueError, match=message):
        bitmap_sparse_gemm(np.zeros((1, 130), np.float32), blob, N=10, K=130, accuracy_level=level)
