"""What an operator costs on a device: the figures of each kernel, and those of its class of ISA.

A profile may have a table `[kernels.NAME]` for every name of `KERNELS`, with figures of
`FIGURE_NAMES`, each a positive number; one that is left out is 0, the two ratios 1. Kernels that a
profile does not name have the figures of `kernels/CLASS.toml`.
"""

from __future__ import annotations

import difflib
import functools
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slc.targets.target import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kernels = Mapping[str, Mapping[str, float]]

FOLDER = Path(__file__).parent / "kernels"

# The operators that a Linear can become, at one row of X, then what a graph has beside them. Levels
# as in MatMulNBits: without a name 4, int8 activations, where the stored values are integers.
KERNELS = (
    "bitmap_f16", "bitmap_i8", "bitmap_i8_level1", "bitmap_i4", "bitmap_i4_level1",
    "delta_f16", "delta_i8",
    "full_f16", "full_i8", "full_i8_level1", "full_i4", "full_i4_level1",
    "int8", "int8_level1", "int4", "int4_level1", "dense_f32",
    "adapter_f16", "adapter_i8",
    "attention",  # GroupQueryAttention: positions are keys and values times query heads
    "node",  # any other: values are the elements that it makes
    "runtime",  # onnxruntime-genai, once a token: values are the vocabulary's
)  # fmt: skip

FIGURE_NAMES = (
    "ns_per_position",  # of W that is walked, on one core
    "ns_per_value",  # that is stored and multiplied, on one core
    "ns_per_row",  # of W, on one core
    "ns_per_group",  # of weights that share a scale, on one core
    "us_per_call",  # of the operator, whatever its size
    "us_per_token",  # of `runtime` alone
    "ratio_low",  # measured over modelled, of the samples that the figures were fitted to: the 5th
    "ratio_high",  # and the 95th of a hundred
)


def problem(kernels: Any) -> str | None:
    """What is wrong with a profile's `kernels`, as the end of a sentence; None if nothing."""
    if not isinstance(kernels, Mapping):
        return f"must be tables [kernels.NAME], got {kernels!r}"
    for name, figures in kernels.items():
        if name not in KERNELS:
            return f"has {name!r}{_known(name, KERNELS)}"
        if not isinstance(figures, Mapping):
            return f"must be tables [kernels.NAME], got {name} = {figures!r}"
        for figure, value in figures.items():
            if figure not in FIGURE_NAMES:
                return f"has {name}.{figure}{_known(str(figure), FIGURE_NAMES)}"
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:
                return f"has {name}.{figure} = {value!r}, wanted a positive number"
        if figures.get("ratio_low", 0.0) > figures.get("ratio_high", math.inf):
            return f"has a {name}.ratio_low above its ratio_high"
    return None


def _known(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"


def isa_class(target: Target) -> str:
    """Which kernels the op library takes there: cuda, avx512, avx2, dotprod, neon or generic."""
    if target.provider == "cuda":
        return "cuda"
    if target.arch == "aarch64":
        return "dotprod" if "dotprod" in target.isa else "neon"
    if {"avx512vbmi2", "avx512_vnni"} <= set(target.isa):
        return "avx512"
    return "avx2" if {"avx2", "fma", "f16c", "bmi2"} <= set(target.isa) else "generic"


@functools.cache
def _class_document(name: str) -> Mapping[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def class_figures(name: str) -> Kernels:
    """The figures of `kernels/<name>.toml`."""
    kernels: Kernels = _class_document(name)["kernels"]
    return kernels


def kernel_figures(target: Target) -> dict[str, Mapping[str, float]]:
    """The figures of every kernel on `target`: the profile's own, else those of its class."""
    return {**class_figures(isa_class(target)), **target.kernels}


def kernels_source(target: Target) -> str:
    """Where `kernel_figures` are from, for people."""
    own = target.sources.get("kernels", "") if target.kernels else ""
    if set(target.kernels) == set(KERNELS):
        return own
    name = isa_class(target)
    document = _class_document(name)
    checked = "" if document["verified"] else ", not verified"
    rest = f"the class {name}{checked}: {document['source']}"
    return f"{own}; the others from {rest}" if own else rest
