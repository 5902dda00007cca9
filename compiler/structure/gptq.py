"""Dense int4 and int3 at their best: what sparse plus low-rank has to be measured against.

Rounding with error feedback (GPTQ, arXiv 2210.17323) and then coordinate descent on the same grid
(rounding.py), which on all-MiniLM-L6-v2 takes another sixth off the layer loss. The grid is that of
onnxruntime's MatMulNBits without zero points: scale · (code − 2^(bits−1)), one scale per group.
"""

from __future__ import annotations

import numpy as np

from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.dense_codes import DenseCodes, group_scales
from slc.compiler.structure.oats import column_scale
from slc.compiler.structure.rounding import Grid, round_by_descent, round_by_feedback

DAMPING = 0.01  # GPTQ's own; a dense matrix has less freedom to fit noise than S and L


def quantize_matrix(W: F32, H: F32, *, bits: int, group: int, sweeps: int = 4) -> DenseCodes:
    """W [N, K] in `bits` bits for inputs of second moments H.

    Args:
      W: f32 [N, K], finite.
      H: E[x·xᵀ], f32 [K, K].
      bits: 2, 3, 4 or 8.
      group: columns that share a scale.
      sweeps: of coordinate descent after the pass of error feedback; 0 is GPTQ alone.

    Raises:
      RequestError: bits or group can't be.
    """
    scales = group_scales(W, bits, group)
    damped = H.copy()
    damped[np.diag_indices_from(damped)] += np.float32(DAMPING) * _squares(H)
    half = 2 ** (bits - 1)
    # Of 8 bits -128 is left out, as in round_matrix.
    levels = np.arange(-half + (bits == 8), half, dtype=np.float32)
    grid = Grid(scales, levels, group)
    Q = round_by_feedback(W, damped, grid)
    if sweeps:
        Q = round_by_descent(W, Q, damped, grid, sweeps=sweeps)
    wide = np.repeat(scales, group, axis=1)[:, : W.shape[1]]
    steps = np.divide(Q, wide, out=np.zeros_like(Q), where=wide != 0)
    return DenseCodes((np.rint(steps) + half).astype(np.uint8), scales, bits, group)


def _squares(H: F32) -> F32:
    """E[x²] of the columns, none of them zero."""
    return np.square(column_scale(np.diag(H).astype(np.float64))).astype(np.float32)
