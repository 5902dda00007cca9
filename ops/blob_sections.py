"""Where the sections of a packed blob lie."""

from __future__ import annotations

from dataclasses import dataclass

from .blob_kinds import Kind
from .tiles import MASK_BYTES, blocks_in

__all__ = ["CODEBOOK_ENTRIES", "HEADER_BYTES", "Sections", "blob_end", "sections"]

HEADER_BYTES = 64
CODEBOOK_ENTRIES = 16

_GUARD_BYTES = 64


@dataclass(frozen=True)
class Sections:
    """Byte offset of every section."""

    starts: int
    where: int
    scales: int
    codebook: int
    values: int


def sections(n: int, k: int, nnz: int, kind: Kind, tile_rows: int) -> Sections:
    """The sections of a blob with these fields."""
    tiles, blocks = -(-n // tile_rows), blocks_in(n, k)
    if kind.layout == "tiles":
        starts_bytes, where_bytes, scaled_rows = 4 * (blocks + 1), MASK_BYTES * blocks, 16 * tiles
    else:
        starts_bytes, scaled_rows = 8 * (tiles + 1), n
        where_bytes = {"bitmap": 8 * n * -(-k // 64), "delta": nnz, "full": 0}[kind.encoding]
    where = _aligned(HEADER_BYTES + starts_bytes)
    scales = _aligned(where + where_bytes)
    codebook = _aligned(scales + (2 * scaled_rows * -(-k // kind.group) if kind.group else 0))
    values = _aligned(codebook + (CODEBOOK_ENTRIES if kind.value_type == "i4" else 0))
    return Sections(HEADER_BYTES, where, scales, codebook, values)


def blob_end(values_end: int) -> int:
    """Length of a blob whose values end there."""
    return _aligned(values_end) + _GUARD_BYTES


def _aligned(offset: int) -> int:
    return -(-offset // 64) * 64
