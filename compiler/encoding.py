"""The words for how a weight can be stored, which structure, budget and passes share."""

from __future__ import annotations

from typing import Literal

Encoding = Literal["bitmap", "delta", "full", "int8", "int4", "dense"]
ValueType = Literal["f32", "f16", "i8", "i4"]
SparseValues = Literal["f16", "i8", "i4"]
AdapterType = Literal["f16", "i8"]
Layout = Literal["rows", "planes", "tiles"]  # of i4 codes; "tiles" of any values, for GPUs
