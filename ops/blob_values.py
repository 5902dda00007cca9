"""The values section of a packed blob: rounding to f16, i8 or i4 codes, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from . import codebook
from .blob_header import EXPONENT_MAX, EXPONENT_MIN
from .blob_kinds import LEVELS, Blob, Kind
from .code_runs import pack_runs
from .positions import chunks, popcount, unpack_masks

__all__ = [
    "Matrix",
    "exponent_of",
    "f16_scales",
    "f16_values",
    "fitted_codebook",
    "i4_runs",
    "i8_values",
    "read_back",
    "sample_rows",
    "scale_exponent",
    "times_power_of_two",
]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Rows = slice | npt.NDArray[np.int64]

_CODEBOOK_SAMPLE_ELEMS = 1 << 21


@dataclass(frozen=True)
class Matrix:
    """A matrix to pack: S float32 [N, K], and which values are stored when S != 0 does not say.

    With ``scales``, float32 [N, groups], they are given and not made of each group's largest value.
    """

    S: Floats
    mask: Bools | None
    scales: Floats | None = None

    @property
    def chunks(self) -> Iterator[slice]:
        """Rows at a time."""
        return chunks(*self.S.shape)

    def stored(self, rows: slice) -> Bools:
        """Which values of these rows are stored."""
        return self.S[rows] != 0 if self.mask is None else self.mask[rows]

    @cached_property
    def _zero_elsewhere(self) -> bool:
        """Whether S has the bits of 0 wherever nothing is stored, so that none need be cleared."""
        if self.mask is None:
            return True
        bits = self.S.view(np.uint32)
        return not any(((bits[rows] != 0) > self.mask[rows]).any() for rows in self.chunks)

    def values(self, rows: Rows) -> Floats:
        """These rows, 0 where nothing is stored."""
        if self.mask is None or self._zero_elsewhere:
            return self.S[rows]
        return np.where(self.mask[rows], self.S[rows], np.float32(0))

    def exponent(self, kind: Kind) -> int:
        """The exponent that brings the largest f16 number of the blob into [2^14, 2^15)."""
        if self.scales is not None:
            return scale_exponent(self.scales)
        largest = 0.0
        for rows in self.chunks:
            values = self.values(rows)
            largest = max(largest, float(values.max()), -float(values.min()))
        return exponent_of(largest, kind)


def exponent_of(largest: float, kind: Kind) -> int:
    """The exponent for values of which this is the largest magnitude.

    Raises:
        ValueError: it is 2^127 or more.
    """
    if largest >= 2.0**127:  # rounding could take it past float32
        raise ValueError(f"S: got a magnitude of {largest}, wanted less than 2^127")
    return _exponent(largest / LEVELS.get(kind.value_type, 1))


def scale_exponent(scales: Floats) -> int:
    """The exponent that brings the largest of some scales into [2^14, 2^15)."""
    return _exponent(max(float(scales.max(initial=0)), -float(scales.min(initial=0))))


def _exponent(largest: float) -> int:
    if largest == 0:
        return 0
    return min(max(math.frexp(largest)[1] - 15, EXPONENT_MIN), EXPONENT_MAX)


def times_power_of_two(values: Floats, power: int) -> Floats:
    """Values * 2^power in place, where 2^power itself may overflow float32."""
    while power:
        step = max(min(power, 126), -126)
        values *= np.float32(2.0**step)
        power -= step
    return values


def f16_scales(scales: Floats, exponent: int) -> Any:
    """Scales as a blob with that exponent keeps them."""
    return times_power_of_two(scales.copy(), -exponent).astype("<f2")


def _kept(dense: npt.NDArray[Any], masks: Blob) -> Any:
    """The values of whole rows at the positions of their masks, in order."""
    return np.compress(unpack_masks(masks, dense.shape[1]).reshape(-1), dense.reshape(-1))


def f16_values(matrix: Matrix, masks: Blob, exponent: int) -> Iterator[Floats]:
    """The values, ready for rounding to f16."""
    for rows in matrix.chunks:
        yield times_power_of_two(_kept(matrix.values(rows), masks[rows]), -exponent)


def group_width(k: int, group: int) -> int:
    """Columns that a group of a row of k really has; a group may be far wider than the matrix."""
    return min(group, k)


def _in_steps(
    matrix: Matrix, rows: Rows, exponent: int, kind: Kind, steps: int
) -> tuple[Any, Floats]:
    """(f16 scales [rows, groups], values [rows, groups * width] in 1 / steps of their scale)."""
    values = matrix.values(rows)
    count, k = values.shape
    groups, width = -(-k // kind.group), group_width(k, kind.group)
    lift = -exponent if exponent < -60 else 0  # else 1 / scale would overflow
    padded = np.zeros((count, groups * width), np.float32)
    padded[:, :k] = values
    with np.errstate(over="ignore"):  # of values beside a scale of 0
        times_power_of_two(padded, lift)
    by_group = padded.reshape(count, groups, width)
    if matrix.scales is None:
        peak = np.maximum(by_group.max(axis=2), -by_group.min(axis=2))
        peak /= np.float32(LEVELS[kind.value_type])
        peak[peak == 0] = -0.0  # whatever the signs of the zeros: as in blobs since version 1
        scales = times_power_of_two(peak, -exponent - lift).astype("<f2")
    else:
        scales = f16_scales(matrix.scales[rows], exponent)
    # The scale as the reader will see it; 0 stands for a group whose values all round to 0.
    scale = scales.astype(np.float64) * 2.0 ** (exponent + lift)
    inverse = np.divide(steps, scale, out=np.zeros_like(scale), where=scale != 0)
    with np.errstate(invalid="ignore"):
        by_group *= inverse.astype(np.float32)[:, :, None]
    by_group[scale == 0] = 0  # lifted to infinity, values were no numbers
    return scales, padded


def i8_values(
    matrix: Matrix, masks: Blob, exponent: int, kind: Kind, scales: Any
) -> Iterator[npt.NDArray[np.int8]]:
    """The values; fills in the scales."""
    k = matrix.S.shape[1]
    for rows in matrix.chunks:
        scales[rows], values = _in_i8(matrix, rows, exponent, kind)
        yield _kept(values[:, :k].astype(np.int8), masks[rows])


def _in_i8(matrix: Matrix, rows: slice, exponent: int, kind: Kind) -> tuple[Any, Floats]:
    """As `_in_steps`, rounded to the levels of i8."""
    levels = LEVELS["i8"]
    scales, values = _in_steps(matrix, rows, exponent, kind, 1)
    np.rint(values, out=values)
    return scales, np.maximum(np.minimum(values, levels, out=values), -levels, out=values)


def sample_rows(masks: npt.NDArray[Any], k: int) -> Iterator[npt.NDArray[np.int64]]:
    """Rows, some at a time, that a codebook is fitted to: spread evenly over those with values."""
    rows = np.flatnonzero(masks.any(axis=1))
    # Odd: weights that belong to heads or experts repeat with an even number of rows.
    rows = rows[:: rows.size * k // _CODEBOOK_SAMPLE_ELEMS | 1]
    return (rows[part] for part in (chunks(rows.size, k) if rows.size else ()))


def fitted_codebook(matrix: Matrix, masks: Blob, exponent: int, kind: Kind) -> npt.NDArray[np.int8]:
    """The codebook for the stored values."""
    k = matrix.S.shape[1]
    counts = np.zeros(codebook.HISTOGRAM_BINS)
    for sample in sample_rows(masks, k):
        scales, values = _in_steps(matrix, sample, exponent, kind, 1)
        weights = np.repeat(scales.astype(np.float32) ** 2, group_width(k, kind.group), axis=1)
        kept = [_kept(dense[:, :k], masks[sample]) for dense in (values, weights)]
        counts += codebook.histogram(*kept)
    return codebook.fit(counts, zero_first=kind.layout == "planes")


def i4_runs(
    matrix: Matrix, masks: Blob, exponent: int, kind: Kind, scales: Any, table: Blob
) -> Iterator[Blob]:
    """The runs of codes by ``codebook.code_table``; fills in the scales."""
    k = matrix.S.shape[1]
    for rows in matrix.chunks:
        scales[rows], cells = _in_cells(matrix, rows, exponent, kind)
        codes = table[_kept(cells[:, :k], masks[rows])]
        yield pack_runs(codes, popcount(masks[rows]).reshape(-1), kind.layout)


def _in_cells(matrix: Matrix, rows: slice, exponent: int, kind: Kind) -> tuple[Any, Blob]:
    """As `_in_steps`, as cells of ``codebook.code_table``."""
    scales, values = _in_steps(matrix, rows, exponent, kind, codebook.CELLS_A_UNIT)
    values += codebook.CELL_OF_ZERO
    top = 2 * codebook.CELL_OF_ZERO - 1
    np.maximum(np.minimum(values, top, out=values), 0, out=values)
    return scales, values.astype(np.uint8)


def read_back(
    matrix: Matrix, rows: slice, exponent: int, kind: Kind, book: npt.NDArray[np.int8] | None
) -> Floats:
    """These rows as a reader of the blob sees them, float32 [rows, K].

    The codebook is that of i4, else None.
    """
    if kind.value_type == "f16":
        values = times_power_of_two(matrix.values(rows).copy(), -exponent)
        return times_power_of_two(values.astype("<f2").astype(np.float32), exponent)
    if book is None:
        scales, values = _in_i8(matrix, rows, exponent, kind)
    else:
        scales, cells = _in_cells(matrix, rows, exponent, kind)
        values = book[codebook.code_table(book)].astype(np.float32)[cells]
    by_group = values.reshape(*scales.shape, -1)
    by_group *= scales.astype(np.float32)[:, :, None]
    kept = values[:, : matrix.S.shape[1]]
    # The entry nearest to 0 may be another, and what is not stored is 0 nevertheless.
    return times_power_of_two(kept if book is None else kept * matrix.stored(rows), exponent)
