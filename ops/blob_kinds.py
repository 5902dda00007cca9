"""The kinds of packed blobs: encoding, value type, layout and group, and which go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "ENCODINGS",
    "LAYOUTS",
    "LEVELS",
    "UNIT_BYTES",
    "VALUE_TYPES",
    "Blob",
    "Encoding",
    "Kind",
    "Layout",
    "ValueType",
    "checked_kind",
]

ValueType = Literal["f16", "i8", "i4"]
Encoding = Literal["bitmap", "delta", "full"]
Layout = Literal["rows", "planes", "tiles"]
Blob = npt.NDArray[np.uint8]

# By their codes in the header.
ENCODINGS: dict[int, Encoding] = {1: "bitmap", 2: "delta", 3: "full"}
VALUE_TYPES: dict[int, ValueType] = {1: "f16", 2: "i8", 3: "i4"}
LAYOUTS: dict[int, Layout] = {0: "rows", 1: "planes", 2: "tiles"}
UNIT_BYTES = 16  # of tiles: a block's values begin at a multiple, what one cp.async copies
# What the largest magnitude of a group is in units of its scale.
LEVELS: dict[ValueType, int] = {"i8": 127, "i4": 63}


@dataclass(frozen=True)
class Kind:
    """What a writer may choose for a matrix; group is that of the header."""

    encoding: Encoding
    value_type: ValueType
    layout: Layout
    group: int

    @property
    def tile_rows(self) -> int:
        """Rows for each entry of starts, as the writer makes them."""
        return 1 if self.encoding == "delta" else 16

    def values_bytes(self, length: int) -> int:
        """Bytes of a values section whose last entry of starts is ``length``."""
        if self.layout == "tiles":
            return UNIT_BYTES * length
        return 2 * length if self.value_type == "f16" else length


def checked_kind(
    k: int, value_type: ValueType, group: int, encoding: Encoding, layout: Layout
) -> Kind:
    """The kind for a matrix of k columns: no group for f16, one group for all columns in delta.

    Raises:
        ValueError: a kind that does not exist, or a group that is no multiple of 64.
    """
    if value_type not in VALUE_TYPES.values():
        raise ValueError(f"value_type: got {value_type!r}, wanted 'f16', 'i8' or 'i4'")
    if encoding not in ENCODINGS.values():
        raise ValueError(f"encoding: got {encoding!r}, wanted 'bitmap', 'delta' or 'full'")
    if layout not in LAYOUTS.values():
        raise ValueError(f"layout: got {layout!r}, wanted 'rows', 'planes' or 'tiles'")
    if encoding == "delta" and value_type == "i4":
        raise ValueError("value_type: got 'i4' with encoding 'delta', wanted 'f16' or 'i8'")
    if layout == "planes" and value_type != "i4":
        raise ValueError(f"layout: got 'planes' with value_type {value_type!r}, wanted 'rows'")
    if layout == "planes" and encoding == "full":
        raise ValueError("layout: got 'planes' with encoding 'full', wanted 'rows'")
    if layout == "tiles" and encoding != "bitmap":
        raise ValueError(f"layout: got 'tiles' with encoding {encoding!r}, wanted 'bitmap'")
    if value_type == "f16":
        return Kind(encoding, value_type, layout, 0)
    group = -(-k // 64) * 64 if encoding == "delta" else group
    if group < 64 or group % 64 or group >= 2**32:
        raise ValueError(f"group: got {group}, wanted a positive multiple of 64 below 2^32")
    return Kind(encoding, value_type, layout, group)
