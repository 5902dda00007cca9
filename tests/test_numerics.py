"""The tolerances themselves: correct arithmetic passes, small faults do not."""

from __future__ import annotations

import numpy as np
import pytest
from numerics import (
    UNIT_F16,
    assert_within,
    gamma,
    level4_bound,
    matmul_bound,
    with_f16_output,
)
from ops_models import sparse

from slc.ops import bitmap
from slc.ops.bitmap_sparse_gemm import bitmap_sparse_gemm, quantize_activations


def product(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(k)
    X = rng.standard_normal((3, k)).astype(np.float32)
    W = rng.standard_normal((5, k)).astype(np.float32)
    return X, W, X.astype(np.float64) @ W.astype(np.float64).T


def test_gamma_grows_with_the_number_of_operations() -> None:
    assert gamma(1) == pytest.approx(2.0**-24, rel=1e-6)
    assert gamma(1000) > 1000 * 2.0**-24


@pytest.mark.parametrize("k", [1, 2, 64, 4096])
def test_sequential_float32_sums_pass(k: int) -> None:
    X, W, exact = product(k)
    actual = np.zeros((3, 5), np.float32)
    for column in range(k):
        actual += X[:, column, None] * W[None, :, column]
    assert_within(actual, exact, matmul_bound(X, W, lanes=1))


@pytest.mark.parametrize("k", [2, 64, 4096])
def test_one_lost_term_fails(k: int) -> None:
    X, W, exact = product(k)
    wrong = exact.copy()
    wrong[1, 2] -= 0.5  # terms of two normal variables average 0.64
    with pytest.raises(AssertionError, match=r"worst at \(1, 2\)"):
        assert_within(wrong, exact, matmul_bound(X, W))


def test_float16_accumulation_fails() -> None:
    X, W, exact = product(512)
    terms = X[:, None, :].astype(np.float16) * W[None].astype(np.float16)
    actual = terms.sum(axis=-1, dtype=np.float16)
    with pytest.raises(AssertionError):
        assert_within(actual, exact, with_f16_output(matmul_bound(X, W), exact))


def test_float16_output_may_round_once_but_not_twice() -> None:
    X, W, exact = product(64)
    bound = with_f16_output(matmul_bound(X, W), exact)
    assert_within(exact.astype(np.float16), exact, bound)
    with pytest.raises(AssertionError):
        assert_within(exact * (1 + 3 * UNIT_F16), exact, bound)


def level4(k: int, spread: float = 1.0) -> tuple[np.ndarray, ...]:
    """(X, W, bias, the exact result, terms [m, n, blocks] of float32 that add up to it)."""
    rng = np.random.default_rng(k)
    X = rng.standard_normal((3, k)).astype(np.float32) * np.float32(spread)
    bias = rng.standard_normal(5).astype(np.float32)
    blob = bitmap.encode(sparse(5, k, 0.5), "i4")
    codes, scales = bitmap.decode_integers(blob)
    q, step = quantize_activations(X)
    exact, terms = np.tile(bias.astype(np.float64), (3, 1)), []
    for block in range(step.shape[1]):
        columns = slice(64 * block, 64 * block + 64)
        part = codes[:, columns].astype(np.int64)
        sums = q[:, columns][:, : part.shape[1]].astype(np.int64) @ part.T
        scale = step[:, block, None] * scales[:, block].astype(np.float32)
        terms.append(sums.astype(np.float32) * scale)
        exact += sums * step[:, block, None].astype(np.float64) * scales[:, block]
    reference = bitmap_sparse_gemm(X, blob, bias, N=5, K=k, accuracy_level=4)
    np.testing.assert_allclose(reference, exact, rtol=1e-6, atol=1e-6 * spread)
    return X, bitmap.decode(blob), bias, exact, np.stack(terms, axis=2)


@pytest.mark.parametrize("k", [1, 64, 200, 4096])
def test_level4_sums_block_by_block_pass(k: int) -> None:
    X, W, bias, exact, terms = level4(k)
    actual = np.tile(bias, (3, 1))
    for block in range(terms.shape[2]):
        actual += terms[:, :, block]
    assert_within(actual, exact, level4_bound(X, W, bias))


@pytest.mark.parametrize("k", [64, 200, 4096])
def test_level4_with_one_lost_product_fails(k: int) -> None:
    X, W, bias, exact, _ = level4(k)
    q, step = quantize_activations(X)
    row, column = 2, int(np.argmax(np.abs(W[2])))
    lost = float(q[1, column]) * float(step[1, column // 64]) * float(W[row, column])
    assert abs(lost) > 0.01
    wrong = exact.copy()
    wrong[1, row] -= lost
    with pytest.raises(AssertionError, match=r"worst at \(1, 2\)"):
        assert_within(wrong, exact, level4_bound(X, W, bias))


def test_level4_is_not_the_float_result() -> None:
    """Nor may a kernel pass that skips the rounding to int8, or rounds to other integers."""
    X, W, bias, exact, _ = level4(200)
    with pytest.raises(AssertionError):
        assert_within(X.astype(np.float64) @ W.T + bias, exact, level4_bound(X, W, bias))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_fails(bad: float) -> None:
    X, W, exact = product(8)
    actual = exact.copy()
    actual[0, 0] = bad
    with pytest.raises(AssertionError):
        assert_within(actual, exact, matmul_bound(X, W))


def test_another_shape_fails() -> None:
    X, W, exact = product(8)
    with pytest.raises(AssertionError, match="shape"):
        assert_within(exact[:2], exact, matmul_bound(X, W))
