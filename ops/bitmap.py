"""Encode and decode the packed blob of FORMAT.md: the executable form of the format.

A blob is a one-dimensional uint8 array that holds one sparse matrix S: [N, K]. All loops go over
chunks of rows that fit the cache, so memory stays at the blob plus a few megabytes.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "BlobError",
    "Header",
    "ValueType",
    "check",
    "decode",
    "encode",
    "encoded_bytes",
    "read_header",
]

ValueType = Literal["f16", "i8"]
Blob = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

MAGIC = b"SLCB"
VERSION = 1
HEADER_BYTES = 64
GUARD_BYTES = 64
TILE_ROWS = 16

_ENCODING_BITMAP = 1
_LAYOUT_ROW_MAJOR = 0
_VALUE_TYPE_CODES: dict[ValueType, int] = {"f16": 1, "i8": 2}
_VALUE_TYPES: dict[int, ValueType] = {code: name for name, code in _VALUE_TYPE_CODES.items()}
_VALUE_BYTES: dict[ValueType, int] = {"f16": 2, "i8": 1}
_VALUE_DTYPES: dict[ValueType, Any] = {"f16": np.dtype("<f2"), "i8": np.dtype("i1")}
_STRUCT = struct.Struct("<4sHBBQQQIHBBQQiI")
_CRC_OFFSET = 60
_EXPONENT_MIN, _EXPONENT_MAX = -149, 127
_SIZE_LIMIT = 2**62
_CHUNK_ELEMS = 1 << 17
_POPCOUNT = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


class BlobError(ValueError):
    """A blob that is damaged or of a kind this version does not know."""


@dataclass(frozen=True)
class Header:
    """The 64 bytes at the start of a blob, by name; see FORMAT.md."""

    n: int
    k: int
    nnz: int
    value_type: ValueType
    group: int
    tile_rows: int
    exponent: int
    values_offset: int
    total_bytes: int
    crc32: int

    @property
    def words(self) -> int:
        """Mask words in a row."""
        return -(-self.k // 64)

    @property
    def tiles(self) -> int:
        """Tiles of ``tile_rows`` rows."""
        return -(-self.n // self.tile_rows)

    @property
    def groups(self) -> int:
        """Scales in a row."""
        return -(-self.k // self.group) if self.group else 0

    @property
    def density(self) -> float:
        """Stored values over all positions."""
        return self.nnz / (self.n * self.k)


@dataclass(frozen=True)
class _Sections:
    """Byte offset of every section, and the length of the blob."""

    starts: int
    masks: int
    scales: int
    values: int
    total: int


def _aligned(offset: int) -> int:
    return -(-offset // 64) * 64


def _sections(
    n: int, k: int, nnz: int, value_type: ValueType, group: int, tile_rows: int
) -> _Sections:
    starts = HEADER_BYTES
    masks = _aligned(starts + 8 * (-(-n // tile_rows) + 1))
    scales = _aligned(masks + 8 * n * -(-k // 64))
    values = _aligned(scales + (2 * n * -(-k // group) if group else 0))
    total = _aligned(values + nnz * _VALUE_BYTES[value_type]) + GUARD_BYTES
    return _Sections(starts, masks, scales, values, total)


def _checked_group(value_type: str, group: int) -> int:
    """The header's group for a value type: 0 for f16, else a positive multiple of 64."""
    if value_type not in _VALUE_TYPE_CODES:
        raise ValueError(f"value_type: got {value_type!r}, wanted 'f16' or 'i8'")
    if value_type == "f16":
        return 0
    if group < 64 or group % 64 or group >= 2**32:
        raise ValueError(f"group: got {group}, wanted a positive multiple of 64 below 2^32")
    return group


def encoded_bytes(n: int, k: int, nnz: int, value_type: ValueType = "f16", group: int = 64) -> int:
    """Exact length in bytes of the blob of an [n, k] matrix with nnz stored values."""
    if n < 1 or k < 1 or not 0 <= nnz <= n * k:
        raise ValueError(f"got N {n}, K {k}, nnz {nnz}, wanted N, K >= 1 and 0 <= nnz <= N*K")
    return _sections(n, k, nnz, value_type, _checked_group(value_type, group), TILE_ROWS).total


def encode(
    S: Floats,
    value_type: ValueType = "f16",
    group: int = 64,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Blob:
    """Pack S: float32 [N, K] into a blob: uint8 [bytes].

    Args:
        S: finite values.
        value_type: how a stored value is kept. "f16" rounds to 11 significant bits, "i8" to 255
            levels of the largest magnitude in each ``group`` columns of a row.
        group: columns that share a scale, for "i8" a multiple of 64; ignored for "f16".
        mask: bool [N, K], which values are stored; S != 0 when left out.

    Raises:
        ValueError: wrong shape, type, group, or a value that is NaN or infinite.
    """
    _check_matrix(S, mask)
    n, k = S.shape
    group = _checked_group(value_type, group)
    masks, starts = _encode_masks(S, mask)
    exponent = _exponent(_largest(S, mask), value_type)
    sections = _sections(n, k, int(starts[-1]), value_type, group, TILE_ROWS)
    blob = np.zeros(sections.total, np.uint8)
    blob[sections.starts : sections.starts + starts.nbytes] = starts.view(np.uint8)
    blob[sections.masks : sections.masks + masks.size] = masks.reshape(-1)
    if value_type == "f16":
        _encode_f16(S, mask, exponent, _values(blob, sections, value_type, int(starts[-1])))
    else:
        scales = blob[sections.scales : sections.scales + 2 * n * -(-k // group)]
        _encode_i8(
            S,
            mask,
            exponent,
            group,
            scales.view("<f2").reshape(n, -1),
            _values(blob, sections, value_type, int(starts[-1])),
        )
    fields = [
        MAGIC,
        VERSION,
        _ENCODING_BITMAP,
        _VALUE_TYPE_CODES[value_type],
        n,
        k,
        int(starts[-1]),
        group,
        TILE_ROWS,
        _LAYOUT_ROW_MAJOR,
        0,
        sections.values,
        sections.total,
        exponent,
        0,
    ]
    blob[:HEADER_BYTES] = np.frombuffer(_STRUCT.pack(*fields), np.uint8)
    blob[_CRC_OFFSET:HEADER_BYTES] = np.frombuffer(
        struct.pack("<I", _crc32(blob, sections.values)), np.uint8
    )
    return blob


def _check_matrix(S: Floats, mask: npt.NDArray[np.bool_] | None) -> None:
    if S.dtype != np.float32 or S.ndim != 2 or 0 in S.shape:
        raise ValueError(f"S: got {S.dtype} {list(S.shape)}, wanted float32 [N, K], N and K >= 1")
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != S.shape):
        raise ValueError(f"mask: got {mask.dtype} {list(mask.shape)}, wanted bool {list(S.shape)}")


def _chunks(n: int, k: int) -> Iterator[slice]:
    """Slices of whole tiles of rows, small enough for the cache."""
    rows = max(1, _CHUNK_ELEMS // (k * TILE_ROWS)) * TILE_ROWS
    for begin in range(0, n, rows):
        yield slice(begin, min(begin + rows, n))


def _stored(S: Floats, mask: npt.NDArray[np.bool_] | None, rows: slice) -> npt.NDArray[np.bool_]:
    return S[rows] != 0 if mask is None else mask[rows]


def _encode_masks(
    S: Floats, mask: npt.NDArray[np.bool_] | None
) -> tuple[Blob, npt.NDArray[np.uint64]]:
    """(masks as bytes [N, 8 * words], starts [tiles + 1]); refuses what is not finite."""
    n, k = S.shape
    masks = np.zeros((n, 8 * -(-k // 64)), np.uint8)
    counts = np.zeros(-(-n // TILE_ROWS), np.uint64)
    for rows in _chunks(n, k):
        if not (math.isfinite(S[rows].max()) and math.isfinite(S[rows].min())):
            row, column = np.argwhere(~np.isfinite(S[rows]))[0]
            at = S[rows][row, column]
            raise ValueError(f"S[{rows.start + row}, {column}]: got {at}, wanted a finite number")
        bits = np.packbits(_stored(S, mask, rows), axis=1, bitorder="little")
        masks[rows, : bits.shape[1]] = bits
        per_row = _POPCOUNT[bits].sum(axis=1, dtype=np.uint64)
        tiles = np.arange(0, per_row.size, TILE_ROWS)
        first = rows.start // TILE_ROWS
        counts[first : first + tiles.size] = np.add.reduceat(per_row, tiles)
    starts = np.zeros(counts.size + 1, "<u8")
    np.cumsum(counts, out=starts[1:])
    return masks, starts


def _largest(S: Floats, mask: npt.NDArray[np.bool_] | None) -> float:
    """The largest magnitude among the stored values."""
    largest = 0.0
    for rows in _chunks(*S.shape):
        chunk = S[rows] if mask is None else np.where(mask[rows], S[rows], np.float32(0))
        largest = max(largest, float(chunk.max()), -float(chunk.min()))
    return largest


def _exponent(largest: float, value_type: ValueType) -> int:
    """The exponent that brings the largest f16 number of the blob into [2^14, 2^15)."""
    if largest == 0:
        return 0
    if largest >= 2.0**127:  # rounding could take it past float32
        raise ValueError(f"S: got a magnitude of {largest}, wanted less than 2^127")
    kept = largest / 127 if value_type == "i8" else largest
    return min(max(math.frexp(kept)[1] - 15, _EXPONENT_MIN), _EXPONENT_MAX)


def _times_power_of_two(values: Floats, power: int) -> Floats:
    """Values * 2^power in place, where 2^power itself may overflow float32."""
    while power:
        step = max(min(power, 126), -126)
        values *= np.float32(2.0**step)
        power -= step
    return values


def _values(blob: Blob, sections: _Sections, value_type: ValueType, nnz: int) -> Any:
    count = nnz * _VALUE_BYTES[value_type]
    return blob[sections.values : sections.values + count].view(_VALUE_DTYPES[value_type])


def _encode_f16(S: Floats, mask: npt.NDArray[np.bool_] | None, exponent: int, values: Any) -> None:
    begin = 0
    for rows in _chunks(*S.shape):
        kept = np.compress(_stored(S, mask, rows).ravel(), S[rows].ravel())
        values[begin : begin + kept.size] = _times_power_of_two(kept, -exponent)
        begin += kept.size


def _encode_i8(
    S: Floats,
    mask: npt.NDArray[np.bool_] | None,
    exponent: int,
    group: int,
    scales: Any,
    values: Any,
) -> None:
    n, k = S.shape
    groups = scales.shape[1]
    lift = -exponent if exponent < -60 else 0  # else 1 / scale would overflow
    begin = 0
    for rows in _chunks(n, k):
        stored = _stored(S, mask, rows)
        count = stored.shape[0]
        chunk = np.zeros((count, groups * group), np.float32)
        np.copyto(chunk[:, :k], S[rows])
        if mask is not None:
            chunk[:, :k][~stored] = 0
        _times_power_of_two(chunk, lift)
        by_group = chunk.reshape(count, groups, group)
        peak = np.maximum(by_group.max(axis=2), -by_group.min(axis=2))
        scales[rows] = _times_power_of_two(peak / np.float32(127), -exponent - lift)
        # The scale as the reader will see it; 0 stands for a group whose values all round to 0.
        scale = scales[rows].astype(np.float64) * 2.0 ** (exponent + lift)
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        by_group *= inverse.astype(np.float32)[:, :, None]
        np.rint(chunk, out=chunk)
        np.maximum(np.minimum(chunk, 127, out=chunk), -127, out=chunk)
        kept = np.compress(stored.ravel(), chunk[:, :k].astype(np.int8).ravel())
        values[begin : begin + kept.size] = kept
        begin += kept.size


def decode(blob: Blob) -> Floats:
    """The matrix of a blob: float32 [N, K].

    Raises:
        BlobError: the blob fails :func:`check`.
    """
    check(blob)
    header = read_header(blob)
    sections = _header_sections(header)
    masks = _masks(blob, header, sections)
    values = _values(blob, sections, header.value_type, header.nnz)
    scales = blob[sections.scales : sections.scales + 2 * header.n * header.groups]
    S = np.zeros((header.n, header.k), np.float32)
    begin = 0
    for rows in _chunks(header.n, header.k):
        stored = np.unpackbits(masks[rows], axis=1, count=header.k, bitorder="little").view(bool)
        # Indices: assigning through a boolean mask mispredicts a branch at every other value.
        at = np.flatnonzero(stored)
        S[rows].reshape(-1)[at] = values[begin : begin + at.size]
        begin += at.size
        if header.group:
            by_row = scales.view("<f2").reshape(header.n, -1)[rows].astype(np.float32)
            S[rows] *= np.repeat(by_row, header.group, axis=1)[:, : header.k]
        _times_power_of_two(S[rows], header.exponent)
    return S


def read_header(blob: Blob) -> Header:
    """The header alone, its fields checked one by one; reads nothing past byte 63.

    Raises:
        BlobError: too short, or a field with a value that no version 1 blob has.
    """
    if blob.dtype != np.uint8 or blob.ndim != 1 or blob.size < HEADER_BYTES:
        raise BlobError(f"blob: got {blob.dtype} {list(blob.shape)}, wanted uint8 [64 or more]")
    (
        magic,
        version,
        encoding,
        value_type,
        n,
        k,
        nnz,
        group,
        tile_rows,
        layout,
        reserved,
        values_offset,
        total_bytes,
        exponent,
        crc32,
    ) = _STRUCT.unpack(blob[:HEADER_BYTES].tobytes())
    for name, got, wanted in (
        ("magic", magic, (MAGIC,)),
        ("version", version, (VERSION,)),
        ("encoding", encoding, (_ENCODING_BITMAP,)),
        ("value_type", value_type, (1, 2)),
        ("layout", layout, (_LAYOUT_ROW_MAJOR,)),
        ("reserved", reserved, (0,)),
    ):
        if got not in wanted:
            options = " or ".join(str(option) for option in wanted)
            raise BlobError(f"{name}: got {got}, wanted {options}")
    for name, got in (("N", n), ("K", k), ("tile_rows", tile_rows)):
        if got < 1:
            raise BlobError(f"{name}: got {got}, wanted 1 or more")
    wanted_group = "0 for f16" if value_type == 1 else "a positive multiple of 64 for i8"
    if (group != 0) if value_type == 1 else (group == 0 or group % 64):
        raise BlobError(f"group: got {group}, wanted {wanted_group}")
    if not _EXPONENT_MIN <= exponent <= _EXPONENT_MAX:
        raise BlobError(f"exponent: got {exponent}, wanted {_EXPONENT_MIN} ... {_EXPONENT_MAX}")
    return Header(
        n,
        k,
        nnz,
        _VALUE_TYPES[value_type],
        group,
        tile_rows,
        exponent,
        values_offset,
        total_bytes,
        crc32,
    )


def check(blob: Blob) -> None:
    """Make every check that FORMAT.md lists.

    Raises:
        BlobError: says what was got and what was wanted.
    """
    header = read_header(blob)
    sections = _header_sections(header)
    if sections.total >= _SIZE_LIMIT:
        raise BlobError(f"N {header.n}, K {header.k}, nnz {header.nnz} make sizes beyond 62 bits")
    for name, got, wanted in (
        ("values_offset", header.values_offset, sections.values),
        ("total_bytes", header.total_bytes, sections.total),
        ("length", blob.size, sections.total),
        ("crc32", header.crc32, None),
    ):
        wanted = _crc32(blob, sections.values) if wanted is None else wanted
        if got != wanted:
            raise BlobError(f"{name}: got {got}, wanted {wanted}")
    _check_masks(blob, header, sections)


def _header_sections(header: Header) -> _Sections:
    return _sections(
        header.n, header.k, header.nnz, header.value_type, header.group, header.tile_rows
    )


def _masks(blob: Blob, header: Header, sections: _Sections) -> Blob:
    """The masks as bytes [N, 8 * words]."""
    count = 8 * header.words * header.n
    return blob[sections.masks : sections.masks + count].reshape(header.n, -1)


def _crc32(blob: Blob, values_offset: int) -> int:
    contiguous: Any = np.ascontiguousarray(blob)
    crc = zlib.crc32(contiguous[:_CRC_OFFSET])
    return zlib.crc32(contiguous[HEADER_BYTES:values_offset], crc)


def _check_masks(blob: Blob, header: Header, sections: _Sections) -> None:
    masks = _masks(blob, header, sections)
    starts = blob[sections.starts : sections.starts + 8 * (header.tiles + 1)].copy().view("<u8")
    per_row = np.empty(header.n, np.uint64)
    for rows in _chunks(header.n, header.k):
        per_row[rows] = _POPCOUNT[masks[rows]].sum(axis=1, dtype=np.uint64)
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(per_row, dtype=np.uint64)])
    rows_before = np.minimum(np.arange(header.tiles + 1) * header.tile_rows, header.n)
    wrong = np.flatnonzero(starts != before[rows_before])
    if wrong.size:
        at = int(wrong[0])
        raise BlobError(f"starts[{at}]: got {starts[at]}, wanted {before[rows_before[at]]}")
    if int(before[-1]) != header.nnz:
        raise BlobError(f"mask bits: got {before[-1]}, wanted nnz = {header.nnz}")
    if header.k % 64:
        last = masks[:, -8:].copy().view("<u8")[:, 0] >> np.uint64(header.k % 64)
        if last.any():
            row = int(np.flatnonzero(last)[0])
            raise BlobError(f"row {row} has a mask bit at or above K = {header.k}")
