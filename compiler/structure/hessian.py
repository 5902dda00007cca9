"""One-shot sparse plus low-rank in the metric of the whole Hessian, by three-block ADMM.

    min over S, L of tr((W − S − L)·H·(W − S − L)ᵀ)    ‖S‖₀ ≤ k, rank L ≤ r, H = E[x·xᵀ]

OATS (oats.py) sees the diagonal of H only; here an entry of S makes up for what was dropped in
other columns, as far as the inputs are correlated. The family is 3BASiL's: with a copy D of S that
carries the sparsity, and its dual V, each iteration takes

    L ← argmin over rank r             = SVD_r((W − S)·H^½)·H^-½, in closed form
    S ← ((W − L)·H + ρ·D − V)·(H + ρI)⁻¹
    D ← the k entries of S + V/ρ of largest magnitude
    V ← V + ρ·(S − D)

all in scaled columns (metric.py). In the eigenvectors of H both inverses are divisions, and S·Q is
what the next L-step wants, so an iteration costs two products of N·K² and two thin ones. ρ grows
geometrically from "any support" to "this support". At the end the support is fixed and S (conjugate
gradients, row by row) and L alternate.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from slc.compiler.structure.damping import best_damping, some_rows
from slc.compiler.structure.decomposition import F32, Decomposition, measured
from slc.compiler.structure.metric import DAMPING, Metric
from slc.compiler.structure.ordering import Index, global_count, global_order
from slc.compiler.structure.rounding import Grid, Mask, round_by_descent
from slc.compiler.structure.stored_grid import IntegerType, fitted
from slc.compiler.structure.svd import oversampled, random_start, subspace_pass

# A slow ρ finds the better support. all-MiniLM-L6-v2, density 0.5, rank 32: summed layer loss as a
# part of that of oats 0.33, 0.22 and 0.16 after 60, 120 and 600 iterations, the mean cosine of
# sentence embeddings 0.974, 0.982 and 0.987 (oats: 0.958).
ITERATIONS = 600
DAMPINGS = (DAMPING, 0.02, 0.05, 0.15, 0.4)  # to choose from
_TRIAL_ITERATIONS = 10
RHO_FIRST, RHO_LAST = 0.03, 0.4  # in units of H's diagonal
_POLISH_ROUNDS = 3
_GRADIENT_STEPS = 8
_EXACT_PASSES = 30  # a spectrum that decays slowly settles within these
_ROUNDING_ROUNDS = 3
_TINY = np.float32(1e-30)  # above every zero, below every weight that counts


def decompose_matrix(
    W: F32,
    H: F32,
    *,
    density: float,
    rank: int,
    iterations: int = ITERATIONS,
    seed: int = 0,
    value_type: IntegerType | None = None,
    group: int = 64,
    damping: float = DAMPING,
) -> Decomposition:
    """S and L of one matrix.

    Args:
      W: f32 [N, K], finite; overwritten.
      H: E[x·xᵀ] of its input over calibration text, f32 [K, K].
      density: of S over the whole matrix, 0 to 1.
      rank: of L; more than min(N, K) is min(N, K).
      iterations: of ADMM.
      seed: of the SVD's random start.
      value_type: "i8" or "i4": S is rounded to what such a blob holds, in the metric of H, and L
        takes up what it can of the rounding; None leaves S in f32.
      group: columns that share a scale of i8 and i4.
      damping: of H, such as `chosen_damping` finds.

    Returns:
      S ordered by |S·D|, D = sqrt(diag H), the adapter by singular value of L·H^½.
    """
    metric = Metric.of(H, damping)
    X = W * metric.scale
    count = global_count(W.size, density)
    low_rank = _LowRank(X, metric, min(rank, *W.shape), seed)
    S, mask = _solve(X, metric, low_rank, count, iterations)
    S /= metric.scale
    grid = None
    if value_type is not None:
        grid = fitted(S, mask, np.square(metric.scale), value_type, group)
        S = _rounded(W, S, mask, metric, low_rank, grid.rounding())
    index = _order(S * metric.scale, mask, count)
    B, A, sigma = low_rank.factors()
    made = measured(
        W, index, S.reshape(-1)[index], B, A / metric.scale, sigma,
        order="global", scale=metric.scale,
    )  # fmt: skip
    return dataclasses.replace(made, grid=grid)


def chosen_damping(W: F32, H: F32, held_out: F32 | None, density: float) -> float:
    """The damping of H that suits a decomposition of W, judged by H of text that was held out.

    Some rows are fitted, in a few iterations and without L: what is shared by all rows has the
    least freedom to follow noise.

    Args:
      W: f32 [N, K]; kept.
      H: of the text that the decomposition sees, f32 [K, K].
      held_out: of other text, f32 [K, K]; None gives `DAMPING`.
      density: of S.
    """
    if held_out is None:
        return DAMPING
    rows = some_rows(W)
    count = global_count(rows.size, density)
    plain = Metric.of(H, DAMPINGS[0])
    X = rows * plain.scale

    def error(damping: float) -> F32:
        metric = plain.redamped(damping - DAMPINGS[0])
        S, _ = _solve(X, metric, _LowRank(X, metric, 0, 0), count, _TRIAL_ITERATIONS)
        lost: F32 = (X - S) / metric.scale
        return lost

    return best_damping(DAMPINGS, error, held_out)


def _order(importance: F32, mask: Mask, count: int) -> Index:
    """The `count` largest entries on the mask; of a value rounded to zero, the position stays."""
    inside = np.where(mask, np.maximum(np.abs(importance), _TINY), np.float32(0))
    return global_order(inside, count)


def _solve(
    X: F32, metric: Metric, low_rank: _LowRank, count: int, iterations: int
) -> tuple[F32, Mask]:
    """S [N, K] of scaled weights X and its mask; `low_rank` is left at its last fit."""
    if count in (0, X.size):  # nothing to choose
        S = np.zeros_like(X) if count == 0 else X.copy()
        low_rank.fit(S @ metric.vectors, passes=_EXACT_PASSES)
        return S, np.full(X.shape, count > 0)
    S, mask = _admm(X, metric, low_rank, count, iterations)
    for _ in range(_POLISH_ROUNDS):
        S = refit(X - low_rank.matrix(), mask, S, metric)
        low_rank.fit(S @ metric.vectors, passes=2)
    return refit(X - low_rank.matrix(), mask, S, metric), mask


def _rounded(W: F32, S: F32, mask: Mask, metric: Metric, low_rank: _LowRank, grid: Grid) -> F32:
    """S on the grid, in the metric of H; L is fitted to what that leaves, and S to that again."""
    H = metric.H * metric.scale * metric.scale[:, None]
    for _ in range(_ROUNDING_ROUNDS):
        T: F32 = W - low_rank.matrix() / metric.scale
        S = round_by_descent(T, S, H, grid, mask)
        scaled: F32 = S * metric.scale
        low_rank.fit(scaled @ metric.vectors, passes=2)
    return S


class _LowRank:
    """L of rank r, kept as factors in the eigenvectors of H, each fit starting at the last."""

    def __init__(self, X: F32, metric: Metric, rank: int, seed: int) -> None:
        N, K = X.shape
        self._metric = metric
        self._rank = rank
        self._root = np.sqrt(metric.values)
        self.XQ = X @ metric.vectors
        self._V = random_start(K, rank, seed)[:, : min(oversampled(rank), N, K)]
        self._B: F32 = np.zeros((N, rank), np.float32)
        self._AQ: F32 = np.zeros((rank, K), np.float32)
        self._sigma = np.zeros(rank, np.float32)

    def fit(self, SQ: F32, passes: int = 1) -> None:
        """L ← argmin ‖(X − S − L)·H^½‖ from S·Q [N, K]."""
        if self._rank == 0:
            return
        residual = (self.XQ - SQ) * self._root
        for _ in range(passes):
            U, sigma, self._V = subspace_pass(residual, self._V)
        r, half = self._rank, np.sqrt(sigma[: self._rank])
        self._sigma = sigma[:r]
        self._B = U[:, :r] * half
        right: F32 = self._V[:, :r] * half
        self._AQ = np.divide(right.T, self._root)

    def rotated(self) -> F32:
        """L·Q, f32 [N, K]."""
        return self._B @ self._AQ

    def matrix(self) -> F32:
        """L, f32 [N, K]."""
        return self._B @ (self._AQ @ self._metric.vectors.T)

    def factors(self) -> tuple[F32, F32, F32]:
        """B [N, r], A [r, K], sigma [r], falling."""
        return self._B, self._AQ @ self._metric.vectors.T, self._sigma


def _admm(
    X: F32, metric: Metric, low_rank: _LowRank, count: int, iterations: int
) -> tuple[F32, Mask]:
    """D [N, K] and its mask after `iterations`; `low_rank` is left at its last fit."""
    mask = _largest(X, count)
    D: F32 = X * mask
    V: F32 = np.zeros_like(X)
    SQ: F32 = D @ metric.vectors
    growth = (RHO_LAST / RHO_FIRST) ** (1 / max(1, iterations - 1))
    for t in range(iterations):
        rho = np.float32(RHO_FIRST * growth**t)
        low_rank.fit(SQ, passes=1 if t else 3)
        SQ = np.matmul(D * rho - V, metric.vectors)
        SQ += (low_rank.XQ - low_rank.rotated()) * metric.values
        SQ /= metric.values + rho
        T: F32 = SQ @ metric.vectors.T
        T += V / rho
        mask = _largest(T, count)
        D = T * mask
        V = (T - D) * rho
    return D, mask


def refit(T: F32, mask: Mask, S: F32, metric: Metric, steps: int = _GRADIENT_STEPS) -> F32:
    """S [N, K] on `mask` of least tr((T − S)·H·(T − S)ᵀ), by conjugate gradients from S."""
    R = ((T - S) @ metric.H) * mask
    P = R.copy()
    square = np.sum(R * R, axis=1, keepdims=True)
    for _ in range(steps):
        HP = (P @ metric.H) * mask
        curvature = np.sum(P * HP, axis=1, keepdims=True)
        step = np.divide(square, curvature, out=np.zeros_like(square), where=curvature > 0)
        S = S + step * P
        R -= step * HP
        before, square = square, np.sum(R * R, axis=1, keepdims=True)
        P = R + np.divide(square, before, out=np.zeros_like(square), where=before > 0) * P
    return S


def _largest(X: F32, count: int) -> Mask:
    """The mask of the `count` entries of largest magnitude; of ties at the border, all."""
    magnitude = np.abs(X)
    cut = np.partition(magnitude.reshape(-1), X.size - count)[X.size - count]
    mask: Mask = magnitude >= cut
    return mask
