"""Importance order: which entries S keeps, most important first.

Both orders are total (ties go to the lower index), so a prefix is the same set on every machine.
A key holds the inverted bits of |importance| above the index: without a sign the bits of floats
sort as their values do, and numpy's vectorised integer sort then needs no argsort, no stability.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.unsignedinteger]
F32 = npt.NDArray[np.float32]

_INDEX_MASK = np.uint64(0xFFFFFFFF)
_SIGN = np.uint32(0x80000000)
_POSITIONS = 1 << 20  # of an index at a time: in 64 bits they stay in the cache
_BLOCK_ELEMS = 1 << 18  # rows sorted together: their keys stay in the cache


def index_dtype(N: int, K: int) -> np.dtype[np.unsignedinteger]:
    """The type that S.index has for a matrix of this shape: u32, or u64 from 2^32 entries on."""
    return np.dtype(np.uint32 if N * K < 2**32 else np.uint64)


def global_count(numel: int, density: float) -> int:
    """Entries that `density` keeps of a matrix of `numel` entries ordered globally."""
    return round(density * numel)


def row_count(K: int, density: float) -> int:
    """Entries that `density` keeps of each row of length K."""
    return round(density * K)


def global_order(importance: F32, count: int) -> Index:
    """Flat row-major indices of the `count` largest entries, largest first.

    Args:
      importance: f32 [N, K], finite; its sign does not matter.
      count: how many, at most N·K.

    Returns:
      u32 (or u64, see `index_dtype`) [count].
    """
    dtype = index_dtype(*importance.shape)
    if count == 0:
        return np.zeros(0, dtype)
    flat = np.ascontiguousarray(importance).reshape(-1)
    if dtype == np.uint64:
        return _order_by_argsort(flat, count)
    keys = _keys(flat)
    if count < keys.size:
        keys.partition(count - 1)
        keys = keys[:count].copy()  # lets go of the rest before sorting
    keys.sort()
    return (keys & _INDEX_MASK).astype(dtype)


def row_order(importance: F32, per_row: int) -> Index:
    """Flat indices of the `per_row` largest entries of every row, interleaved by rank in the row.

    First the largest entry of each row, rows in order, then the second of each: a prefix of
    N·j entries holds exactly the j largest of every row.

    Args:
      importance: f32 [N, K], finite; its sign does not matter.
      per_row: how many per row, at most K.

    Returns:
      u32 (or u64, see `index_dtype`) [N·per_row].
    """
    N, K = importance.shape
    dtype = index_dtype(N, K)
    columns = np.empty((N, per_row), dtype)
    rows_at_once = max(1, _BLOCK_ELEMS // K)
    for start in range(0, N, rows_at_once):
        block = np.ascontiguousarray(importance[start : start + rows_at_once])
        keys = _keys(block.reshape(-1)).reshape(block.shape)
        keys.sort(axis=1)
        flat = (keys[:, :per_row] & _INDEX_MASK).astype(dtype)
        columns[start : start + len(block)] = flat + dtype.type(start * K)
    return np.ascontiguousarray(columns.T).reshape(-1)


def _keys(flat: F32) -> npt.NDArray[np.uint64]:
    """Keys that sort ascending by falling magnitude, then by rising index; u64 [size < 2^32]."""
    keys = np.empty(flat.size, "<u8")
    halves = keys.view("<u4").reshape(-1, 2)
    bits = flat.view(np.uint32)
    for at in _blocks(flat.size):
        halves[at, 0] = np.arange(at.start, at.stop, dtype=np.uint32)
        np.bitwise_or(~bits[at], _SIGN, out=halves[at, 1])
    return keys


def positions(index: Index) -> Iterator[tuple[slice, npt.NDArray[np.intp]]]:
    """An index block by block, in the type that numpy would turn it into whole to assign by it."""
    return ((at, index[at].astype(np.intp)) for at in _blocks(index.size))


def _blocks(size: int) -> Iterator[slice]:
    step = _POSITIONS
    return (slice(at, min(size, at + step)) for at in range(0, size, step))


def _order_by_argsort(flat: F32, count: int) -> Index:
    """The same order where an index needs more than 32 bits."""
    return np.argsort(-np.abs(flat), kind="stable")[:count].astype(np.uint64)
