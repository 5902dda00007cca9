"""Scales and levels that a writer was given, instead of fitting its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .blob_kinds import LEVELS, Kind
from .blob_sections import CODEBOOK_ENTRIES

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """What stored values are rounded to, chosen by whoever made S: scale times level.

    Attributes:
        scales: float32 [N, groups], of either sign, each of few enough bits for an f16 number times
            2^exponent.
        codebook: int8 [16] for "i4", 0 first for "planes"; None for "i8": levels -127 ... 127.
    """

    scales: npt.NDArray[np.float32]
    codebook: npt.NDArray[np.int8] | None = None

    def check(self, n: int, k: int, kind: Kind) -> None:
        """Whether the grid is one for n x k matrices of this kind.

        Raises:
            ValueError: it is not.
        """
        if kind.value_type == "f16" or kind.encoding == "delta":
            got = f"a {kind.encoding} of {kind.value_type} values"
            raise ValueError(f"grid: got {got}, wanted a bitmap or a full blob of i8 or i4")
        groups = -(-k // kind.group)
        if self.scales.dtype != np.float32 or self.scales.shape != (n, groups):
            got = f"{self.scales.dtype} {list(self.scales.shape)}"
            raise ValueError(f"grid.scales: got {got}, wanted float32 [{n}, {groups}]")
        if not np.isfinite(self.scales).all():
            raise ValueError("grid.scales: wanted finite numbers")
        entries = None if self.codebook is None else (self.codebook.dtype, self.codebook.shape)
        wanted = (np.dtype(np.int8), (CODEBOOK_ENTRIES,)) if kind.value_type == "i4" else None
        if entries != wanted:
            raise ValueError(f"grid.codebook: got {entries}, wanted {wanted}")
        for entry in () if self.codebook is None else self.codebook.tolist():
            if abs(entry) > LEVELS["i4"]:
                raise ValueError(f"grid.codebook: got {entry}, wanted -63 ... 63")
        if kind.layout == "planes" and self.codebook is not None and self.codebook[0] != 0:
            raise ValueError(f"grid.codebook[0]: got {self.codebook[0]}, wanted 0 for planes")
