from __future__ import annotations

import numpy as np
import pytest

from slc.compiler.structure import svd

SHAPES = [(384, 384), (600, 200), (200, 600)]


def noise(N: int, K: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, K), dtype=np.float32)


def decaying(N: int, K: int) -> np.ndarray:
    """Singular values 1, 1/2, 1/3 …"""
    U, s, Vt = np.linalg.svd(noise(N, K), full_matrices=False)
    return (U / np.arange(1, len(s) + 1, dtype=np.float32)) @ Vt


@pytest.mark.parametrize(("N", "K"), SHAPES)
@pytest.mark.parametrize("rank", [1, 8, 32, 64])
@pytest.mark.parametrize(
    ("make", "deficit_max"), [(noise, 2e-3), (decaying, 5e-5)], ids=["flat", "decaying"]
)
def test_captures_what_numpy_does(make, deficit_max: float, N: int, K: int, rank: int) -> None:
    E = make(N, K)
    B, A, sigma = svd.truncated_svd(E, rank)
    total = float(np.sum(np.square(E, dtype=np.float64)))
    best = svd.energy(np.linalg.svd(E, compute_uv=False), rank)
    captured = total - float(np.sum(np.square(E - B @ A, dtype=np.float64)))
    assert captured >= (1 - deficit_max) * best
    # Not more than is possible: f32 products of inner dimension `rank`, in a sum of `total`.
    assert captured <= best + total * 1e-5
    assert svd.energy(sigma, rank) == pytest.approx(captured, rel=1e-3)


@pytest.mark.parametrize(("N", "K"), [(384, 256), (40, 300), (20, 10)])
def test_factors_are_balanced_and_in_order(N: int, K: int) -> None:
    B, A, sigma = svd.truncated_svd(noise(N, K), 8)
    assert (B.shape, A.shape) == ((N, 8), (8, K))
    assert np.all(np.diff(sigma) <= 0)
    np.testing.assert_allclose(np.linalg.norm(B, axis=0), np.sqrt(sigma), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(A, axis=1), np.sqrt(sigma), rtol=1e-4)
    for gram in (B.T @ B, A @ A.T):
        off_diagonal = gram - np.diag(np.diag(gram))
        assert np.abs(off_diagonal).max() < 1e-4 * sigma[0]


@pytest.mark.parametrize(("N", "K"), [(1, 50), (50, 1), (1, 1), (5, 3), (100, 70)])
def test_full_rank_reproduces_the_matrix(N: int, K: int) -> None:
    E = noise(N, K)
    B, A, sigma = svd.truncated_svd(E, 1000)
    r = min(N, K)
    assert len(sigma) == r
    # Two roundings of the factors and a product of inner dimension r, in units of |B|·|A|.
    bound = (r + 8) * np.finfo(np.float32).eps * (np.abs(B) @ np.abs(A))
    assert np.all(np.abs(B @ A - E) <= bound + 1e-6)


@pytest.mark.parametrize(("N", "K"), [(30, 20), (300, 200)])
def test_rank_zero_and_zero_matrix(N: int, K: int) -> None:
    B, A, sigma = svd.truncated_svd(noise(N, K), 0)
    assert (B.shape, A.shape, sigma.shape) == ((N, 0), (0, K), (0,))
    B, A, sigma = svd.truncated_svd(np.zeros((N, K), np.float32), 4)
    assert not B.any()
    assert not A.any()
    assert not sigma.any()


@pytest.mark.parametrize(("N", "K"), [(300, 200), (20, 10)])
def test_rank_deficient(N: int, K: int) -> None:
    E = noise(N, 3) @ noise(3, K, seed=1)
    B, A, sigma = svd.truncated_svd(E, 6)
    assert np.all(sigma[3:] < 1e-4 * sigma[0])
    assert np.linalg.norm(E - B @ A) < 1e-5 * np.linalg.norm(E)


def test_same_bytes_again() -> None:
    E = noise(300, 200)
    for one, two in zip(svd.truncated_svd(E, 16), svd.truncated_svd(E.copy(), 16), strict=True):
        assert one.tobytes() == two.tobytes()
