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
import functools

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from slc.compiler.structure.decomposition import F32

Mask = npt.NDArray[np.bool_]

BLOCK_COLUMNS = 32  # updated by BLAS together once they have been visited
SWEEPS = 2


@dataclasses.dataclass(frozen=True)
class Grid:
    """The values that a blob's stored entries can take: scale · level.

    Attributes:
      scale: f32 [N, groups], of either sign; 0 is a group of zeros.
      levels: f32 [n], integers, rising: the codebook of i4, or -127 … 127.
      group: columns that share a scale.
    """

    scale: F32
    levels: F32
    group: int

    def nearest(self, w: F32, column: int) -> F32:
        """The grid's value nearest to each of w [N], entries of `column`."""
        scale, twice_inverse = self._scales[:, column // self.group]
        first, table = self._table
        cells = np.ceil(w * twice_inverse)
        cells -= first
        np.maximum(np.minimum(cells, len(table) - 1, out=cells), 0, out=cells)
        nearest: F32 = table[cells.astype(np.intp)] * scale
        return nearest

    @functools.cached_property
    def _scales(self) -> F32:
        """(scale, 2 / scale), f32 [2, groups, N]: a group's lie together. 2 / 0 is 0 here."""
        scale = self.scale.T
        # What is smaller than f32's normal numbers has no reciprocal, and is no weight either.
        usable = np.abs(scale) >= np.finfo(np.float32).tiny
        return np.stack([scale, np.divide(2, scale, out=np.zeros_like(scale), where=usable)])

    @functools.cached_property
    def _table(self) -> tuple[int, F32]:
        """(c, levels [n]): the i-th is the nearest to what is above (c + i - 1)/2, up to (c + i)/2.

        Levels are integers, so that the borders between them are among these.
        """
        borders = (self.levels[1:] + self.levels[:-1]) / 2
        first, last = (int(2 * level) for level in self.levels[[0, -1]])
        middles = np.arange(first, last + 1, dtype=np.float32) / 2 - np.float32(0.25)
        return first, self.levels[np.searchsorted(borders, middles)]


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
            G -= step.T @ H[columns]
    return Q


def _descend(
    Q: F32, G: F32, H: F32, diagonal: F32, grid: Grid, mask: Mask | None, columns: slice
) -> F32:
    """One visit to each column of a block; Q changes in place. Its change, f32 [block, N]."""
    # Transposed: what is visited together lies together.
    q, g = Q[:, columns].T.copy(), G.T.copy()  # G itself changes by one product afterwards
    allowed = None if mask is None else np.ascontiguousarray(mask[:, columns].T)
    change = np.empty_like(q)
    for i, j in enumerate(range(columns.start, columns.stop)):
        new = grid.nearest(q[i] + g[i] / diagonal[j], j)
        if allowed is not None:
            new *= allowed[i]
        np.subtract(new, q[i], out=change[i])
        q[i] = new
        g[i + 1 :] -= H[i, i + 1 :, None] * change[i]
    Q[:, columns] = q.T
    return change


def feedback_factor(H: F32) -> F32:
    """U, upper triangular with Uᵀ·U = H⁻¹, of a positive definite H, f32 [K, K]."""
    # H = M·Mᵀ with M upper triangular is Cholesky's factor of H read from its end; U = M⁻¹.
    lower = np.linalg.cholesky(H[::-1, ::-1].astype(np.float64))
    inverse, failed = lapack.dtrtri(lower[::-1, ::-1], lower=0)
    assert failed == 0  # Cholesky's diagonal is positive
    factor: F32 = inverse.astype(np.float32)
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
    # Transposed: what is visited together lies together.
    left = T.T.copy()
    Q = np.empty_like(left)
    allowed = None if mask is None else np.ascontiguousarray(mask.T)
    for start in range(0, len(left), BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, len(left))
        errors = np.empty((stop - start, left.shape[1]), np.float32)
        for j in range(start, stop):
            Q[j] = grid.nearest(left[j], j)
            if allowed is not None:
                Q[j] *= allowed[j]
            error = errors[j - start]
            np.divide(left[j] - Q[j], factor[j, j], out=error)
            left[j + 1 : stop] -= factor[j, j + 1 : stop, None] * error
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return np.ascontiguousarray(Q.T)
