"""SALAAD's pieces against closed forms: the proximal steps, the rank by energy, the controller."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slc.compiler.structure.salaad_controller import Controller, entry_unit, spectral_unit
from slc.compiler.structure.salaad_prox import (
    SubspaceSvt,
    effective_rank,
    full_svd,
    soft_threshold,
    svt,
)

torch.set_num_threads(1)  # the matrices are too small to share, and other tests run beside these

EPS = np.finfo(np.float32).eps


def matrix(N: int, K: int, sigma: np.ndarray, seed: int = 0) -> torch.Tensor:
    """f32 [N, K] with these singular values."""
    rng = np.random.default_rng(seed)
    U, _ = np.linalg.qr(rng.standard_normal((N, len(sigma))))
    V, _ = np.linalg.qr(rng.standard_normal((K, len(sigma))))
    return torch.from_numpy(((U * sigma) @ V.T).astype(np.float32))


def rebuilt(U: torch.Tensor, sigma: torch.Tensor, V: torch.Tensor) -> np.ndarray:
    return ((U.double() * sigma.double()) @ V.double().T).numpy()


def test_soft_threshold_closed_form() -> None:
    Z = torch.tensor([[-3.0, -1.0, -0.5, 0.0], [0.5, 1.0, 1.5, 4.0]])
    wanted = torch.tensor([[-2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 3.0]])
    assert torch.equal(soft_threshold(Z, 1.0), wanted)
    assert torch.equal(soft_threshold(Z, 0.0), Z)


def test_soft_threshold_is_the_minimiser() -> None:
    """No neighbour of the result has a lower t·|s| + ½(s − z)²; in f64 there is no rounding."""
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)
    t = 0.3

    def cost(s: torch.Tensor) -> torch.Tensor:
        return t * s.abs() + 0.5 * (s - z) ** 2

    best = soft_threshold(z, t)
    for delta in (-1e-3, 1e-3):
        assert torch.all(cost(best) <= cost(best + delta))


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
def test_svt_closed_form(shape: tuple[int, int]) -> None:
    """Known singular values come out less the threshold, on the same singular vectors."""
    N, K = shape
    sigma = np.linspace(5.0, 0.1, 20)
    Z = matrix(N, K, sigma)
    U, got, V = svt(Z, 1.0)
    kept = sigma[sigma > 1.0]
    assert len(got) == len(kept)
    # Z was rounded to f32: by Weyl no σ moves by more than ‖ΔZ‖₂ <= ‖ΔZ‖_F <= eps/2·‖Z‖_F; σ
    # itself is rounded to f32 once more.
    slack = EPS * np.linalg.norm(sigma)
    assert np.all(np.abs(got.numpy() - (kept - 1.0)) <= slack)
    exact = np.linalg.svd(Z.double().numpy())
    wanted = (exact[0][:, : len(kept)] * (exact[1][: len(kept)] - 1.0)) @ exact[2][: len(kept)]
    # U, σ and V are each rounded to f32: relative eps/2 of each factor of the product.
    assert np.linalg.norm(rebuilt(U, got, V) - wanted) <= 3 * EPS * np.linalg.norm(sigma)


def test_full_svd_of_a_zero_matrix() -> None:
    U, sigma, V = full_svd(torch.zeros(6, 4))
    assert not sigma.any()
    assert torch.isfinite(U).all()
    assert torch.isfinite(V).all()
    assert len(svt(torch.zeros(6, 4), 0.0)[1]) == 0


def test_warm_start_is_as_good() -> None:
    """The figures in the module's docstring: 60 passes over a drifting matrix.

    The spectrum is a trained weight's: 40 directions that stand out of noise, and every pass moves
    Z by 2 % of its norm. The bounds are those figures, rounded up.
    """
    rng = torch.Generator().manual_seed(0)
    Z = matrix(256, 688, np.geomspace(6.0, 2.0, 40))
    Z += 0.03 * torch.randn(Z.shape, generator=rng)
    warm, before, used, of_move, of_norm = SubspaceSvt(), None, 0, 0.0, 0.0
    for _ in range(60):
        drift = torch.randn(Z.shape, generator=rng)
        Z = Z + 0.02 * Z.norm() / drift.norm() * drift
        Z *= 0.999
        L = rebuilt(*warm(Z, 1.6))
        exact = rebuilt(*svt(Z, 1.6))
        if before is not None and not warm.exact:
            used += 1
            lost = np.linalg.norm(L - exact)
            of_move = max(of_move, lost / np.linalg.norm(exact - before))
            of_norm = max(of_norm, lost / np.linalg.norm(exact))
        before = exact
    assert used == 59
    assert of_move <= 0.012
    assert of_norm <= 1.2e-4


def test_warm_start_falls_back_when_the_rank_grows() -> None:
    """More directions above the threshold than the subspace holds: the whole spectrum is taken."""
    warm = SubspaceSvt()
    warm(matrix(100, 100, np.linspace(3, 2, 5)), 1.0)
    grown = matrix(100, 100, np.linspace(3, 2, 40), seed=1)
    U, sigma, V = warm(grown, 1.0)
    assert warm.exact
    assert len(sigma) == 40
    assert np.allclose(rebuilt(U, sigma, V), rebuilt(*svt(grown, 1.0)), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("sigma", "energy", "rank"),
    [
        ([3.0, 4.0], 1.0, 2),
        ([4.0, 3.0], 0.64, 1),  # 16 of 25
        ([4.0, 3.0], 0.65, 2),
        ([1.0] * 10, 0.999, 10),
        ([0.0, 0.0], 0.999, 0),
        ([], 0.999, 0),
    ],
)
def test_effective_rank(sigma: list[float], energy: float, rank: int) -> None:
    assert effective_rank(torch.tensor(sigma).sort(descending=True).values, energy) == rank


def test_controller_closed_form() -> None:
    control = Controller(target=0.25, gain=0.5, derivative=2.0)
    control.update(1.0, 0.5, late=False)  # 3 times the target above it: counts as 1
    assert control.weight == 0.5 * 0.5 * 1.0
    control.update(0.375, 0.5, late=False)  # e = 0.5
    assert control.weight == 0.5 * 0.5 * (1.0 + 0.5)
    control.update(0.3125, 0.5, late=True)  # e = 0.25
    assert control.weight == 0.5 * 0.5 * (1.5 + 0.25 + 2.0 * (0.25 - 0.5))
    control.update(0.0, 0.5, late=True)  # e = -1
    assert control.weight == 0.0


def test_controller_comes_down_as_fast_as_it_went_up() -> None:
    control = Controller(target=0.125, gain=0.5, derivative=0.0)
    for measured, weight in [(1.0, 0.5), (1.0, 1.0), (0.0, 0.5), (0.0, 0.0)]:
        control.update(measured, 1.0, late=False)
        assert control.weight == weight


def test_units_are_root_mean_squares() -> None:
    Z = np.random.default_rng(0).standard_normal((12, 30))
    norm = float(np.linalg.norm(Z))
    sigma = np.linalg.svd(Z, compute_uv=False)
    assert spectral_unit(norm, 12, 30) == pytest.approx(np.sqrt(np.mean(sigma**2)), rel=1e-12)
    assert entry_unit(norm, 12, 30) == pytest.approx(np.sqrt(np.mean(Z**2)), rel=1e-12)
