"""Where the sections of a packed blob lie."""

from __future__ import annotations

from dataclasses import dataclass

from .blob_kinds import Kind

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
    where = _aligned(HEADER_BYTES + 8 * (-(-n // tile_rows) + 1))
    where_bytes = {"bitmap": 8 * n * -(-k // 64), "delta": nnz, "full": 0}[kind.encoding]
    scales = _aligned(where + where_bytes)
    codebook = _aligned(scales + (2 * n * -(-k // kind.group) if kind.group else 0))
    values = _aligned(codebook + (CODEBOOK_ENTRIES if kind.value_type == "i4" else 0))
    return Sections(HEADER_BYTES, where, scales, codebook, values)


def blob_end(values_end: int) -> int:
    """Length of a blob whose values end there."""
    return _aligned(values_end) + _GUARD_BYTES


def _aligned(offset: int) -> int:
    return -(-offset // 64) * 64
