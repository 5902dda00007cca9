"""The values that S can take in an i8 or i4 blob, chosen where S is made and kept with it."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.rounding import Grid, Mask
from slc.ops import codebook as codes
from slc.ops.blob_kinds import LEVELS

IntegerType = Literal["i8", "i4"]


@dataclasses.dataclass(frozen=True)
class StoredGrid:
    """Scales and levels of one matrix, on which its S lies.

    Attributes:
      value_type: "i8" or "i4".
      group: columns that share a scale.
      scales: f32 [N, groups], each an f16 number times one power of two for all.
      codebook: i8 [16] of i4, 0 first, so that both layouts can hold it; None of i8.
    """

    value_type: IntegerType
    group: int
    scales: F32
    codebook: npt.NDArray[np.int8] | None

    def rounding(self) -> Grid:
        """The same as a grid to round to."""
        if self.codebook is None:
            levels = np.arange(-LEVELS["i8"], LEVELS["i8"] + 1)
        else:
            levels = np.unique(self.codebook)
        return Grid(self.scales, levels.astype(np.float32), self.group)


def fitted(S: F32, mask: Mask, weight: F32, value_type: IntegerType, group: int) -> StoredGrid:
    """The grid for S [N, K] on `mask`.

    A group's scale takes its largest magnitude to the outermost level. The codebook is Lloyd's for
    all values of the matrix, each with the weight of its column.

    Args:
      S: f32 [N, K].
      mask: bool [N, K], what is stored.
      weight: f32 [K], of a squared error in each column: diag H.
      value_type: of the blob.
      group: columns that share a scale.
    """
    N, K = S.shape
    groups = -(-K // group)
    padded = np.zeros((N, groups * group), np.float32)
    np.copyto(padded[:, :K], np.abs(S), where=mask)
    scales = padded.reshape(N, groups, group).max(axis=2) / np.float32(LEVELS[value_type])
    scales = _rounded_to_f16(scales)
    if value_type == "i8":
        return StoredGrid("i8", group, scales, None)
    wide = np.repeat(scales, group, axis=1)[:, :K]
    stored = mask & (wide > 0)
    values = (S[stored] / wide[stored]).astype(np.float32)
    weights = (np.square(wide) * weight)[stored].astype(np.float32)
    codebook = codes.fit(codes.histogram(values, weights), zero_first=True)
    return StoredGrid("i4", group, scales, codebook)


def _rounded_to_f16(scales: F32) -> F32:
    """Each as an f16 number times the power of two that the blob's header will have."""
    for _ in range(2):  # rounding may take the largest to the next power of two, once
        exponent = int(np.frexp(scales.max(initial=0))[1]) - 15
        steps = np.ldexp(scales, -exponent).astype(np.float16)
        scales = np.ldexp(steps.astype(np.float32), exponent)
    return scales
