"""Encode and decode the packed blob of FORMAT.md: the executable form of the format.

A blob is a one-dimensional uint8 array that holds one sparse matrix S: [N, K]. All loops go over
chunks of rows that fit the cache, so memory stays at the blob plus a bit for each position and a
few megabytes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from . import tiles
from .blob_check import check
from .blob_grid import Grid
from .blob_header import BlobError, Header, read_header, write_header
from .blob_kinds import Blob, Encoding, Kind, Layout, ValueType, checked_kind
from .blob_sections import blob_end, sections
from .blob_size import DELTA_BELOW, blob_bytes, counted_bytes, encoded_bytes
from .blob_values import (
    Matrix,
    f16_values,
    fitted_codebook,
    group_width,
    i4_runs,
    i8_values,
    read_back,
    times_power_of_two,
)
from .code_runs import row_lengths, run_bytes, unpack_runs
from .codebook import code_table
from .positions import (
    chunks,
    full_masks,
    gaps,
    pack_masks,
    popcount,
    positions_of_gaps,
    unpack_masks,
)

__all__ = [
    "DELTA_BELOW",
    "BlobError",
    "Encoding",
    "Grid",
    "Header",
    "Layout",
    "ValueType",
    "blob_bytes",
    "check",
    "check_matrix",
    "counted_bytes",
    "decode",
    "decode_integers",
    "encode",
    "encoded_bytes",
    "new_blob",
    "not_finite",
    "read_header",
    "rounded",
]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_VALUE_DTYPES: dict[ValueType, Any] = {
    "f16": np.dtype("<f2"),
    "i8": np.dtype("i1"),
    "i4": np.dtype("u1"),
}


def encode(
    S: Floats,
    value_type: ValueType = "f16",
    group: int = 64,
    mask: Bools | None = None,
    *,
    encoding: Encoding = "bitmap",
    layout: Layout = "rows",
    grid: Grid | None = None,
) -> Blob:
    """Pack S: float32 [N, K] into a blob: uint8 [bytes].

    Args:
        S: finite values.
        value_type: how a stored value is kept. "f16" rounds to 11 significant bits, "i8" to 255
            levels of the largest magnitude in each ``group`` columns of a row, "i4" to 16 levels
            that are fitted to the matrix, with "planes" 15 and zero.
        group: columns that share a scale, a multiple of 64; ignored for "f16" and for "delta",
            which has one group.
        mask: bool [N, K], which values are stored; S != 0 when left out. Not for "full".
        encoding: how positions are kept; "delta" goes with "f16" and "i8", "full" stores them all.
        layout: the order of values; "planes" goes with "i4", "tiles" (for GPUs) with "bitmap".
        grid: the scales and the codebook, where they have been chosen: a value on this grid is
            kept as it is. For "i8" and "i4", not for "delta".

    Raises:
        ValueError: wrong shape, type, group, or a value that is NaN or infinite.
    """
    check_matrix(S, mask)
    _check_finite(S)
    n, k = S.shape
    kind = checked_kind(k, value_type, group, encoding, layout)
    if encoding == "full" and mask is not None:
        raise ValueError("mask: got one with encoding 'full', wanted none: all values are stored")
    if grid is not None:
        grid.check(n, k, kind)
    matrix = Matrix(S, mask, None if grid is None else grid.scales)
    if layout == "tiles":
        return _relaid(encode(S, value_type, group, mask, grid=grid), kind)
    masks = _encode_masks(matrix, encoding)
    blob, header, values = new_blob(masks, k, kind, matrix.exponent(kind))
    codebook = None if grid is None else grid.codebook
    _encode_values(values, blob, header, matrix, masks, codebook)
    write_header(blob, header)
    return blob


def rounded(
    S: Floats,
    value_type: ValueType,
    group: int = 64,
    mask: Bools | None = None,
    *,
    layout: Layout = "rows",
    grid: Grid | None = None,
) -> Floats:
    """What a bitmap of S gives back, ``decode(encode(S, …))``, without making it: float32 [N, K].

    Arguments and errors are those of :func:`encode`.
    """
    check_matrix(S, mask)
    _check_finite(S)
    kind = checked_kind(S.shape[1], value_type, group, "bitmap", layout)
    if grid is not None:
        n, k = S.shape
        grid.check(n, k, kind)
    matrix = Matrix(S, mask, None if grid is None else grid.scales)
    exponent = matrix.exponent(kind)
    book = None
    if value_type == "i4":
        book = None if grid is None else grid.codebook
        if book is None:
            masks = _encode_masks(matrix, "bitmap")
            book = fitted_codebook(matrix, masks, exponent, kind)
    found = np.empty(S.shape, np.float32)
    for rows in matrix.chunks:
        found[rows] = read_back(matrix, rows, exponent, kind, book)
    return found


def new_blob(masks: Blob, k: int, kind: Kind, exponent: int) -> tuple[Blob, Header, Blob]:
    """(a blob with everything but values, scales and codebook, its header, its values section).

    The header is not in the blob yet, since it has the checksum. Masks: bytes [N, 8 * words].
    """
    n = masks.shape[0]
    nnz, starts = _encode_starts(masks, kind)
    at = sections(n, k, nnz, kind, kind.tile_rows)
    values_end = at.values + kind.values_bytes(int(starts[-1]))
    blob = np.zeros(blob_end(values_end), np.uint8)
    header = Header(
        n=n,
        k=k,
        nnz=nnz,
        encoding=kind.encoding,
        value_type=kind.value_type,
        layout=kind.layout,
        group=kind.group,
        tile_rows=kind.tile_rows,
        exponent=exponent,
        values_offset=at.values,
        total_bytes=blob.size,
        crc32=0,
    )
    header.starts(blob)[:] = starts
    if kind.encoding == "bitmap":
        header.masks(blob)[:] = masks
    elif kind.encoding == "delta":
        _fill(header.gaps(blob), _gap_bytes(masks, k))
    return blob, header, blob[at.values : values_end]


def _relaid(rows: Blob, kind: Kind) -> Blob:
    """The same bitmap in the layout "tiles"."""
    before = read_header(rows)
    n, k, value_type = before.n, before.k, before.value_type
    masks = tiles.relaid_masks(before.masks(rows), k)
    starts = np.zeros(len(masks) + 1, np.uint64)
    counts = popcount(masks).sum(axis=1, dtype=np.int64)
    np.cumsum(tiles.units(counts, value_type), out=starts[1:])
    if starts[-1] >= 2**32:
        raise ValueError(f"S: got {starts[-1]} units of 16 bytes in tiles, wanted less than 2^32")
    at = sections(n, k, before.nnz, kind, kind.tile_rows)
    values_end = at.values + kind.values_bytes(int(starts[-1]))
    blob = np.zeros(blob_end(values_end), np.uint8)
    header = dataclasses.replace(
        before, layout="tiles", values_offset=at.values, total_bytes=blob.size, crc32=0
    )
    header.starts(blob)[:] = starts
    header.block_masks(blob)[:] = masks
    if kind.group:
        header.block_scales(blob)[:] = tiles.relaid_scales(before.scales(rows))
    if value_type == "i4":
        header.codebook(blob)[:] = before.codebook(rows)
    stored = _stored_values(rows, before)
    blob[at.values : values_end] = tiles.values_section(
        header.starts(blob), n, k, value_type, stored
    )
    write_header(blob, header)
    return blob


def check_matrix(S: Floats, mask: Bools | None) -> None:
    """Type and shape of what is to be encoded; see :func:`encode`."""
    if S.dtype != np.float32 or S.ndim != 2 or 0 in S.shape:
        raise ValueError(f"S: got {S.dtype} {list(S.shape)}, wanted float32 [N, K], N and K >= 1")
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != S.shape):
        raise ValueError(f"mask: got {mask.dtype} {list(mask.shape)}, wanted bool {list(S.shape)}")


def _check_finite(S: Floats) -> None:
    for rows in chunks(*S.shape):
        if not (math.isfinite(S[rows].max()) and math.isfinite(S[rows].min())):
            row, column = np.argwhere(~np.isfinite(S[rows]))[0]
            raise not_finite(S, rows.start + int(row), int(column))


def not_finite(S: Floats, row: int, column: int) -> ValueError:
    """What :func:`encode` says of a value that is NaN or infinite."""
    return ValueError(f"S[{row}, {column}]: got {S[row, column]}, wanted a finite number")


def _encode_values(
    section: Blob, blob: Blob, header: Header, matrix: Matrix, masks: Blob, codebook: Any
) -> None:
    """Fill the values section, and the scales and the codebook that go with it."""
    values = section.view(_VALUE_DTYPES[header.value_type])
    exponent, kind, scales = header.exponent, header.kind, header.scales(blob)
    if kind.value_type == "f16":
        _fill(values, f16_values(matrix, masks, exponent))
    elif kind.value_type == "i8":
        _fill(values, i8_values(matrix, masks, exponent, kind, scales))
    else:
        if codebook is None:
            codebook = fitted_codebook(matrix, masks, exponent, kind)
        header.codebook(blob)[:] = codebook
        _fill(values, i4_runs(matrix, masks, exponent, kind, scales, code_table(codebook)))


def _fill(section: Any, parts: Iterator[Any]) -> None:
    """Write the parts one after another."""
    begin = 0
    for part in parts:
        section[begin : begin + part.size] = part
        begin += part.size


def _encode_masks(matrix: Matrix, encoding: Encoding) -> Blob:
    """Masks as bytes [N, 8 * words], those of delta with its fillers."""
    n, k = matrix.S.shape
    if encoding == "full":
        return full_masks(n, k)
    masks = np.empty((n, 8 * -(-k // 64)), np.uint8)
    for rows in matrix.chunks:
        masks[rows] = pack_masks(matrix.stored(rows), encoding)
    return masks


def _encode_starts(masks: Blob, kind: Kind) -> tuple[int, npt.NDArray[np.uint64]]:
    """(stored values, starts [tiles + 1])."""
    n, row_bytes = masks.shape
    nnz = 0
    per_row = np.empty(n, np.uint64)
    for rows in chunks(n, row_bytes):
        counts = popcount(masks[rows])
        nnz += int(counts.sum(dtype=np.uint64))
        per_row[rows] = row_lengths(counts, kind)
    per_tile = np.add.reduceat(per_row, np.arange(0, n, kind.tile_rows))
    return nnz, np.concatenate([np.zeros(1, np.uint64), np.cumsum(per_tile, dtype=np.uint64)])


def _gap_bytes(masks: Blob, k: int) -> Iterator[Blob]:
    for rows in chunks(masks.shape[0], k):
        yield gaps(unpack_masks(masks[rows], k))[1].astype(np.uint8)


def decode(blob: Blob) -> Floats:
    """The matrix of a blob: float32 [N, K].

    Raises:
        BlobError: the blob fails :func:`check`.
    """
    check(blob)
    header = read_header(blob)
    S = np.zeros((header.n, header.k), np.float32)
    for rows, at, values in _decode_values(blob, header):
        flat = S[rows].reshape(-1)
        if header.encoding == "delta":
            np.add.at(flat, at, values.astype(np.float32))  # several may land on a position
        else:
            # Indices: assigning through a boolean mask mispredicts a branch at every other value.
            flat[at] = values
        if header.group:
            scales = header.scales(blob)[rows].astype(np.float32)
            S[rows] *= np.repeat(scales, group_width(header.k, header.group), axis=1)[:, : header.k]
        times_power_of_two(S[rows], header.exponent)
    return S


def decode_integers(blob: Blob) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """(integers [N, K], scales with the exponent [N, groups]) of i8 or i4 values, both exact.

    Raises:
        BlobError: the blob fails :func:`check`.
        ValueError: another kind of blob, or "delta".
    """
    check(blob)
    header = read_header(blob)
    if header.value_type == "f16" or header.encoding == "delta":
        got = f"a {header.encoding} of {header.value_type} values"
        raise ValueError(f"blob: got {got}, wanted a bitmap or a full blob of i8 or i4")
    integers = np.zeros((header.n, header.k), np.int8)
    for rows, at, values in _decode_values(blob, header):
        integers[rows].reshape(-1)[at] = values
    return integers, header.scales(blob).astype(np.float64) * 2.0**header.exponent


def _decode_values(blob: Blob, header: Header) -> Iterator[tuple[slice, Any, Any]]:
    """(rows, index in the flattened rows, value without its scale) of everything stored."""
    stored = tiles.stored_values if header.layout == "tiles" else _stored_values
    for rows, at, values in stored(blob, header):
        yield rows, at, header.codebook(blob)[values] if header.value_type == "i4" else values


def _stored_values(blob: Blob, header: Header) -> Iterator[tuple[slice, Any, Any]]:
    """The same with codes in place of i4 values, of any layout but "tiles"."""
    begin = 0
    section: Any = blob[header.values_offset :].view(_VALUE_DTYPES[header.value_type])
    for rows in chunks(header.n, header.k):
        if header.encoding == "delta":
            at = _delta_positions(blob, header, rows)
        else:
            at = np.flatnonzero(unpack_masks(header.masks(blob)[rows], header.k))
        if header.value_type == "i4":
            counts = popcount(header.masks(blob)[rows]).reshape(-1)
            end = begin + int(run_bytes(counts, header.layout).sum(dtype=np.int64))
            yield rows, at, unpack_runs(section[begin:end], counts, header.layout)
        else:
            end = begin + at.size
            yield rows, at, section[begin:end]
        begin = end


def _delta_positions(blob: Blob, header: Header, rows: slice) -> npt.NDArray[np.int64]:
    ends = header.starts(blob)[rows.start : rows.stop + 1].astype(np.int64)
    return positions_of_gaps(header.gaps(blob)[ends[0] : ends[-1]], np.diff(ends), header.k)
