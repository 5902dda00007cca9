"""Dense int4 and int3 at their best: what sparse plus low-rank has to be measured against.

Rounding with error feedback (GPTQ, arXiv 2210.17323) and then coordinate descent on the same grid
(rounding.py), which on all-MiniLM-L6-v2 takes another sixth off the layer loss. The grid is that of
onnxruntime's MatMulNBits without zero points: scale · (code − 2^(bits−1)), one scale per group.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from slc.compiler.structure.damping import best_damping, some_rows
from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.dense_codes import DenseCodes, group_scales
from slc.compiler.structure.oats import column_scale
from slc.compiler.structure.rounding import (
    Grid,
    feedback_factor,
    round_by_descent,
    round_by_feedback,
)

DAMPING = 0.01  # GPTQ's own, of H's diagonal
DAMPINGS = (DAMPING, 0.03, 0.1, 0.3, 1.0)  # to choose from where text is held out


@dataclasses.dataclass(frozen=True)
class DampedHessian:
    """What rounding wants of H = E[x·xᵀ].

    Attributes:
      H: with a part of its diagonal added, f32 [K, K], positive definite.
      factor: of its inverse, as `round_by_feedback` takes it.
    """

    H: F32
    factor: F32

    @staticmethod
    def of(H: F32, damping: float = DAMPING) -> DampedHessian:
        """H, f32 [K, K], with `damping` of its diagonal added."""
        damped = H.copy()
        damped[np.diag_indices_from(damped)] += np.float32(damping) * _squares(H)
        return DampedHessian(damped, feedback_factor(damped))

    @staticmethod
    def chosen(W: F32, H: F32, held_out: F32 | None, *, group: int) -> DampedHessian:
        """H damped as int4 of W [N, K] in groups of `group` loses least on held-out text.

        Args:
          W: f32 [N, K].
          H: of the text that is fitted to, f32 [K, K].
          held_out: of other text, f32 [K, K]; None takes `DAMPING`.
          group: columns that share a scale.
        """
        if held_out is None:
            return DampedHessian.of(H)
        rows = some_rows(W)
        made = {damping: DampedHessian.of(H, damping) for damping in DAMPINGS}

        def error(damping: float) -> F32:
            codes = quantize_matrix(rows, made[damping], bits=4, group=group, sweeps=1)
            return rows - codes.matrix()

        return made[best_damping(DAMPINGS, error, held_out)]


def quantize_matrix(
    W: F32, metric: DampedHessian, *, bits: int, group: int, sweeps: int = 4
) -> DenseCodes:
    """W [N, K] in `bits` bits for inputs of second moments H.

    Args:
      W: f32 [N, K], finite.
      metric: of H.
      bits: 2, 3, 4 or 8.
      group: columns that share a scale.
      sweeps: of coordinate descent after the pass of error feedback; 0 is GPTQ alone.

    Raises:
      RequestError: bits or group can't be.
    """
    scales = group_scales(W, bits, group)
    half = 2 ** (bits - 1)
    # Of 8 bits -128 is left out, as in round_matrix.
    levels = np.arange(-half + (bits == 8), half, dtype=np.float32)
    grid = Grid(scales, levels, group)
    Q = round_by_feedback(W, metric.factor, grid)
    if sweeps:
        Q = round_by_descent(W, Q, metric.H, grid, sweeps=sweeps)
    wide = np.repeat(scales, group, axis=1)[:, : W.shape[1]]
    steps = np.divide(Q, wide, out=np.zeros_like(Q), where=wide != 0)
    return DenseCodes((np.rint(steps) + half).astype(np.uint8), scales, bits, group)


def _squares(H: F32) -> F32:
    """E[x²] of the columns, none of them zero."""
    return np.square(column_scale(np.diag(H).astype(np.float64))).astype(np.float32)
