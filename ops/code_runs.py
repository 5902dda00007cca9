"""Runs of 4-bit codes, one run for each mask word, in the two layouts of FORMAT.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .blob_kinds import Blob, Kind, Layout

__all__ = ["pack_runs", "row_lengths", "run_bytes", "unpack_runs"]

Counts = npt.NDArray[np.uint8]

_COUNTS = np.arange(65)[:, None]
_BITS = 4
# Row p says which slots a run of p codes fills, counted in codes and in bytes.
_CODES = np.arange(64) < _COUNTS
_SLOTS: dict[Layout, npt.NDArray[np.bool_]] = {
    "rows": np.arange(32) < -(-_COUNTS // 2),
    "planes": np.tile(np.arange(8) < -(-_COUNTS // 8), (1, _BITS)),
}
_RUN_BYTES = {layout: slots.sum(axis=1).astype(np.uint8) for layout, slots in _SLOTS.items()}


def run_bytes(counts: Counts, layout: Layout) -> Counts:
    """Bytes of the run of each word, given the codes in it."""
    total: Counts = _RUN_BYTES[layout][counts]
    return total


def row_lengths(counts: Counts, kind: Kind) -> npt.NDArray[np.uint64]:
    """What each row adds to starts, [N], given the values of its mask words, [N, words]."""
    counts = run_bytes(counts, kind.layout) if kind.value_type == "i4" else counts
    total: npt.NDArray[np.uint64] = counts.sum(axis=1, dtype=np.uint64)
    return total


def pack_runs(codes: Blob, counts: Counts, layout: Layout) -> Blob:
    """The bytes of the runs of words that have ``counts`` codes each."""
    spread = np.zeros((counts.size, 64), np.uint8)
    # Indices: assigning through a boolean mask mispredicts a branch at every other value.
    spread.reshape(-1)[np.flatnonzero(_CODES[counts])] = codes
    if layout == "rows":
        pairs: Any = spread.view("<u2")
        packed = (pairs | pairs >> 4).astype(np.uint8)
    else:
        planes = [
            np.packbits(spread & np.uint8(1 << bit), axis=1, bitorder="little")
            for bit in range(_BITS)
        ]
        packed = np.concatenate(planes, axis=1)
    return np.compress(_SLOTS[layout][counts].reshape(-1), packed.reshape(-1))


def unpack_runs(runs: Blob, counts: Counts, layout: Layout) -> Blob:
    """The codes in order; the inverse of :func:`pack_runs`."""
    slots = _SLOTS[layout]
    packed = np.zeros((counts.size, slots.shape[1]), np.uint8)
    packed.reshape(-1)[np.flatnonzero(slots[counts])] = runs
    if layout == "rows":
        spread = np.stack([packed & np.uint8(15), packed >> 4], axis=2)
    else:
        bits = np.unpackbits(packed, axis=1, bitorder="little").reshape(-1, _BITS, 64)
        spread = bits[:, 0] | bits[:, 1] << 1 | bits[:, 2] << 2 | bits[:, 3] << 3
    return np.compress(_CODES[counts].reshape(-1), spread.reshape(-1))
