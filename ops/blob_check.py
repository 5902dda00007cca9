"""Every check that FORMAT.md asks of a reader."""

from __future__ import annotations

from typing import Any

import numpy as np

from .blob_header import BlobError, Header, crc32, read_header
from .blob_kinds import LEVELS, Blob
from .blob_sections import blob_end
from .code_runs import row_lengths
from .positions import chunks, popcount
from .tiles import bits_outside, units

__all__ = ["check"]

_SIZE_LIMIT = 2**62


def check(blob: Blob) -> None:
    """Make every check that FORMAT.md lists.

    Raises:
        BlobError: says what was got and what was wanted.
    """
    header = read_header(blob)
    values = header.sections.values
    if max(values, header.n * header.k) >= _SIZE_LIMIT:  # no byte of a delta blob bounds K
        raise BlobError(f"N {header.n}, K {header.k}, nnz {header.nnz} make sizes beyond 62 bits")
    _check_equal("values_offset", header.values_offset, values)
    if blob.size < values:
        raise BlobError(f"length: got {blob.size}, wanted {header.total_bytes}")
    _check_equal("crc32", header.crc32, crc32(blob, values))
    if header.encoding == "full":
        _check_equal("nnz", header.nnz, header.n * header.k)
    if header.encoding == "delta":
        _check_gaps(blob, header)
    elif header.layout == "tiles":
        _check_blocks(blob, header)
    else:
        _check_masks(blob, header)
    if header.value_type == "i4":
        _check_codebook(blob, header)
    # The positions are known to be right by now, so the length that they call for is too.
    length = int(header.starts(blob)[-1])
    total = blob_end(values + header.kind.values_bytes(length))
    _check_equal("total_bytes", header.total_bytes, total)
    _check_equal("length", blob.size, total)


def _check_equal(name: str, got: int, wanted: int) -> None:
    if got != wanted:
        raise BlobError(f"{name}: got {got}, wanted {wanted}")


def _check_masks(blob: Blob, header: Header) -> None:
    masks, starts = header.masks(blob), header.starts(blob)
    nnz = 0
    before = np.zeros(header.n + 1, np.uint64)
    for rows in chunks(header.n, header.k):
        counts = popcount(masks[rows])
        nnz += int(counts.sum(dtype=np.uint64))
        before[1:][rows] = row_lengths(counts, header.kind)
    np.cumsum(before, out=before)
    wanted = before[np.minimum(np.arange(header.tiles + 1) * header.tile_rows, header.n)]
    wrong = np.flatnonzero(starts != wanted)
    if wrong.size:
        at = int(wrong[0])
        raise BlobError(f"starts[{at}]: got {starts[at]}, wanted {wanted[at]}")
    if nnz != header.nnz:
        raise BlobError(f"mask bits: got {nnz}, wanted nnz = {header.nnz}")
    if header.k % 64:
        last: Any = masks[:, -8:].copy().view("<u8")[:, 0] >> np.uint64(header.k % 64)
        if last.any():
            row = int(np.flatnonzero(last)[0])
            raise BlobError(f"row {row} has a mask bit at or above K = {header.k}")


def _check_blocks(blob: Blob, header: Header) -> None:
    masks, starts = header.block_masks(blob), header.starts(blob)
    counts = popcount(masks).sum(axis=1, dtype=np.int64)
    wanted = np.zeros(len(starts), np.int64)
    np.cumsum(units(counts, header.value_type), out=wanted[1:])
    wrong = np.flatnonzero(starts != wanted)
    if wrong.size:
        at = int(wrong[0])
        raise BlobError(f"starts[{at}]: got {starts[at]}, wanted {wanted[at]}")
    if counts.sum() != header.nnz:
        raise BlobError(f"mask bits: got {counts.sum()}, wanted nnz = {header.nnz}")
    outside = bits_outside(masks, header.n, header.k)
    if outside is not None:
        row, column = outside
        raise BlobError(
            f"row {row}, column {column} has a mask bit beyond N = {header.n}, K = {header.k}"
        )


def _check_gaps(blob: Blob, header: Header) -> None:
    gaps, starts = header.gaps(blob), header.starts(blob)
    if starts[0] != 0:
        raise BlobError(f"starts[0]: got {starts[0]}, wanted 0")
    wrong = np.flatnonzero(starts[1:] < starts[:-1])
    if wrong.size:
        at = int(wrong[0]) + 1
        raise BlobError(f"starts[{at}]: got {starts[at]}, wanted {starts[at - 1]} or more")
    if starts[-1] != header.nnz:
        raise BlobError(f"starts[{header.n}]: got {starts[-1]}, wanted nnz = {header.nnz}")
    for rows in chunks(header.n, header.k):
        begin, end = int(starts[rows.start]), int(starts[rows.stop])
        reached = np.zeros(end - begin + 1, np.int64)
        np.cumsum(gaps[begin:end], dtype=np.int64, out=reached[1:])
        ends = starts[rows.start : rows.stop + 1].astype(np.int64) - begin
        last = np.diff(reached[ends])
        wrong = np.flatnonzero(last >= header.k)
        if wrong.size:
            row, column = rows.start + int(wrong[0]), last[wrong[0]]
            raise BlobError(f"row {row}: got column {column}, wanted less than K = {header.k}")


def _check_codebook(blob: Blob, header: Header) -> None:
    codebook, limit = header.codebook(blob), LEVELS["i4"]
    wrong = np.flatnonzero((codebook < -limit) | (codebook > limit))
    if wrong.size:
        at = int(wrong[0])
        raise BlobError(f"codebook[{at}]: got {codebook[at]}, wanted -{limit} ... {limit}")
    if header.layout == "planes" and codebook[0] != 0:
        raise BlobError(f"codebook[0]: got {codebook[0]}, wanted 0 for planes")
