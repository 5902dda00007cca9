"""salr and oats, one matrix at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slc.compiler.structure import oats, salr
from slc.compiler.structure.decomposition import Decomposition, sum_squares, tail_cuts


def matrix(N: int, K: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, K), dtype=np.float32)


def moments(K: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, 1.5, K)


def sparse_matrix(W: np.ndarray, d: Decomposition, nnz: int | None = None) -> np.ndarray:
    S = np.zeros_like(W)
    S.reshape(-1)[d.index[:nnz]] = d.value[:nnz]
    return S


def square(x: np.ndarray) -> float:
    return float(np.sum(np.square(x, dtype=np.float64)))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.integers(0, 9))
def test_salr_equals_brute_force(N: int, K: int, density: float, rank: int) -> None:
    W = matrix(N, K, seed=N * 61 + K)
    d = salr.decompose_matrix(W.copy(), density=density, rank=rank)
    k = round(density * N * K)
    order = np.argsort(-np.abs(W).reshape(-1), kind="stable")[:k]
    np.testing.assert_array_equal(d.index, order)
    np.testing.assert_array_equal(d.value, W.reshape(-1)[order])
    E = W - sparse_matrix(W, d)
    U, s, Vt = np.linalg.svd(E.astype(np.float64), full_matrices=False)
    r = min(rank, N, K)
    best = square(E - (U[:, :r] * s[:r]) @ Vt[:r])
    assert len(d.A) == r
    assert square(E - d.B @ d.A) <= best + 1e-5 * square(W)
    np.testing.assert_allclose(d.singular_values, s[:r], atol=1e-4 * max(s[0], 1e-30))


@pytest.mark.parametrize(("N", "K"), [(256, 256), (128, 400)])
@pytest.mark.parametrize("rank", [1, 16, 64])
def test_salr_meets_its_theorem(N: int, K: int, rank: int) -> None:
    """The adapter leaves at most 1 − r/min(N, K) of the residual, and on noise not much less."""
    W = matrix(N, K)
    d = salr.decompose_matrix(W.copy(), density=0.5, rank=rank)
    left = d.plain.at_rank(rank) / d.plain.sparse
    assert left <= 1 - rank / min(N, K)
    # The largest singular value of i.i.d. noise is (1 + sqrt(N/K))² times the mean square or less.
    side = min(N, K) / max(N, K)
    assert left >= 1 - (1 + np.sqrt(side)) ** 2 * 1.15 * rank / min(N, K)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.integers(0, 6), st.booleans())
def test_figures_are_those_of_the_matrices(
    N: int, K: int, density: float, rank: int, calibrated: bool
) -> None:
    W = matrix(N, K, seed=N + 51 * K)
    if calibrated:
        x2 = moments(K)
        d = oats.decompose_matrix(W.copy(), x2, density=density, rank=rank, iterations=3)
        D = oats.column_scale(x2)
        assert d.index.size == N * round(density * K)
        np.testing.assert_array_equal(d.scale, D)
    else:
        d = salr.decompose_matrix(W.copy(), density=density, rank=rank)
        D = np.ones(K, np.float32)
        assert d.scale is None
    assert len(np.unique(d.index)) == d.index.size
    S = sparse_matrix(W, d)
    for figures, column in ((d.plain, np.ones(K)), (d.scaled, D.astype(np.float64))):
        total = square(W * column)
        assert figures.weight == pytest.approx(total, rel=1e-6)
        for r in range(len(d.A) + 1):
            error = square((W - S - d.B[:, :r].astype(np.float64) @ d.A[:r]) * column)
            assert abs(figures.at_rank(r) - error) <= 3e-5 * total
    for cut, tail in zip(tail_cuts(d.index.size), d.tail, strict=True):
        dropped = square((S - sparse_matrix(W, d, cut)) * D.astype(np.float64))
        assert tail == pytest.approx(dropped, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(("N", "K"), [(192, 128), (128, 192), (30, 40)])
def test_oats_beats_salr_where_activations_are_large(N: int, K: int) -> None:
    W, x2 = matrix(N, K), moments(K)
    D = oats.column_scale(x2)
    plain = salr.decompose_matrix(W.copy(), density=0.5, rank=8)
    salr_error = square((W - sparse_matrix(W, plain) - plain.B @ plain.A) * D)
    errors = [
        oats.decompose_matrix(W.copy(), x2, density=0.5, rank=8, iterations=n).scaled.at_rank(8)
        for n in (1, 4, 16, 64)
    ]
    assert errors[0] < 0.8 * salr_error
    assert errors == sorted(errors, reverse=True)  # each fourfold of alternations still helps
    assert errors[-1] < 0.9 * errors[0]


def test_oats_with_even_activations_keeps_the_largest_of_every_row() -> None:
    W = matrix(50, 60)
    d = oats.decompose_matrix(W.copy(), np.full(60, 4.0), density=0.3, rank=0)
    kept = sparse_matrix(W, d) != 0
    for row, mask in zip(np.abs(W), kept, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(np.argsort(-row)[:18]))
    np.testing.assert_allclose(sparse_matrix(W, d)[kept], W[kept], rtol=3e-7)


def test_oats_prefixes_take_the_same_from_every_row() -> None:
    W = matrix(70, 64)
    d = oats.decompose_matrix(W.copy(), moments(64), density=0.5, rank=4, iterations=5)
    for j in (1, 7, 31):
        rows = d.index[: 70 * j] // 64
        assert np.bincount(rows, minlength=70).tolist() == [j] * 70


def test_dead_columns_and_dead_models() -> None:
    W, x2 = matrix(40, 30), moments(30)
    x2[3] = 0
    for mean_squares in (x2, np.zeros(30)):
        d = oats.decompose_matrix(W.copy(), mean_squares, density=0.5, rank=3, iterations=4)
        assert np.isfinite(d.value).all()
        assert np.isfinite(d.A).all()
        assert np.isfinite(d.B).all()
        assert d.plain.at_rank(3) < d.plain.weight


@pytest.mark.parametrize("density", [0.0, 1.0])
@pytest.mark.parametrize(("N", "K"), [(1, 100), (100, 1), (1, 1), (120, 100)])
@pytest.mark.parametrize("zero", [False, True])
def test_edges(density: float, N: int, K: int, zero: bool) -> None:
    W = np.zeros((N, K), np.float32) if zero else matrix(N, K)
    for d in (
        salr.decompose_matrix(W.copy(), density=density, rank=5),
        oats.decompose_matrix(W.copy(), moments(K), density=density, rank=5, iterations=3),
        salr.decompose_matrix(W.copy(), density=density, rank=0),
    ):
        assert d.index.size == round(density * K) * N
        assert np.isfinite(d.A).all()
        assert np.isfinite(d.B).all()
        if density == 1.0:
            back = sparse_matrix(W, d) + d.B @ d.A
            np.testing.assert_allclose(back, W, atol=1e-5)


def test_density_one_rank_zero_is_the_matrix_itself() -> None:
    W = matrix(33, 47)
    d = salr.decompose_matrix(W.copy(), density=1.0, rank=0)
    np.testing.assert_array_equal(sparse_matrix(W, d), W)


def test_sum_squares_by_column() -> None:
    W, scale = matrix(300, 700), np.sqrt(moments(700)).astype(np.float32)
    assert sum_squares(W) == pytest.approx(square(W), rel=1e-12)
    assert sum_squares(W, scale) == pytest.approx(square(W.astype(np.float64) * scale), rel=1e-12)
