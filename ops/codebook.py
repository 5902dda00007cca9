"""The 16 values that i4 codes stand for, fitted to a matrix.

Values are in units of their group's scale, so in -63 ... 63 but for what the scale lost in
rounding. Each counts with the square of its scale, so that the error of the matrix itself is what
shrinks. Lloyd's algorithm on a histogram: every entry moves to the mean of the values nearest to
it. Entries are whole numbers, so the border between two of them is a multiple of 1/2, and a table
with two cells for each unit assigns exactly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .blob_kinds import LEVELS, Blob
from .blob_sections import CODEBOOK_ENTRIES

__all__ = ["CELLS_A_UNIT", "CELL_OF_ZERO", "HISTOGRAM_BINS", "code_table", "fit", "histogram"]

Codebook = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]

HISTOGRAM_BINS = 4096
CELLS_A_UNIT = 2
CELL_OF_ZERO = 128
_HALF_RANGE = CELL_OF_ZERO // CELLS_A_UNIT
_CENTERS = ((np.arange(HISTOGRAM_BINS) + 0.5) * 2 / HISTOGRAM_BINS - 1) * _HALF_RANGE
_ROUNDS = 64


def histogram(values: Floats, weights: Floats) -> npt.NDArray[np.float64]:
    """The weight in each of 4096 bins; values beyond the range go to the outermost."""
    bins = values * np.float32(HISTOGRAM_BINS / 2 / _HALF_RANGE) + np.float32(HISTOGRAM_BINS / 2)
    bins = np.maximum(np.minimum(bins, HISTOGRAM_BINS - 1, out=bins), 0, out=bins)
    return np.asarray(np.bincount(bins.astype(np.int64), weights, HISTOGRAM_BINS), np.float64)


def fit(counts: npt.NDArray[np.float64], zero_first: bool) -> Codebook:
    """Sixteen entries for values with this histogram; entry 0 is 0 when ``zero_first``."""
    if not counts.any():  # nothing known, so nothing is excluded
        counts = np.ones(HISTOGRAM_BINS)
    entries = _spread(counts)
    zero = int(np.argmin(np.abs(entries)))
    # Of the bins below the i-th: their weight, and its first moment.
    mass, moment = (np.concatenate([[0.0], np.cumsum(c)]) for c in (counts, counts * _CENTERS))
    for _ in range(_ROUNDS):
        if zero_first:
            entries[zero] = 0
        before = entries.copy()
        borders = np.searchsorted(_CENTERS, (entries[1:] + entries[:-1]) / 2, side="right")
        ends = np.concatenate([[0], borders, [HISTOGRAM_BINS]])
        own = np.diff(mass[ends])
        np.divide(np.diff(moment[ends]), own, out=entries, where=own > 0)
        if np.array_equal(entries, before):
            break
    whole = np.clip(np.rint(entries), -LEVELS["i4"], LEVELS["i4"]).astype(np.int8)
    if zero_first:
        whole = np.concatenate([np.zeros(1, np.int8), np.delete(whole, zero)])
    return whole


def _spread(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where Lloyd's algorithm begins: as dense as the cube root of the density of the values.

    That is the optimum for many entries (Panter and Dite, 1951).
    """
    below = np.cumsum(np.cbrt(counts))
    quantiles = (np.arange(CODEBOOK_ENTRIES) + 0.5) / CODEBOOK_ENTRIES * below[-1]
    entries: npt.NDArray[np.float64] = _CENTERS[np.searchsorted(below, quantiles)]
    return entries


def code_table(codebook: Codebook) -> Blob:
    """The code of the entry nearest to each half unit: cell = floor(2 * value) + 128."""
    cells = (np.arange(2 * CELL_OF_ZERO) + 0.5 - CELL_OF_ZERO) / CELLS_A_UNIT
    table: Blob = np.abs(cells[:, None] - codebook).argmin(axis=1).astype(np.uint8)
    return table
