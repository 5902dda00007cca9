"""OATS: outlier-aware sparse plus low-rank by alternating thresholding (arXiv 2409.13652).

With D = diag(sqrt(E[x²])), the root mean square of every input column over calibration text,

    S₀ = 0
    Lₜ = SVD_r(W·D − Sₜ₋₁)            truncated SVD
    Sₜ = HT_k(W·D − Lₜ)               the k largest magnitudes of every row
    W ≈ S_T·D⁻¹ + L_T·D⁻¹

so that the error is measured where activations are large. Here the SVD keeps its subspace from
one alternation to the next and spends a single pass on each: between two alternations the matrix
hardly changes, and the passes add up to a converged SVD.

S and L are fitted to each other: where S holds an entry it holds what L leaves of the weight. A
slice of lower rank therefore has several times the squared error of a decomposition at that rank
(on MiniLM's matrices, rank 16 of 32: 7 to 9 times). Lower ranks and densities are still prefixes;
where the dense model is at hand, decompose at what is wanted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slc.compiler.structure.decomposition import F32, Decomposition, measured
from slc.compiler.structure.ordering import row_count, row_order
from slc.compiler.structure.svd import oversampled, random_start, subspace_pass, truncated_svd

# Of all-MiniLM-L6-v2 at density 0.5, rank 32: mean cosine of sentence embeddings 0.936, 0.945,
# 0.951, 0.953 and 0.954 after 10, 20, 40, 80 (the paper's choice) and 160, at a cost in proportion.
ITERATIONS = 40
# Of the mean of E[x²] over columns, added to each: a column that calibration never lit up still
# counts a little, and nothing is divided by zero.
DAMPING = 1e-4


def column_scale(mean_squares: npt.NDArray[np.float64]) -> F32:
    """D's diagonal, f32 [K], from E[x²] f64 [K]; all ones where no column was ever non-zero."""
    mean = float(np.mean(mean_squares)) if mean_squares.size else 0.0
    if mean == 0.0:
        return np.ones(mean_squares.shape, np.float32)
    return np.sqrt(mean_squares + DAMPING * mean).astype(np.float32)


def decompose_matrix(
    W: F32,
    mean_squares: npt.NDArray[np.float64],
    *,
    density: float,
    rank: int,
    iterations: int = ITERATIONS,
    seed: int = 0,
) -> Decomposition:
    """Alternating thresholding of one matrix.

    Args:
      W: f32 [N, K], finite; overwritten.
      mean_squares: E[x²] of every input column, f64 [K].
      density: of S, 0 to 1; every row keeps round(density·K) entries.
      rank: of the adapter; more than min(N, K) is min(N, K).
      iterations: alternations (the paper takes 80).
      seed: of the SVD's random start.

    Returns:
      S ordered by rank within the row of |S·D|, the adapter by singular value of L·D.
    """
    scale = column_scale(mean_squares)
    per_row = row_count(W.shape[1], density)
    X = W * scale
    B, A, sigma = _alternate(X, per_row, rank, iterations, seed)
    X -= B @ A  # what S is chosen from
    index = row_order(X, per_row)
    value = X.reshape(-1)[index]
    del X
    value /= scale[index % index.dtype.type(W.shape[1])]
    return measured(W, index, value, B, A / scale, sigma, order="row", scale=scale)


def _alternate(X: F32, per_row: int, rank: int, iterations: int, seed: int) -> tuple[F32, F32, F32]:
    """B [N, r], A [r, K] and sigma [r] of L after `iterations` alternations on X [N, K]."""
    N, K = X.shape
    rank = min(rank, N, K)
    if rank == 0 or per_row == 0 or oversampled(rank) > min(N, K):
        return _alternate_exactly(X, per_row, rank, iterations if rank and per_row else 1, seed)
    V = random_start(K, rank, seed)
    M = X.copy()  # X − S
    for _ in range(max(iterations, 1)):
        U, sigma, V = subspace_pass(M, V)
        np.matmul(U[:, :rank] * sigma[:rank], V[:, :rank].T, out=M)  # L
        _without_sparse(X, M, per_row)
    root = np.sqrt(sigma[:rank])
    return U[:, :rank] * root, np.ascontiguousarray((V[:, :rank] * root).T), sigma[:rank]


def _alternate_exactly(
    X: F32, per_row: int, rank: int, iterations: int, seed: int
) -> tuple[F32, F32, F32]:
    """The same with a whole SVD per alternation, where a subspace would be the whole space."""
    M = X.copy()
    for t in range(max(iterations, 1)):
        B, A, sigma = truncated_svd(M, rank, seed=seed)
        if t + 1 < iterations:
            np.matmul(B, A, out=M)
            _without_sparse(X, M, per_row)
    return B, A, sigma


def _without_sparse(X: F32, L: F32, per_row: int) -> None:
    """Turn L into X − S for S = HT(X − L): L where S holds an entry, X elsewhere; in place."""
    K = X.shape[1]
    if per_row == K:
        return
    rows_at_once = max(1, (1 << 18) // K)  # temporaries stay in the cache
    for start in range(0, len(X), rows_at_once):
        x, low = X[start : start + rows_at_once], L[start : start + rows_at_once]
        magnitude = np.abs(x - low)
        cut = np.partition(magnitude, K - per_row, axis=1)[:, K - per_row, None]
        np.copyto(low, x, where=magnitude < cut)
