"""The 64 bytes at the start of a packed blob, and views of the sections that they describe."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .blob_kinds import ENCODINGS, LAYOUTS, VALUE_TYPES, Blob, Encoding, Kind, Layout, ValueType
from .blob_sections import CODEBOOK_ENTRIES, HEADER_BYTES, Sections, sections
from .positions import full_masks
from .tiles import BLOCK_ROWS, MASK_BYTES, blocks_in, rows_of_masks, rows_of_scales

__all__ = [
    "EXPONENT_MAX",
    "EXPONENT_MIN",
    "BlobError",
    "Header",
    "crc32",
    "read_header",
    "write_header",
]

MAGIC = b"SLCB"
VERSION = 1
EXPONENT_MIN, EXPONENT_MAX = -149, 127

_STRUCT = struct.Struct("<4sHBBQQQIHBBQQiI")
_CRC_OFFSET = 60
_CODES: dict[str, int] = {
    name: code for names in (ENCODINGS, VALUE_TYPES, LAYOUTS) for code, name in names.items()
}


class BlobError(ValueError):
    """A blob that is damaged or of a kind this version does not know."""


@dataclass(frozen=True)
class Header:
    """The header's fields by name; see FORMAT.md."""

    n: int
    k: int
    nnz: int
    encoding: Encoding
    value_type: ValueType
    layout: Layout
    group: int
    tile_rows: int
    exponent: int
    values_offset: int
    total_bytes: int
    crc32: int

    @property
    def words(self) -> int:
        """Words of 64 columns in a row."""
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
        """Stored values, with the fillers of a delta blob, over all positions."""
        return self.nnz / (self.n * self.k)

    @property
    def kind(self) -> Kind:
        """Encoding, value type, layout and group."""
        return Kind(self.encoding, self.value_type, self.layout, self.group)

    @property
    def sections(self) -> Sections:
        """Where the sections begin that these fields call for."""
        return sections(self.n, self.k, self.nnz, self.kind, self.tile_rows)

    @property
    def blocks(self) -> int:
        """Blocks of 16 rows and 64 columns, of the layout "tiles"."""
        return blocks_in(self.n, self.k)

    def starts(self, blob: Blob) -> npt.NDArray[Any]:
        """The starts of a blob with this header: u64 [tiles + 1]; u32 [blocks + 1] of "tiles"."""
        begin = self.sections.starts
        if self.layout == "tiles":
            return blob[begin : begin + 4 * (self.blocks + 1)].view("<u4")
        starts: npt.NDArray[np.uint64] = blob[begin : begin + 8 * (self.tiles + 1)].view("<u8")
        return starts

    def masks(self, blob: Blob) -> Blob:
        """The masks of a bitmap blob with this header as bytes: [N, 8 * words].

        Those that a full blob would have are one row that stands for all, read-only; those of
        "tiles" are a copy in the order of rows.
        """
        if self.encoding == "full":
            return full_masks(self.n, self.k)
        if self.layout == "tiles":
            return rows_of_masks(self.block_masks(blob), self.n, self.k)
        begin = self.sections.where
        return blob[begin : begin + 8 * self.words * self.n].reshape(self.n, -1)

    def block_masks(self, blob: Blob) -> Blob:
        """The masks of a blob in the layout "tiles": bytes [blocks, 128]."""
        begin = self.sections.where
        return blob[begin : begin + MASK_BYTES * self.blocks].reshape(self.blocks, MASK_BYTES)

    def gaps(self, blob: Blob) -> Blob:
        """The bytes of a delta blob with this header that say which column is next: [nnz]."""
        begin = self.sections.where
        return blob[begin : begin + self.nnz]

    def scales(self, blob: Blob) -> npt.NDArray[np.float16]:
        """The scales of a blob with this header, without the exponent: [N, groups].

        Those of "tiles" are a copy in the order of rows.
        """
        begin = self.sections.scales
        if self.layout == "tiles":
            return rows_of_scales(self.block_scales(blob), self.n)
        scales: npt.NDArray[np.float16] = blob[begin : begin + 2 * self.n * self.groups].view("<f2")
        return scales.reshape(self.n, self.groups)

    def block_scales(self, blob: Blob) -> npt.NDArray[np.float16]:
        """The scales of a blob in the layout "tiles": [tiles, groups, 16]."""
        begin, shape = self.sections.scales, (self.tiles, self.groups, BLOCK_ROWS)
        scales: npt.NDArray[np.float16] = blob[begin : begin + 2 * math.prod(shape)].view("<f2")
        return scales.reshape(shape)

    def codebook(self, blob: Blob) -> npt.NDArray[np.int8]:
        """The codebook of an i4 blob with this header: [16]."""
        begin = self.sections.codebook
        return blob[begin : begin + CODEBOOK_ENTRIES].view(np.int8)


def write_header(blob: Blob, header: Header) -> None:
    """Fill the first 64 bytes of a blob that is otherwise complete; computes the checksum."""
    fields = [
        MAGIC,
        VERSION,
        _CODES[header.encoding],
        _CODES[header.value_type],
        header.n,
        header.k,
        header.nnz,
        header.group,
        header.tile_rows,
        _CODES[header.layout],
        0,
        header.values_offset,
        header.total_bytes,
        header.exponent,
        0,
    ]
    blob[:HEADER_BYTES] = np.frombuffer(_STRUCT.pack(*fields), np.uint8)
    crc = struct.pack("<I", crc32(blob, header.values_offset))
    blob[_CRC_OFFSET:HEADER_BYTES] = np.frombuffer(crc, np.uint8)


def crc32(blob: Blob, values_offset: int) -> int:
    """The checksum of what lies before the values, without itself."""
    contiguous: Any = np.ascontiguousarray(blob)
    crc = zlib.crc32(contiguous[:_CRC_OFFSET])
    return zlib.crc32(contiguous[HEADER_BYTES:values_offset], crc)


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
        crc,
    ) = _STRUCT.unpack(blob[:HEADER_BYTES].tobytes())
    delta, full = (ENCODINGS.get(encoding) == name for name in ("delta", "full"))
    layouts = (0, 1, 2) if VALUE_TYPES.get(value_type) == "i4" else (0, 2)
    for name, got, wanted in (
        ("magic", magic, (MAGIC,)),
        ("version", version, (VERSION,)),
        ("encoding", encoding, tuple(ENCODINGS)),
        ("value_type", value_type, (1, 2) if delta else tuple(VALUE_TYPES)),
        ("layout", layout, (0,) if delta or full else layouts),
        ("reserved", reserved, (0,)),
    ):
        if got not in wanted:
            options = " or ".join(str(option) for option in wanted)
            raise BlobError(f"{name}: got {got}, wanted {options}")
    for name, got in (("N", n), ("K", k), ("tile_rows", tile_rows)):
        if got < 1:
            raise BlobError(f"{name}: got {got}, wanted 1 or more")
    if delta and tile_rows != 1:
        raise BlobError(f"tile_rows: got {tile_rows}, wanted 1 for delta")
    kind = Kind(ENCODINGS[encoding], VALUE_TYPES[value_type], LAYOUTS[layout], group)
    if kind.layout == "tiles" and tile_rows != BLOCK_ROWS:
        raise BlobError(f"tile_rows: got {tile_rows}, wanted {BLOCK_ROWS} for tiles")
    _check_group(kind, k)
    if not EXPONENT_MIN <= exponent <= EXPONENT_MAX:
        raise BlobError(f"exponent: got {exponent}, wanted {EXPONENT_MIN} ... {EXPONENT_MAX}")
    return Header(
        n,
        k,
        nnz,
        kind.encoding,
        kind.value_type,
        kind.layout,
        group,
        tile_rows,
        exponent,
        values_offset,
        total_bytes,
        crc,
    )


def _check_group(kind: Kind, k: int) -> None:
    group = kind.group
    if kind.value_type == "f16":
        if group != 0:
            raise BlobError(f"group: got {group}, wanted 0 for f16")
    elif group == 0 or group % 64:
        raise BlobError(
            f"group: got {group}, wanted a positive multiple of 64 for {kind.value_type}"
        )
    elif kind.encoding == "delta" and group < k:
        raise BlobError(f"group: got {group}, wanted K = {k} or more for delta")
