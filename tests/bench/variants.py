"""The ways to store S and to multiply by it, by the names of operators and of kernels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slc.ops import bitmap

KERNEL_GROUP = 64  # of the weights that kernels are timed with
DELTA_DENSITY_MAX = 0.2  # a byte for each value: the bitmap is smaller above 1/8
_KERNEL_NAME = re.compile(
    r"sparse_[a-z]+_(?P<encoding>delta|full)?(?P<value_type>f16|i8|i4)(?P<layout>rows|planes)?"
    r"(_(?P<level>f32|int8))?_\d+x\d+__\w+"
)


@dataclass(frozen=True)
class Variant:
    """One way to store S; accuracy_level 4 multiplies by activations rounded to int8."""

    value_type: str
    accuracy_level: int = 1
    layout: str = "rows"
    encoding: str = "bitmap"
    group: int = KERNEL_GROUP

    @property
    def operator_name(self) -> str:
        """As the table names the operator."""
        words = ["BitmapSparseGemm" if self.encoding == "bitmap" else self.encoding]
        words.append(self.value_type)
        if self.encoding == "full" and self.value_type != "f16":
            words.append(f"g{self.group}")
        elif self.value_type == "i4":
            words.append(self.layout)
        if self.value_type != "f16":
            words.append(f"level {self.accuracy_level}")
        return " ".join(words)

    @property
    def nbits(self) -> int:
        """Bits of the MatMulNBits to compare with; 0: none."""
        return {"i8": 8, "i4": 4}.get(self.value_type, 0)

    def encode(self, S: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """S as a blob."""
        return bitmap.encode(
            S, self.value_type, self.group, encoding=self.encoding, layout=self.layout
        )


OPERATORS = (
    Variant("f16"),
    Variant("i8"),
    Variant("i8", accuracy_level=4),
    Variant("i4", accuracy_level=4),
    Variant("i4", accuracy_level=4, layout="planes"),
    Variant("f16", encoding="delta"),
    Variant("i8", encoding="delta"),
    Variant("f16", encoding="full"),
    Variant("i8", encoding="full"),
    Variant("i8", accuracy_level=4, encoding="full"),
    Variant("i4", encoding="full"),
    Variant("i4", accuracy_level=4, encoding="full"),
    Variant("i4", accuracy_level=4, encoding="full", group=128),
)


def is_worth_timing(variant: Variant, density: float | None) -> bool:
    """Whether a variant is for weights of that density, or for full ones (None)."""
    if density is None or variant.encoding == "full":
        return density is None and variant.encoding == "full"
    return variant.encoding != "delta" or density <= DELTA_DENSITY_MAX


def operators_for(density: float | None) -> list[Variant]:
    """The variants worth timing at a density; None: full weights."""
    return [variant for variant in OPERATORS if is_worth_timing(variant, density)]


def variant_of_kernel(name: str) -> Variant:
    """What a kernel takes: sparse_<op>_<stored>_<level>_<tile>__<ISA>, as kernels.inc says.

    Stored: f16, i8, i4rows, i4planes, deltaf16, deltai8, fullf16, fulli8, fulli4. Level: f32
    or int8 activations.
    """
    found = _KERNEL_NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"kernel: got {name!r}, wanted {_KERNEL_NAME.pattern}")
    return Variant(
        found["value_type"],
        accuracy_level=4 if found["level"] == "int8" else 1,
        layout=found["layout"] or "rows",
        encoding=found["encoding"] or "bitmap",
    )


def isa_of_kernel(name: str) -> str:
    """The instruction set that a kernel is compiled for."""
    return name.rpartition("__")[2]
