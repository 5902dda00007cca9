"""From timings to figures: non-negative least squares of relative errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from slc.compiler.budget.operation import KernelCost, Machine, Operation

Floats = npt.NDArray[np.float64]
Figures = dict[str, dict[str, float]]  # kernel -> figure -> number

RATIO_PERCENTILES = (5, 95)
_DIGITS = 4  # that a fitted figure is given with


@dataclasses.dataclass(frozen=True)
class Sample:
    """One timing.

    Attributes:
      operations: what was done, how often.
      us: median time of it all.
      fastest_us: mean of the fastest tenth.
    """

    operations: tuple[tuple[Operation, int], ...]
    us: float
    fastest_us: float


def fit(samples: Sequence[Sample], machine: Machine) -> Figures:
    """The figures that explain `samples` of one kernel, or of several that were timed together.

    The model is the larger of two terms, so it is linear only once it is known which samples wait
    for memory. Those are the ones with most bytes for their time; how many is tried out.
    """
    columns, matrix = _design(samples, machine)
    us = np.array([sample.us for sample in samples])
    traffic = np.array([_bytes(s) for s in samples]) / machine.bytes_per_us / us
    order = np.argsort(traffic, kind="stable")
    best, least = None, np.inf
    for count in range(len(samples), min(len(columns), len(samples)) - 1, -1):
        chosen = order[:count]
        figures = _solve(matrix[chosen], us[chosen], columns)
        errors = np.log(np.maximum(modelled(figures, samples, machine), 1e-9) / us)
        if (error := float(np.square(errors).sum())) < least - 1e-12:
            best, least = figures, error
    assert best is not None
    return _with_ratios(best, samples, machine)


def modelled(figures: Mapping[str, Mapping[str, float]], samples: Sequence[Sample],
             machine: Machine) -> Floats:  # fmt: skip
    """Microseconds of every sample by `figures`."""
    costs = {name: KernelCost(own, machine) for name, own in figures.items()}
    return np.array([
        sum(n * (costs[o.kernel].us(o) + costs[o.kernel].us_per_token) for o, n in s.operations)
        for s in samples
    ])  # fmt: skip


def _bytes(sample: Sample) -> float:
    return sum(count * operation.bytes for operation, count in sample.operations)


def _design(samples: Sequence[Sample], machine: Machine) -> tuple[list[tuple[str, str]], Floats]:
    """Columns (kernel, figure) that some sample has, and by how much each multiplies it, in µs."""
    rows: list[dict[tuple[str, str], float]] = []
    for sample in samples:
        row: dict[tuple[str, str], float] = {}
        for operation, count in sample.operations:
            for figure, amount in _terms(operation, machine).items():
                key = (operation.kernel, figure)
                row[key] = row.get(key, 0.0) + amount * count
        rows.append(row)
    columns = sorted({key for row in rows for key, amount in row.items() if amount})
    return columns, np.array([[row.get(key, 0.0) for key in columns] for row in rows])


def _terms(operation: Operation, machine: Machine) -> dict[str, float]:
    per_ns = 1 / 1000 / machine.parallel(operation.tasks)
    return {
        "ns_per_position": operation.positions * per_ns,
        "ns_per_value": operation.values * per_ns,
        "ns_per_row": operation.rows * per_ns,
        "ns_per_group": operation.groups * per_ns,
        # What onnxruntime-genai does is there once a token: its call and its token are one.
        "us_per_token" if operation.kernel == "runtime" else "us_per_call": 1.0,
    }


def _solve(matrix: Floats, us: Floats, columns: Sequence[tuple[str, str]]) -> Figures:
    from scipy.optimize import nnls

    relative = matrix / us[:, None]
    scale = np.abs(relative).max(axis=0)
    scale[scale == 0] = 1
    solution = nnls(relative / scale, np.ones(len(us)))[0] / scale
    figures: Figures = {kernel: {} for kernel, _ in columns}
    for (kernel, figure), value in zip(columns, solution, strict=True):
        if value > 0:
            figures[kernel][figure] = float(value)
    return figures


def _with_ratios(figures: Figures, samples: Sequence[Sample], machine: Machine) -> Figures:
    """Rounded, and with what the samples took over what they should, the same for all kernels."""
    rounded = {
        kernel: {name: _rounded(value) for name, value in own.items()}
        for kernel, own in figures.items()
    }
    expected = modelled(rounded, samples, machine)
    median = np.array([s.us for s in samples]) / expected
    fastest = np.array([s.fastest_us for s in samples]) / expected
    low = min(1.0, float(np.percentile(fastest, RATIO_PERCENTILES[0])))
    high = max(1.0, float(np.percentile(median, RATIO_PERCENTILES[1])))
    for own in rounded.values():
        own["ratio_low"], own["ratio_high"] = _rounded(low), _rounded(high)
    return rounded


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
