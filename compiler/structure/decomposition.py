"""What a method makes of one matrix, and how far that is from the matrix."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from slc.compiler.structure.ordering import Index, positions

if TYPE_CHECKING:
    from slc.compiler.structure.stored_grid import StoredGrid

F32 = npt.NDArray[np.float32]
Order = Literal["global", "row"]

TAIL_POINTS = 65  # the tail is given at nnz·j/64 entries kept, j = 0 … 64
_CHUNK = 1 << 16


@dataclasses.dataclass(frozen=True)
class SquaredErrors:
    """Squared Frobenius norms in one metric.

    Attributes:
      weight: ‖W‖².
      sparse: ‖W − S‖².
      gains: what each adapter component takes off, in order: ‖W − S − Σ_{i<r} bᵢaᵢ‖² is
        sparse − Σ_{i<r} gains[i], exactly.
    """

    weight: float
    sparse: float
    gains: tuple[float, ...]

    def at_rank(self, rank: int) -> float:
        """‖W − S − B·A‖² with the first `rank` components."""
        return max(0.0, self.sparse - float(np.sum(self.gains[:rank])))


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """W ≈ S + B·A, S and the adapter's components in order of importance.

    Attributes:
      index: flat row-major positions of S, most important first; u32 or u64 [nnz].
      value: f32 [nnz].
      A: f32 [r, K].
      B: f32 [N, r].
      order: what a prefix of S is: the largest of the matrix, or of every row.
      scale: f32 [K], sqrt of the damped mean of x² in each column, or None where there was no
        calibration.
      singular_values: f32 [r], falling, in the metric of `scaled`.
      plain: errors of W itself.
      scaled: errors of W·diag(scale); the same as `plain` where scale is None.
      tail: sum of squares (in the scaled metric) of the entries of S after the first nnz·j/64.
      grid: the levels that S lies on, or None where it was not rounded.
    """

    index: Index
    value: F32
    A: F32
    B: F32
    order: Order
    scale: F32 | None
    singular_values: F32
    plain: SquaredErrors
    scaled: SquaredErrors
    tail: tuple[float, ...]
    grid: StoredGrid | None = None


def measured(
    W: F32,
    index: Index,
    value: F32,
    B: F32,
    A: F32,
    singular_values: F32,
    *,
    order: Order,
    scale: F32 | None = None,
) -> Decomposition:
    """A Decomposition with its error figures; W [N, K] is overwritten with W − S."""
    K = W.shape[1]
    norms = sum_squares(W), sum_squares(W, scale)
    flat = W.reshape(-1)
    for at, places in positions(index):
        flat[places] -= value[at]
    plain = scaled = _errors(W, B, A, norms[0])
    importance = value
    if scale is not None:
        scaled = _errors(W * scale, B, A * scale, norms[1])
        importance = value * scale[index % index.dtype.type(K)]
    tail = _tail(importance)
    return Decomposition(index, value, A, B, order, scale, singular_values, plain, scaled, tail)


def sum_squares(x: F32, column_scale: F32 | None = None) -> float:
    """Sum of squares of x [N, K] or [n] (times `column_scale` [K]), accumulated in f64."""
    if column_scale is not None:
        squares = np.square(column_scale, dtype=np.float64)
        return float(sum(np.square(row, dtype=np.float64) @ squares for row in x))
    flat = x.reshape(-1)
    total = 0.0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        total += float(part @ part)
    return total


def _errors(R: F32, B: F32, A: F32, weight: float) -> SquaredErrors:
    """Errors of R = W − S [N, K] after each adapter component.

    ‖R − Σ bᵢaᵢ‖² = ‖R‖² − 2·Σ bᵢᵀR aᵢᵀ + Σᵢⱼ (bᵢ·bⱼ)(aᵢ·aⱼ); the components need not be orthogonal.
    """
    B64, A64 = B.astype(np.float64), A.astype(np.float64)
    overlap = np.sum((B.T @ R).astype(np.float64) * A64, axis=1)
    gram = (B64.T @ B64) * (A64 @ A64.T)
    gains = 2 * overlap - np.diag(gram) - 2 * np.tril(gram, -1).sum(axis=1)
    return SquaredErrors(weight, sum_squares(R), tuple(float(g) for g in gains))


def _tail(importance: F32) -> tuple[float, ...]:
    """Sums of squares after nnz·j/64 entries, j = 0 … 64, of values in order of importance."""
    cuts = tail_cuts(importance.size)
    parts = [sum_squares(importance[a:b]) for a, b in itertools.pairwise(cuts)]
    return tuple(float(s) for s in np.append(np.cumsum(parts[::-1])[::-1], 0.0))


def tail_cuts(nnz: int) -> list[int]:
    """Where the tail is sampled: numbers of entries kept, rising from 0 to nnz."""
    return [nnz * j // (TAIL_POINTS - 1) for j in range(TAIL_POINTS)]
