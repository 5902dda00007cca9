"""How large a packed blob is, before it is made."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .blob_kinds import Encoding, Layout, ValueType, checked_kind
from .blob_sections import blob_end, sections
from .code_runs import row_lengths
from .positions import GAP_MAX, chunks, pack_masks, popcount
from .tiles import most_units, relaid_masks, units

__all__ = ["DELTA_BELOW", "blob_bytes", "counted_bytes", "encoded_bytes"]

# Density below which a delta blob is smaller than a bitmap: a byte for each value against an eighth
# for each position.
DELTA_BELOW = 0.125


def encoded_bytes(
    n: int,
    k: int,
    nnz: int,
    value_type: ValueType = "f16",
    group: int = 64,
    *,
    encoding: Encoding = "bitmap",
    layout: Layout = "rows",
) -> int:
    """Length in bytes of the blob of an [n, k] matrix with nnz stored values.

    Exact for f16 and i8 bitmaps in rows, and for every full blob (whose nnz is n * k). That of i4
    bitmaps, of tiles and of delta depends on where the values are: an upper bound,
    :func:`blob_bytes` is exact.

    Raises:
        ValueError: impossible counts, or a kind of blob that does not exist.
    """
    if n < 1 or k < 1 or not 0 <= nnz <= n * k:
        raise ValueError(f"got N {n}, K {k}, nnz {nnz}, wanted N, K >= 1 and 0 <= nnz <= N*K")
    if encoding == "full" and nnz != n * k:
        raise ValueError(f"nnz: got {nnz} with encoding 'full', wanted N*K = {n * k}")
    kind = checked_kind(k, value_type, group, encoding, layout)
    if encoding == "delta":
        # A gap has (gap - 1) // 255 fillers, and the gaps of a row add up to K - 1 at most.
        fillers = min(n, nnz) * (max(k - 2, 0) // GAP_MAX)
        nnz = min(nnz + fillers, n * k)
    if layout == "tiles":
        length = most_units(n, k, nnz, value_type)
    else:
        length = _runs_bytes_max(n, k, nnz, layout) if value_type == "i4" else nnz
    begin = sections(n, k, nnz, kind, kind.tile_rows).values
    return blob_end(begin + kind.values_bytes(length))


def _runs_bytes_max(n: int, k: int, nnz: int, layout: Layout) -> int:
    """The most bytes that the runs of nnz codes take."""
    codes, unit_bytes = (2, 1) if layout == "rows" else (8, 4)
    # A run of p codes takes ceil(p / codes) <= (p + codes - 1) / codes units.
    runs = min(n * -(-k // 64), nnz)
    padded = (nnz + runs * (codes - 1)) // codes
    full_row = k // 64 * (64 // codes) + -(-(k % 64) // codes)
    return unit_bytes * min(padded, n * full_row)


def blob_bytes(
    stored: npt.NDArray[np.bool_],
    value_type: ValueType = "f16",
    group: int = 64,
    *,
    encoding: Encoding = "bitmap",
    layout: Layout = "rows",
) -> int:
    """Length in bytes of the blob that encode makes when it stores these positions: bool [N, K].

    With "full", where all positions are stored, they must be all True.

    Raises:
        ValueError: wrong shape or type, or a kind of blob that does not exist.
    """
    if stored.dtype != np.bool_ or stored.ndim != 2 or 0 in stored.shape:
        raise ValueError(f"stored: got {stored.dtype} {list(stored.shape)}, wanted bool [N, K]")
    n, k = stored.shape
    kind = checked_kind(k, value_type, group, encoding, layout)
    if encoding == "full":
        nnz = int(np.count_nonzero(stored))
        return encoded_bytes(n, k, nnz, value_type, group, encoding=encoding, layout=layout)
    nnz = length = 0
    for rows in chunks(n, k):
        masks = pack_masks(stored[rows], encoding)
        counts = popcount(relaid_masks(masks, k) if layout == "tiles" else masks)
        nnz += int(counts.sum(dtype=np.uint64))
        if layout == "tiles":
            length += int(units(counts.sum(axis=1, dtype=np.int64), value_type).sum())
        else:
            length += int(row_lengths(counts, kind).sum())
    begin = sections(n, k, nnz, kind, kind.tile_rows).values
    return blob_end(begin + kind.values_bytes(length))


def counted_bytes(
    counts: npt.NDArray[np.uint8],
    k: int,
    value_type: ValueType = "f16",
    group: int = 64,
    *,
    layout: Layout = "rows",
) -> int:
    """What :func:`blob_bytes` gives for a bitmap in rows or planes, from how much its words store.

    Args:
        counts: uint8 [N, ceil(k / 64)], the stored values of every mask word.
        k: columns.
        value_type: as for encode.
        group: as for encode.
        layout: "rows" or "planes".

    Raises:
        ValueError: wrong shape, or a kind of blob that does not exist.
    """
    if layout == "tiles" or counts.ndim != 2 or counts.shape[1] != -(-k // 64):
        raise ValueError(
            f"counts: got {list(counts.shape)} with layout {layout!r}, wanted [N, ceil(K / 64)] "
            "with layout rows or planes"
        )
    kind = checked_kind(k, value_type, group, "bitmap", layout)
    nnz = int(counts.sum(dtype=np.uint64))
    length = int(row_lengths(counts, kind).sum())
    begin = sections(counts.shape[0], k, nnz, kind, kind.tile_rows).values
    return blob_end(begin + kind.values_bytes(length))
