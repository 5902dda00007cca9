"""The one-shot method in the Hessian's metric, and rounding in it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slc.compiler.errors import RequestError
from slc.compiler.structure import gptq, hessian, oats, salr
from slc.compiler.structure.decomposition import Decomposition
from slc.compiler.structure.metric import Metric
from slc.compiler.structure.rounding import (
    Grid,
    feedback_factor,
    round_by_descent,
    round_by_feedback,
)
from slc.ops import bitmap


def correlated(rows: int, K: int, seed: int = 0) -> np.ndarray:
    """Inputs [rows, K] whose columns are of few common factors and of unequal size, f32."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((rows, max(1, K // 4))) @ rng.standard_normal((max(1, K // 4), K))
    x = (common + 0.3 * rng.standard_normal((rows, K))) * rng.lognormal(0, 1, K)
    return np.asarray(x, np.float32)


def gram(x: np.ndarray) -> np.ndarray:
    return (x.T @ x) / np.float32(len(x))


def dense(d: Decomposition, shape: tuple[int, int]) -> np.ndarray:
    S = np.zeros(shape, np.float32)
    S.reshape(-1)[d.index] = d.value
    return S + d.B @ d.A


def loss(E: np.ndarray, H: np.ndarray) -> float:
    return float(np.sum((E.astype(np.float64) @ H.astype(np.float64)) * E))


@pytest.mark.parametrize(("N", "K"), [(96, 64), (64, 160)])
def test_it_beats_what_sees_less_of_the_inputs(N: int, K: int) -> None:
    """At equal density and rank: the whole Hessian, then its diagonal, then none of it."""
    W = np.random.default_rng(1).standard_normal((N, K), dtype=np.float32)
    H = gram(correlated(4 * K, K))
    size = {"density": 0.5, "rank": 6}
    whole = dense(hessian.decompose_matrix(W.copy(), H, **size, iterations=150), W.shape)
    mean_squares = np.diag(H).astype(np.float64)
    diagonal = dense(oats.decompose_matrix(W.copy(), mean_squares, **size), W.shape)
    none = dense(salr.decompose_matrix(W.copy(), **size), W.shape)
    losses = [loss(W - What, H) for What in (whole, diagonal, none)]
    # With three quarters of the directions nearly empty, compensation is worth far more than 2x.
    assert losses[0] < losses[1] / 2 < losses[2] / 2


def test_it_recovers_what_is_exactly_sparse_plus_low_rank() -> None:
    rng = np.random.default_rng(0)
    S = np.where(rng.random((80, 60)) < 0.1, rng.choice([-6.0, 6.0], (80, 60)), 0)
    W = (S + rng.standard_normal((80, 3)) @ rng.standard_normal((3, 60))).astype(np.float32)
    H = gram(rng.standard_normal((2000, 60)).astype(np.float32))
    d = hessian.decompose_matrix(
        W.copy(), H, density=np.count_nonzero(S) / S.size, rank=3, iterations=200
    )
    assert set(d.index.tolist()) == set(np.flatnonzero(S).tolist())
    # Conjugate gradients and subspace passes stop early; f32 alone would leave 1e-7 of |W|².
    assert loss(W - dense(d, W.shape), H) <= 1e-6 * loss(W, H)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.5, 1.0]),
       st.integers(0, 9))  # fmt: skip
def test_any_shape_density_and_rank(N: int, K: int, density: float, rank: int) -> None:
    W = np.random.default_rng(N * 41 + K).standard_normal((N, K), dtype=np.float32)
    H = gram(correlated(3 * K, K, seed=K))
    d = hessian.decompose_matrix(W.copy(), H, density=density, rank=rank, iterations=20)
    assert d.index.size == len(np.unique(d.index)) == round(density * (N * K))
    assert len(d.A) == min(rank, N, K)
    assert all(np.isfinite(array).all() for array in (d.value, d.A, d.B))
    importance = np.abs(d.value) * d.scale[d.index % K]
    assert (np.diff(importance) <= 1e-6 * importance.max(initial=0)).all()
    # 0 is a candidate of every step, so no result is worse than it, but for f32 and the damping.
    assert loss(W - dense(d, W.shape), H) <= 1.02 * loss(W, H) + 1e-6


@pytest.mark.parametrize("degenerate", ["zero weight", "no input", "one column lit"])
def test_degenerate_matrices(degenerate: str) -> None:
    W = np.random.default_rng(0).standard_normal((12, 20), dtype=np.float32)
    H = np.zeros((20, 20), np.float32)
    if degenerate == "zero weight":
        W[:], H[:] = 0, np.eye(20)
    elif degenerate == "one column lit":
        H[3, 3] = 5.0
    d = hessian.decompose_matrix(W.copy(), H, density=0.3, rank=2, iterations=10)
    assert d.index.size == round(0.3 * W.size)
    assert all(np.isfinite(array).all() for array in (d.value, d.A, d.B))


def test_refitting_on_a_support_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((9, 16)).astype(np.float32)
    metric = Metric.of(gram(correlated(64, 16)), damping=0.05)
    mask = rng.random((9, 16)) < 0.5
    S = hessian.refit(X, mask, np.zeros_like(X), metric, steps=60)
    H = metric.H.astype(np.float64)
    for row, target, keep in zip(S, X, mask, strict=True):
        exact = np.linalg.solve(H[np.ix_(keep, keep)], (H @ target)[keep])
        # The condition number is below 16 / 0.05; f32 residuals of 1e-6 grow by no more than it.
        np.testing.assert_allclose(row[keep], exact, atol=5e-4)
        assert not row[~keep].any()


def brute_force(t: np.ndarray, H: np.ndarray, levels: list[float]) -> float:
    return min(
        loss((t - np.array(q, np.float32))[None], H)
        for q in itertools.product(levels, repeat=t.size)
    )


def test_rounding_in_the_metric_beats_rounding_to_nearest() -> None:
    rng = np.random.default_rng(3)
    K, group = 128, 64
    T = rng.standard_normal((64, K)).astype(np.float32)
    H = Metric.of(gram(correlated(1000, K, seed=2))).H
    scale = np.abs(T).reshape(64, -1, group).max(axis=2) / 7
    grid = Grid(scale.astype(np.float32), np.arange(-7, 8, dtype=np.float32), group)
    nearest = np.stack([grid.nearest(T[:, j], j) for j in range(K)], axis=1)
    feedback = round_by_feedback(T, feedback_factor(H), grid)
    descent = round_by_descent(T, feedback, H, grid)
    for Q in (descent, feedback):
        ratio = Q / np.repeat(grid.scale, group, axis=1)
        np.testing.assert_allclose(ratio, np.rint(ratio), atol=1e-5)
        assert np.abs(ratio).max() < 7.5
    assert loss(T - feedback, H) < 0.5 * loss(T - nearest, H)
    assert loss(T - descent, H) < loss(T - feedback, H)


def test_rounding_of_a_few_weights_against_all_there_are() -> None:
    rng = np.random.default_rng(0)
    levels = [-2.0, -1.0, 0.0, 1.0, 2.0]
    optimal = 0
    for seed in range(16):
        H = Metric.of(gram(correlated(40, 5, seed=seed))).H
        t = rng.uniform(-2, 2, (1, 5)).astype(np.float32)
        grid = Grid(np.ones((1, 1), np.float32), np.array(levels, np.float32), 64)
        best = brute_force(t[0], H, levels)
        for start in (np.rint(t), round_by_feedback(t, feedback_factor(H), grid)):
            got = loss(t - round_by_descent(t, start, H, grid), H)
            assert best * (1 - 1e-5) <= got <= loss(t - start, H) * (1 + 1e-5)
        optimal += got <= best * (1 + 1e-5)
    assert optimal >= 8  # descent stops where no single change helps: not always at the best


def test_rounding_keeps_to_the_mask_and_sweeps_never_make_it_worse() -> None:
    rng = np.random.default_rng(0)
    T = rng.standard_normal((20, 100)).astype(np.float32)
    mask = rng.random(T.shape) < 0.5
    H = Metric.of(gram(correlated(400, 100))).H
    grid = Grid(np.full((20, 2), 0.2, np.float32), np.arange(-15, 16, dtype=np.float32), 64)
    losses = []
    for sweeps in (1, 2, 4, 8):
        start = round_by_feedback(T, feedback_factor(H), grid, mask)
        assert not start[~mask].any()
        Q = round_by_descent(T, start, H, grid, mask, sweeps=sweeps)
        assert not Q[~mask].any()
        losses.append(loss(T - Q, H))
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("value_type", "layout"), [("i8", "rows"), ("i4", "rows"), ("i4", "planes")]
)
def test_a_rounded_matrix_is_what_its_blob_holds(value_type: str, layout: str) -> None:
    W = np.random.default_rng(0).standard_normal((40, 150), dtype=np.float32)
    W[7] = 0  # a row whose groups have scale 0
    H = gram(correlated(600, 150))
    size = {"density": 0.4, "rank": 4, "iterations": 40}
    plain = hessian.decompose_matrix(W.copy(), H, **size)
    d = hessian.decompose_matrix(W.copy(), H, **size, value_type=value_type)
    assert d.grid is not None
    S, mask = np.zeros_like(W), np.zeros(W.shape, np.bool_)
    S.reshape(-1)[d.index], mask.reshape(-1)[d.index] = d.value, True
    grid = bitmap.Grid(d.grid.scales, d.grid.codebook)
    blob = bitmap.encode(S, value_type, 64, mask, layout=layout, grid=grid)
    # One product in f32 on either side, of numbers that are the same.
    np.testing.assert_allclose(bitmap.decode(blob), S, rtol=3e-7, atol=0)
    to_nearest = bitmap.decode(
        bitmap.encode(_sparse(plain, W.shape), value_type, 64, _sparse(plain, W.shape) != 0)
    )
    later = loss(W - to_nearest - plain.B @ plain.A, H)
    assert loss(W - dense(d, W.shape), H) < later
    if value_type == "i4":  # else rounding is nothing beside what was dropped
        assert loss(W - dense(d, W.shape), H) < 0.9 * later


def _sparse(d: Decomposition, shape: tuple[int, int]) -> np.ndarray:
    S = np.zeros(shape, np.float32)
    S.reshape(-1)[d.index] = d.value
    return S


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_dense_codes_are_better_than_the_nearest_ones(bits: int) -> None:
    W = np.random.default_rng(0).standard_normal((48, 90), dtype=np.float32)  # 90 = 2 · 32 + 26
    W[3] = 0
    H = gram(correlated(400, 90))
    made = gptq.quantize_matrix(W, gptq.DampedHessian.of(H), bits=bits, group=32)
    assert made.codes.max() < 2**bits
    assert made.scales.shape == (48, 3)
    assert not made.matrix()[3].any()
    wide = np.repeat(made.scales, 32, axis=1)[:, :90]
    half = 2 ** (bits - 1)
    nearest = np.clip(np.rint(W / np.where(wide == 0, 1, wide)), -half, half - 1) * wide
    feedback = gptq.quantize_matrix(
        W, gptq.DampedHessian.of(H), bits=bits, group=32, sweeps=0
    ).matrix()
    losses = [loss(W - Q, H) for Q in (made.matrix(), feedback, nearest)]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize(("bits", "group"), [(5, 32), (4, 0)])
def test_dense_codes_refuse_what_there_is_not(bits: int, group: int) -> None:
    with pytest.raises(RequestError, match="wanted"):
        gptq.quantize_matrix(
            np.ones((2, 4), np.float32), gptq.DampedHessian.of(np.eye(4, dtype=np.float32)),
            bits=bits, group=group,
        )  # fmt: skip
