"""Errors for a model that was not measured: those of Gaussian weights and white inputs.

Then an error is a part of the weight's squared norm, and every Linear counts alike. What rounding
loses is a twelfth of the squared step, the step what takes the expected largest of a group to the
last level; what a magnitude mask loses is the part of the norm that lies below its threshold, less
r / min(N, K) for a residual adapter of rank r (SALR's bound, arXiv 2601.16991). Of a checkpoint the
slices' own errors are known (CHECKPOINT.md) and taken instead. Activations in int8 lose what such
weights lose.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from slc.compiler.encoding import SparseValues
from slc.compiler.linear import Linear
from slc.compiler.structure.dense_codes import int8_group
from slc.compiler.structure.menu import INT4_GROUPS, MenuLinear, MenuOption, dense_option

if TYPE_CHECKING:
    from slc.compiler.frontends.source import Source
    from slc.compiler.structure.checkpoint import StructuredCheckpoint
    from slc.compiler.structure.records import Entry

DENSITIES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
PARTS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1, 0.0)  # of what a checkpoint holds
_LEVELS = {"i8": 127, "i4": 8}
_GROUP = 64


@dataclasses.dataclass(frozen=True)
class TypicalMenu:
    """What `Menu` is to a measured model; it has no codes, so that export rounds to the nearest.

    Attributes:
      linears: by name.
      calibration: for the plan's note.
    """

    linears: dict[str, MenuLinear]
    calibration: str = (
        "typical ones, of Gaussian weights with every Linear counting alike; --calibrate FILE, or "
        "default for slc's own text, measures this model's"
    )


def typical_menu(source: Source) -> TypicalMenu:
    """The options of every Linear, tied heads left out, with their typical errors."""
    tables = {li.weight for li in source.linears if li.kind == "embedding"}
    return TypicalMenu(
        {
            linear.name: MenuLinear(
                tuple(_options(source, linear)), 1.0, "", rounding_error(_LEVELS["i8"], _GROUP)
            )
            for linear in source.linears
            if linear.kind == "embedding" or linear.weight not in tables
        }
    )


@functools.cache
def rounding_error(levels: int, group: int) -> float:
    """Part of the squared norm that rounding to ±levels loses, a scale for `group` values.

    E[max x²] of `group` standard normal values is ∫ 2t·(1 − P(|x| ≤ t)^group) dt; the largest
    itself lies on its level.
    """
    from scipy.special import ndtr  # slc --help need not pay for scipy

    t = np.linspace(0, 12, 4001)
    inside = 2 * ndtr(t) - 1
    largest = float(np.sum(2 * t * (1 - inside**group)) * (t[1] - t[0]))
    return largest / levels**2 / 12 * (1 - 1 / group)


def masking_error(density: float) -> float:
    """Part of the squared norm below the threshold that keeps `density` of the values."""
    if density <= 0:
        return 1.0
    if density >= 1:
        return 0.0
    from scipy.special import ndtri

    threshold = -float(ndtri(density / 2))
    height = math.exp(-(threshold**2) / 2) / math.sqrt(2 * math.pi)
    return 1 - density - 2 * threshold * height


def _options(source: Source, linear: Linear) -> Iterator[MenuOption]:
    checkpoint = source.checkpoint
    entry = None
    if checkpoint is not None and linear.name in checkpoint.names:
        entry = checkpoint.entry(linear.name)
    # All that is left of a decomposed weight is S + B·A: its codes are of that.
    lost = 0.0 if entry is None else _odds(_lost(checkpoint, entry, entry.nnz, entry.rank))
    group = int8_group(linear.K)
    error = lost + rounding_error(_LEVELS["i8"], group)
    yield dense_option("int8", error, linear.numel, group)
    for group in INT4_GROUPS:
        error = lost + rounding_error(_LEVELS["i4"], group)
        yield dense_option("int4", error, linear.numel, group)
    if entry is not None:
        yield from _held(checkpoint, entry)
    elif checkpoint is None and linear.kind == "linear":
        for density in DENSITIES:
            nnz = round(density * linear.numel)
            yield from _rounded(linear, nnz, 0, masking_error(density), _GROUP)


def _lost(checkpoint: StructuredCheckpoint | None, entry: Entry, nnz: int, rank: int) -> float:
    """Part of the squared norm that a slice lacks."""
    assert checkpoint is not None  # where there is an entry
    whole = max(entry.scaled.weight, float(np.finfo(np.float32).tiny))
    return max(0.0, checkpoint.error(entry.name, nnz, rank) / whole)


def _held(checkpoint: StructuredCheckpoint | None, entry: Entry) -> Iterator[MenuOption]:
    """Slices of what a checkpoint holds."""
    for rank in sorted({round(part * entry.rank) for part in PARTS}):
        for nnz in sorted({round(part * entry.nnz) for part in PARTS}):
            lost = _lost(checkpoint, entry, nnz, rank)
            yield from _rounded(entry.linear, nnz, rank, lost, entry.group or _GROUP)


def _rounded(linear: Linear, nnz: int, rank: int, lost: float, group: int) -> Iterator[MenuOption]:
    """The value types of one slice: what its own values lose is added."""
    types: tuple[SparseValues, ...] = ("f16", "i8", "i4")
    for value_type in types:
        own = 0.0
        if value_type in _LEVELS:
            own = rounding_error(_LEVELS[value_type], group) * max(0.0, 1 - lost)
        yield MenuOption(
            "bitmap", value_type, _odds(lost + own), nnz, rank, group,
            adapter_type="i8" if rank else "f16",
        )  # fmt: skip


def _odds(lost: float) -> float:
    """Noise over signal: a Linear that is all but gone costs more than several that are hurt."""
    return lost / max(1e-3, 1 - lost)
