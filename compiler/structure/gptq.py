"""Dense int4 and int3 at their best: what sparse plus low-rank has to be measured against.

Rounding with error feedback (GPTQ, arXiv 2210.17323) and then coordinate descent on the same grid
(rounding.py), which on all-MiniLM-L6-v2 takes another sixth off the layer loss. The grid is that of
onnxruntime's MatMulNBits without zero points: scale · (code − 2^(bits−1)), one scale per group.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from slc.compiler.errors import RequestError
from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.metric import Metric
from slc.compiler.structure.rounding import Grid, round_by_descent, round_by_feedback

DAMPING = 0.01  # GPTQ's own; a dense matrix has less freedom to fit noise than S and L
BITS = (2, 3, 4, 8)


@dataclasses.dataclass(frozen=True)
class DenseCodes:
    """A dense matrix of few bits: W ≈ scale · (code − 2^(bits−1)).

    Attributes:
      codes: u8 [N, K], 0 … 2^bits − 1.
      scales: f32 [N, groups], of either sign.
      bits: per code.
      group: columns that share a scale; the last group of a row may have fewer.
    """

    codes: npt.NDArray[np.uint8]
    scales: F32
    bits: int
    group: int

    def matrix(self) -> F32:
        """The weights, f32 [N, K]."""
        wide = np.repeat(self.scales, self.group, axis=1)[:, : self.codes.shape[1]]
        return wide * (self.codes.astype(np.float32) - np.float32(2 ** (self.bits - 1)))


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
    if bits not in BITS:
        raise RequestError(f"bits: got {bits}, wanted one of {', '.join(map(str, BITS))}")
    if group < 1:
        raise RequestError(f"group: got {group}, wanted 1 or more columns")
    metric = Metric.of(H, DAMPING)
    damped = metric.H * metric.scale * metric.scale[:, None]
    scales = _scales(W, bits, group)
    lowest = -(2 ** (bits - 1))
    levels = np.arange(lowest, -lowest, dtype=np.float32)
    grid = Grid(scales, levels, group)
    Q = round_by_feedback(W, damped, grid)
    if sweeps:
        Q = round_by_descent(W, Q, damped, grid, sweeps=sweeps)
    wide = np.repeat(scales, group, axis=1)[:, : W.shape[1]]
    steps = np.divide(Q, wide, out=np.zeros_like(Q), where=wide != 0)
    return DenseCodes((np.rint(steps) - lowest).astype(np.uint8), scales, bits, group)


def _scales(W: F32, bits: int, group: int) -> F32:
    """Scales that take the largest weight of each group to the level farthest from 0."""
    N, K = W.shape
    groups = -(-K // group)
    padded = np.zeros((N, groups * group), np.float32)
    padded[:, :K] = W
    by_group = padded.reshape(N, groups, group)
    at = np.abs(by_group).argmax(axis=2)[..., None]
    largest = np.take_along_axis(by_group, at, axis=2)[..., 0]
    return np.asarray(largest / np.float32(-(2 ** (bits - 1))), np.float32)
