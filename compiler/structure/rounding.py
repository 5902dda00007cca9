"""Rounding of S to what i8 and i4 blobs can hold, in the metric of the Hessian.

Rounding each value to the nearest level is best only where columns are uncorrelated. Error feedback
(GPTQ, arXiv 2210.17323; SparseGPT, arXiv 2301.00774, with a mask) goes through the columns once and
spreads each one's error over the columns to come. Coordinate descent (QuantEase, arXiv 2309.01885)
then visits them again and again: each entry takes the level nearest to its best, given all others.
That needs no inverse of H, which with a mask would be another one for every row, and a sweep never
makes the loss larger.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from slc.compiler.structure.decomposition import F32

Mask = npt.NDArray[np.bool_]

BLOCK_COLUMNS = 64  # updated by BLAS together once they have been visited
SWEEPS = 2


@dataclasses.dataclass(frozen=True)
class Grid:
    """The values that a blob's stored entries can take: scale · level.

    Attributes:
      scale: f32 [N, groups], of either sign; 0 is a group of zeros.
      levels: f32 [n], rising: the codebook of i4, or -127 … 127.
      group: columns that share a scale.
    """

    scale: F32
    levels: F32
    group: int

    def nearest(self, w: F32, column: int) -> F32:
        """The grid's value nearest to each of w [N], entries of `column`."""
        scale = self.scale[:, column // self.group]
        steps = np.divide(w, scale, out=np.zeros_like(w), where=scale != 0)
        borders = (self.levels[1:] + self.levels[:-1]) / 2
        return self.levels[np.searchsorted(borders, steps)] * scale


def round_by_descent(
    T: F32, Q: F32, H: F32, grid: Grid, mask: Mask | None = None, *, sweeps: int = SWEEPS
) -> F32:
    """Coordinate descent on tr((T − Q)·H·(T − Q)ᵀ) over the grid, column by column.

    Args:
      T: what Q is to stand for, f32 [N, K].
      Q: where to start, f32 [N, K], zero off the mask; the loss never rises if it is on the grid.
      H: f32 [K, K], symmetric with a positive diagonal.
      grid: of Q's values.
      mask: bool [N, K], what may differ from zero; None: all.
      sweeps: over all columns.

    Returns:
      Q on the grid, f32 [N, K].
    """
    Q = Q.copy()
    G: F32 = np.matmul(T - Q, H)  # the negative gradient, halved
    diagonal: F32 = np.diag(H).copy()
    for _ in range(sweeps):
        for start in range(0, Q.shape[1], BLOCK_COLUMNS):
            columns = slice(start, min(start + BLOCK_COLUMNS, Q.shape[1]))
            step = _descend(Q, G[:, columns], H[columns, columns], diagonal, grid, mask, columns)
            # Inside the block G is up to date; the rest follows by one product.
            G[:, : columns.start] -= step @ H[columns, : columns.start]
            G[:, columns.stop :] -= step @ H[columns, columns.stop :]
    return Q


def _descend(
    Q: F32, G: F32, H: F32, diagonal: F32, grid: Grid, mask: Mask | None, columns: slice
) -> F32:
    """One visit to each column of a block; Q and G change in place. The change of Q [N, block]."""
    change = np.zeros_like(G)
    for i, j in enumerate(range(columns.start, columns.stop)):
        new = grid.nearest(Q[:, j] + G[:, i] / diagonal[j], j)
        if mask is not None:
            new *= mask[:, j]
        change[:, i] = new - Q[:, j]
        Q[:, j] = new
        G -= change[:, i, None] * H[i]
    return change


def feedback_factor(H: F32) -> F32:
    """U, upper triangular with Uᵀ·U = H⁻¹, of a positive definite H, f32 [K, K]."""
    inverse = np.linalg.inv(H.astype(np.float64))
    factor: F32 = np.linalg.cholesky(inverse).T.astype(np.float32)
    return factor


def round_by_feedback(T: F32, factor: F32, grid: Grid, mask: Mask | None = None) -> F32:
    """T [N, K] rounded column by column, each error spread over the columns to come.

    Args:
      T: what the result is to stand for, f32 [N, K].
      factor: `feedback_factor` of the metric, f32 [K, K].
      grid: of the result.
      mask: bool [N, K], what may differ from zero; what is dropped is an error like any other.
        None: all, which is GPTQ.
    """
    T, Q = T.copy(), np.empty_like(T)
    for start in range(0, T.shape[1], BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, T.shape[1])
        errors = np.empty((len(T), stop - start), np.float32)
        for j in range(start, stop):
            Q[:, j] = grid.nearest(T[:, j], j)
            if mask is not None:
                Q[:, j] *= mask[:, j]
            errors[:, j - start] = (T[:, j] - Q[:, j]) / factor[j, j]
            T[:, j:stop] -= errors[:, j - start, None] * factor[j, j:stop]
        T[:, stop:] -= errors @ factor[start:stop, stop:]
    return Q
