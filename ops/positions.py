"""Which positions of a matrix are stored: mask words, and the gaps that a delta blob counts in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .blob_kinds import Blob, Encoding

__all__ = [
    "GAP_MAX",
    "bridged",
    "chunks",
    "full_masks",
    "gaps",
    "pack_masks",
    "popcount",
    "positions_of_gaps",
    "unpack_masks",
]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

GAP_MAX = 255

_CHUNK_ELEMS = 1 << 17
_CHUNK_ROWS = 16  # a multiple of every tile that the writer makes
_ONES, _TWOS, _FOURS, _BYTES = (
    np.uint64(0x5555555555555555),
    np.uint64(0x3333333333333333),
    np.uint64(0x0F0F0F0F0F0F0F0F),
    np.uint64(0x0101010101010101),
)


def chunks(n: int, k: int) -> Iterator[slice]:
    """Slices of whole tiles of rows, small enough for the cache."""
    rows = max(1, _CHUNK_ELEMS // (k * _CHUNK_ROWS)) * _CHUNK_ROWS
    for begin in range(0, n, rows):
        yield slice(begin, min(begin + rows, n))


def pack_masks(stored: Bools, encoding: Encoding) -> Blob:
    """The mask words of rows as bytes [rows, 8 * words], with the fillers that delta needs."""
    bits = np.packbits(
        bridged(stored) if encoding == "delta" else stored, axis=1, bitorder="little"
    )
    masks = np.zeros((bits.shape[0], -(-bits.shape[1] // 8) * 8), np.uint8)
    masks[:, : bits.shape[1]] = bits
    return masks


def full_masks(n: int, k: int) -> Blob:
    """The masks of n rows that store all of their k columns, as :func:`pack_masks`; read-only."""
    masks = pack_masks(np.ones((1, k), np.bool_), "full")
    return np.broadcast_to(masks, (n, masks.shape[1]))


def unpack_masks(masks: Blob, k: int) -> Bools:
    """Bool [rows, k] of masks as bytes."""
    return np.unpackbits(masks, axis=1, count=k, bitorder="little").view(np.bool_)


def popcount(masks: Blob) -> npt.NDArray[np.uint8]:
    """Bits set in each word: [N, words] of masks as bytes [N, 8 * words]."""
    words = masks.view("<u8")
    words = words - ((words >> np.uint64(1)) & _ONES)
    words = (words & _TWOS) + ((words >> np.uint64(2)) & _TWOS)
    words = (words + (words >> np.uint64(4))) & _FOURS
    counts: npt.NDArray[np.uint8] = ((words * _BYTES) >> np.uint64(56)).astype(np.uint8)
    return counts


def gaps(stored: Bools) -> tuple[Ints, Ints]:
    """(index of each stored value in the flattened rows, columns from the one before in its row).

    The gap of a row's first value is its column.
    """
    at = np.flatnonzero(stored)
    before = np.empty_like(at)
    before[1:] = at[:-1]
    per_row = np.count_nonzero(stored, axis=1)
    rows = np.flatnonzero(per_row)
    before[(np.cumsum(per_row) - per_row)[rows]] = rows * stored.shape[1]
    return at, at - before


def bridged(stored: Bools) -> Bools:
    """``stored`` and the fillers that leave no gap wider than a byte can say."""
    if stored.shape[1] <= GAP_MAX + 1:
        return stored
    at, gap = gaps(stored)
    wide = np.flatnonzero(gap > GAP_MAX)
    if not wide.size:
        return stored
    fillers = (gap[wide] - 1) // GAP_MAX
    first = np.repeat(np.cumsum(fillers) - fillers, fillers)
    nth = np.arange(1, first.size + 1) - first
    closed = stored.copy()
    closed.reshape(-1)[np.repeat(at[wide] - gap[wide], fillers) + GAP_MAX * nth] = True
    return closed


def positions_of_gaps(gap: Blob, per_row: Ints, k: int) -> Ints:
    """The index of each value in the flattened rows of k columns; the inverse of :func:`gaps`."""
    reached = np.concatenate([np.zeros(1, np.int64), np.cumsum(gap, dtype=np.int64)])
    row_begins = np.cumsum(per_row) - per_row
    offset = np.arange(per_row.size) * k - reached[row_begins]
    positions: Ints = reached[1:] + np.repeat(offset, per_row)
    return positions
