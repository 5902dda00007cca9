"""The tolerances themselves: correct arithmetic passes, small faults do not."""

from __future__ import annotations

import numpy as np
import pytest
from numerics import UNIT_F16, assert_within, gamma, matmul_bound, with_f16_output


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
