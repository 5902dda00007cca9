"""The order "tiles" of FORMAT.md: a matrix as blocks that tensor cores take.

A block is 16 rows by 64 columns, what one warp turns into four A operands of an
`mma.m16n8k16`. Its 1024 positions lie in 32 words of 32 bits; a word holds, for 16 columns, two
rows that follow each other. What lies beyond N and K is there and not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .blob_kinds import Blob, ValueType

if TYPE_CHECKING:
    from .blob_header import Header

__all__ = [
    "BLOCK_COLUMNS",
    "BLOCK_ROWS",
    "MASK_BYTES",
    "bits_outside",
    "blocks_in",
    "from_blocks",
    "most_units",
    "relaid_masks",
    "relaid_scales",
    "rows_of_masks",
    "rows_of_scales",
    "stored_values",
    "to_blocks",
    "units",
    "values_section",
]

Bools = npt.NDArray[np.bool_]
Stored = Iterator[tuple[slice, Any, Any]]  # (rows, index in the flattened rows, value)

BLOCK_ROWS, BLOCK_COLUMNS = 16, 64
MASK_BYTES = BLOCK_ROWS * BLOCK_COLUMNS // 8

# How a block's rows and columns are cut, slowest first: [half, pair, row] and [step, column].
_ROWS, _COLUMNS = (2, 4, 2), (4, 16)
_TILES_AT_ONCE = 8
_IN_UNIT: dict[ValueType, int] = {"f16": 8, "i8": 16, "i4": 32}


def blocks_in(n: int, k: int) -> int:
    """Blocks of an [n, k] matrix."""
    return -(-n // BLOCK_ROWS) * -(-k // BLOCK_COLUMNS)


def to_blocks(dense: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[16·t, 64·w] as [t·w, 1024], each block's positions in the order of its words and bits."""
    rows, columns = dense.shape
    wide = columns // BLOCK_COLUMNS
    cut = dense.reshape(-1, *_ROWS, wide, *_COLUMNS)
    order = cut.transpose(0, 4, 5, 1, 2, 3, 6)  # tile, block, step, half, pair, row, column
    return order.reshape(rows // BLOCK_ROWS * wide, BLOCK_ROWS * BLOCK_COLUMNS)


def from_blocks(blocks: npt.NDArray[Any], columns: int) -> npt.NDArray[Any]:
    """The inverse: [16·t, columns] of [t·w, 1024], columns being 64·w."""
    wide = columns // BLOCK_COLUMNS
    order = blocks.reshape(-1, wide, _COLUMNS[0], *_ROWS, _COLUMNS[1])
    return order.transpose(0, 3, 4, 5, 1, 2, 6).reshape(-1, columns)


def units(counts: npt.NDArray[Any], value_type: ValueType) -> npt.NDArray[np.int64]:
    """Units of 16 bytes that each block takes, given its stored values."""
    in_unit = _IN_UNIT[value_type]
    return -(-counts.astype(np.int64) // in_unit)


def most_units(n: int, k: int, nnz: int, value_type: ValueType) -> int:
    """The most units that nnz values take, wherever they are."""
    in_unit, blocks = _IN_UNIT[value_type], blocks_in(n, k)
    padded = (nnz + min(blocks, nnz) * (in_unit - 1)) // in_unit
    return min(padded, blocks * (BLOCK_ROWS * BLOCK_COLUMNS // in_unit))


def relaid_masks(masks: Blob, k: int) -> Blob:
    """Masks by row, bytes [N, 8·words], as masks by block, bytes [blocks, 128]."""
    parts = [
        np.packbits(to_blocks(_padded(_unpacked(masks[rows], k))), axis=1, bitorder="little")
        for rows in _tile_rows(len(masks))
    ]
    return np.concatenate(parts)


def rows_of_masks(masks: Blob, n: int, k: int) -> Blob:
    """The inverse of :func:`relaid_masks`; bits beyond N and K are dropped."""
    parts = []
    for rows, bits in _bits(masks, n, k):
        packed = np.packbits(bits[: rows.stop - rows.start, :k], axis=1, bitorder="little")
        words = np.zeros((len(packed), 8 * -(-k // 64)), np.uint8)
        words[:, : packed.shape[1]] = packed
        parts.append(words)
    return np.concatenate(parts)


def bits_outside(masks: Blob, n: int, k: int) -> tuple[int, int] | None:
    """The first (row, column) beyond N or K that a mask by block has a bit for."""
    for rows, bits in _bits(masks, n, k):
        bits[: rows.stop - rows.start, :k] = False
        if bits.any():
            row, column = np.argwhere(bits)[0]
            return rows.start + int(row), int(column)
    return None


def relaid_scales(scales: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Scales [N, groups] as [tiles, groups, 16]: those that a warp wants lie together."""
    n, groups = scales.shape
    padded = np.zeros((-(-n // BLOCK_ROWS) * BLOCK_ROWS, groups), scales.dtype)
    padded[:n] = scales
    return padded.reshape(-1, BLOCK_ROWS, groups).transpose(0, 2, 1)


def rows_of_scales(relaid: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    """The inverse of :func:`relaid_scales`."""
    groups = relaid.shape[1]
    return relaid.transpose(0, 2, 1).reshape(-1, groups)[:n]


def values_section(
    starts: npt.NDArray[np.uint32], n: int, k: int, value_type: ValueType, stored: Stored
) -> Blob:
    """The values section, bytes, of values that arrive row by row (i4: as codes).

    Args:
        starts: [blocks + 1], in units.
        n: rows.
        k: columns.
        value_type: of the values.
        stored: chunks of rows, each of whole tiles but for the last.
    """
    dtype = np.dtype("<f2") if value_type == "f16" else np.dtype(np.uint8)
    in_unit = _IN_UNIT[value_type]
    section = np.zeros(int(starts[-1]) * in_unit, dtype)  # i4: a code each, packed at the end
    wide = -(-k // BLOCK_COLUMNS)
    for rows, at, values in stored:
        count = rows.stop - rows.start
        dense, mask = np.zeros(count * k, dtype), np.zeros(count * k, np.bool_)
        dense[at], mask[at] = values.view(dtype), True
        kept = to_blocks(_padded(mask.reshape(count, k)))
        counts = np.count_nonzero(kept, axis=1)
        first = rows.start // BLOCK_ROWS * wide
        begins = starts[first : first + len(kept)].astype(np.int64) * in_unit
        section[_places(begins, counts)] = to_blocks(_padded(dense.reshape(count, k)))[kept]
    if value_type == "i4":
        return np.asarray(section[0::2] | section[1::2] << 4, np.uint8)
    return section.view(np.uint8)


def stored_values(blob: Blob, header: Header) -> Stored:
    """What a blob in this order stores, row by row; i4 as codes."""
    masks, starts = header.block_masks(blob), header.starts(blob)
    section: Any = blob[header.values_offset :]
    if header.value_type == "f16":
        section = section.view("<f2")
    elif header.value_type == "i4":
        section = np.stack([section & 15, section >> 4], axis=1).reshape(-1)
    else:
        section = section.view(np.int8)
    in_unit, wide = _IN_UNIT[header.value_type], header.words
    for rows in _tile_rows(header.n):
        count = rows.stop - rows.start
        first, last = rows.start // BLOCK_ROWS * wide, -(-rows.stop // BLOCK_ROWS) * wide
        kept = np.unpackbits(masks[first:last], axis=1, bitorder="little").view(np.bool_)
        begins = starts[first:last].astype(np.int64) * in_unit
        dense = np.zeros(kept.shape, section.dtype)
        dense[kept] = section[_places(begins, np.count_nonzero(kept, axis=1))]
        columns = BLOCK_COLUMNS * wide
        stored = from_blocks(kept, columns)[:count, : header.k]
        at = np.flatnonzero(stored)
        yield rows, at, from_blocks(dense, columns)[:count, : header.k].reshape(-1)[at]


def _places(begins: npt.NDArray[np.int64], counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Where each value of blocks goes that begin there, one after another."""
    before = np.cumsum(counts) - counts
    places: npt.NDArray[np.int64] = np.arange(int(counts.sum())) + np.repeat(
        begins - before, counts
    )
    return places


def _bits(masks: Blob, n: int, k: int) -> Iterator[tuple[slice, Bools]]:
    """(rows, bool [16·tiles, 64·words]) of masks by block."""
    wide = -(-k // BLOCK_COLUMNS)
    for rows in _tile_rows(n):
        first, last = rows.start // BLOCK_ROWS * wide, -(-rows.stop // BLOCK_ROWS) * wide
        kept = np.unpackbits(masks[first:last], axis=1, bitorder="little").view(np.bool_)
        yield rows, np.ascontiguousarray(from_blocks(kept, BLOCK_COLUMNS * wide))


def _tile_rows(n: int) -> Iterator[slice]:
    """Slices of whole tiles of rows."""
    step = BLOCK_ROWS * _TILES_AT_ONCE
    for begin in range(0, n, step):
        yield slice(begin, min(begin + step, n))


def _unpacked(masks: Blob, k: int) -> Bools:
    return np.unpackbits(masks, axis=1, count=k, bitorder="little").view(np.bool_)


def _padded(dense: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows of whole tiles and columns of whole blocks, zeros in what was added."""
    rows, columns = dense.shape
    shape = (
        -(-rows // BLOCK_ROWS) * BLOCK_ROWS,
        -(-columns // BLOCK_COLUMNS) * BLOCK_COLUMNS,
    )
    if shape == dense.shape:
        return dense
    padded = np.zeros(shape, dense.dtype)
    padded[:rows, :columns] = dense
    return padded
