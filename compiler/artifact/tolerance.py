"""How far two correct runs of one graph may lie apart, derived from the graph itself.

A computed dot product of n terms is the exact one for weights that are moved by at most γₙ each
(`dense.py`, rule 5). So rounding can do to the outputs only what moving the weights that far does,
and the graph itself tells how much that is: it is run densely with weights·(1 ± γₙ), signs drawn
anew for each seed, and the deviation from the unmoved run is what rounding is allowed.

    tolerance = FACTOR · max over seeds |y(perturbed) − y| + FLOOR · max|y|

FACTOR = 4: the artifact and the dense run round both (2), and a few draws of signs are not the
worst one (2). The latter is generous, since actual roundings are independent and partial sums
short: they move weights by about √n·u, not n·u. FLOOR = 4 units of the output type's roundoff
covers what is not a weight of ours: the runtime may fuse the operators around a MatMul otherwise
than around our operator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slc.compiler.artifact.dense import UNIT_ROUNDOFF, UNIT_ROUNDOFF_F16
from slc.compiler.artifact.sessions import difference

FACTOR = 4.0
FLOOR = 4 * UNIT_ROUNDOFF
FLOOR_F16 = 4 * UNIT_ROUNDOFF_F16
SEEDS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class OutputCheck:
    """One output under one probe: the artifact against the dense run of the same weights."""

    output: str
    probe: str
    max_error: float
    mean_error: float
    max_tolerance: float
    mean_tolerance: float
    passed: bool


def check_output(
    output: str,
    probe: str,
    got: npt.NDArray[Any],
    wanted: npt.NDArray[Any],
    perturbed: Sequence[npt.NDArray[Any]],
) -> OutputCheck:
    """Holds `got` against `wanted` within what `perturbed` runs deviate from `wanted`.

    The maximum and the mean are both held: a wrong cell shows in the one, a wrong tenth of all
    cells in the other. Shapes that differ fail, and so does NaN or infinity in either, even where
    both have it: an overflow hides every difference.
    """
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        infinite = float("inf")
        return OutputCheck(output, probe, infinite, infinite, 0.0, 0.0, passed=False)
    if wanted.size == 0:
        return OutputCheck(output, probe, 0.0, 0.0, 0.0, 0.0, passed=True)
    error = np.where(_is_finite(got) & _is_finite(wanted), difference(got, wanted), np.inf)
    differences = [difference(p, wanted) for p in perturbed]
    deviations = [np.where(np.isfinite(d), d, 0.0) for d in differences]
    floor = (FLOOR_F16 if wanted.dtype == np.float16 else FLOOR) * _largest(wanted)
    max_tolerance = FACTOR * max((float(d.max()) for d in deviations), default=0.0) + floor
    mean_tolerance = FACTOR * max((float(d.mean()) for d in deviations), default=0.0) + floor
    max_error, mean_error = float(error.max()), float(error.mean())
    passed = max_error <= max_tolerance and mean_error <= mean_tolerance
    return OutputCheck(
        output, probe, max_error, mean_error, max_tolerance, mean_tolerance, passed=passed
    )


def _is_finite(array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.isfinite(array.astype(np.float64))


def _largest(array: npt.NDArray[Any]) -> float:
    finite = np.abs(array[_is_finite(array)].astype(np.float64))
    return float(finite.max(initial=0.0))
