"""One option for each item, of least total error, within a budget of bytes and one of time.

    min Σᵢ errorᵢ(jᵢ)    subject to    Σᵢ bytesᵢ(jᵢ) ≤ B,  Σᵢ timeᵢ(jᵢ) ≤ T

the multiple-choice knapsack problem (Kellerer, Pferschy & Pisinger 2004, chapter 11), with one or
two constraints. Its Lagrangian dual

    max over λ, μ ≥ 0 of  Σᵢ minⱼ (errorᵢⱼ + λ·bytesᵢⱼ + μ·timeᵢⱼ) − λ·B − μ·T

is the linear relaxation's optimum, so it proves how far any choice is from the best one. Cutting
planes find it (each evaluation is one pass over the table); the choice is repaired from the dual's
minimisers by exchanging options of single items. What that leaves open is closed by HiGHS, where
the table is small enough for branch and bound.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EXACT_VARIABLES = 5_000  # up to here branch and bound takes seconds
EXACT_NODES = 500  # of it: a limit of time would make a plan depend on the machine
GAP = 1e-4  # relative: a bound this close is close enough
_CUTS = 100
_STARTS = 2  # choices of the dual on either side of the budgets that are repaired
_BOX = 1e6  # of the multipliers, in errors of the worst choice for a whole budget
_TINY = 1e-300


@dataclasses.dataclass(frozen=True)
class Options:
    """Of one item.

    Attributes:
      error: f64 [m], at least 0; what is minimised.
      bytes: i64 [m].
      time: f64 [m], any unit.
    """

    error: Floats
    bytes: Ints
    time: Floats

    def some(self, kept: Sequence[int] | Ints) -> Options:
        """Those at these indices, in this order."""
        index = np.asarray(kept, np.int64)
        return Options(self.error[index], self.bytes[index], self.time[index])


@dataclasses.dataclass(frozen=True)
class Solution:
    """A choice and what is known of it.

    Attributes:
      chosen: i64 [items], the option of each.
      error: Σ of the chosen options.
      bound: no choice within the budgets has less.
      bytes: Σ of the chosen options, at most the budget.
      time: likewise.
    """

    chosen: Ints
    error: float
    bound: float
    bytes: int
    time: float

    @property
    def gap(self) -> float:
        """(error − bound) / error, at least 0."""
        return max(0.0, self.error - self.bound) / self.error if self.error > 0 else 0.0


class Table:
    """The options of all items side by side, padded with options that nobody takes."""

    def __init__(self, items: Sequence[Options]) -> None:
        width = max((len(item.error) for item in items), default=0)
        shape = (len(items), width)
        self.error = np.full(shape, np.inf)
        self.bytes = np.zeros(shape, np.int64)
        self.time = np.zeros(shape)
        for i, item in enumerate(items):
            count = len(item.error)
            self.error[i, :count] = item.error
            self.bytes[i, :count] = item.bytes
            self.time[i, :count] = item.time
        self.rows = np.arange(len(items))

    def totals(self, chosen: Ints) -> tuple[float, int, float]:
        """Error, bytes and time of a choice."""
        picked = self.rows, chosen
        return (
            float(self.error[picked].sum()),
            int(self.bytes[picked].sum()),
            float(self.time[picked].sum()),
        )

    def changes(self, chosen: Ints) -> Options:
        """What each option would add to the totals in place of the chosen one, [items, width]."""
        picked = self.rows, chosen
        return Options(
            self.error - self.error[picked][:, None],
            self.bytes - self.bytes[picked][:, None],
            self.time - self.time[picked][:, None],
        )

    def least(self, weight_of_bytes: float, weight_of_time: float) -> Ints:
        """Of each item the option of least error + λ·bytes + μ·time."""
        cost = self.error + weight_of_bytes * self.bytes + weight_of_time * self.time
        chosen: Ints = np.argmin(cost, axis=1).astype(np.int64)
        return chosen


def solve(
    items: Sequence[Options], max_bytes: int, max_time: float = np.inf, *, exact: bool = True
) -> Solution | None:
    """The best choice that is found, with a bound on any.

    Args:
      items: each with at least one option.
      max_bytes: B.
      max_time: T; infinity where time does not matter.
      exact: close what gap is left by branch and bound, where the table is small enough; without
        it a choice is found as long as bytes are the only budget.

    Returns:
      None where no choice is known that is within both budgets: for a single budget there is none.
    """
    if not items:
        return Solution(np.empty(0, np.int64), 0.0, 0.0, 0, 0.0)
    kept = [pareto(item, timed=bool(np.isfinite(max_time))) for item in items]
    table = Table([item.some(of) for item, of in zip(items, kept, strict=True)])
    budget = _Budget(max_bytes, max_time)
    bound, starts = _dual(table, budget)
    repaired = (_repaired(table, start, budget) for start in starts)
    found = [chosen for chosen in repaired if chosen is not None]
    best = min(found, key=lambda chosen: table.totals(chosen)[0], default=None)
    if best is None or (exact and _gap(table.totals(best)[0], bound) > GAP):
        best, bound = _exact(table, budget, best, bound)
    if best is None:
        return None
    error, size, time = table.totals(best)
    chosen = np.array([kept[i][j] for i, j in enumerate(best)], np.int64)
    return Solution(chosen, error, min(bound, error), size, time)


def pareto(item: Options, *, timed: bool) -> Ints:
    """The options that no other is as good as in error, bytes and (if `timed`) time.

    Of equal ones the first stays. Order is kept.
    """
    keys = [item.error, item.bytes.astype(np.float64)] + ([item.time] if timed else [])
    values = np.stack(keys)
    no_worse = (values[:, :, None] <= values[:, None, :]).all(axis=0)
    equal = no_worse & no_worse.T
    beats = (no_worse & ~equal) | np.triu(equal, 1)  # [i, j]: i makes j needless
    kept: Ints = np.flatnonzero(~beats.any(axis=0))
    return kept


@dataclasses.dataclass(frozen=True)
class _Budget:
    bytes: int
    time: float

    def over(self, size: Any, time: Any) -> Any:
        """The parts of both budgets that these totals are above them, summed."""
        over = np.maximum(0, size - self.bytes) / max(1, self.bytes)
        if np.isfinite(self.time):
            over = over + np.maximum(0.0, time - self.time) / max(self.time, _TINY)
        return over


def _gap(error: float, bound: float) -> float:
    return (error - bound) / error if error > 0 else 0.0


def _dual(table: Table, budget: _Budget) -> tuple[float, list[Ints]]:
    """The dual's optimum by Kelley's cutting planes, and the choices that its evaluations gave.

    Each choice c is a cut θ ≤ error(c) + λ·(bytes(c) − B) + μ·(time(c) − T). A bound holds at any λ
    and μ, so neither the box nor stopping early can make it wrong.
    """
    from scipy.optimize import linprog  # slc --help need not pay for scipy

    timed = bool(np.isfinite(budget.time))
    units = np.array([1 / max(1, budget.bytes), 1 / max(budget.time, _TINY) if timed else 0.0])
    finite = np.where(np.isfinite(table.error), table.error, 0.0)
    most = _BOX * (float(finite.max(axis=1, initial=0.0).sum()) + _TINY)
    box = [(None, None), (0, most), (0, most if timed else 0)]
    point, best = np.zeros(2), -np.inf
    cuts: list[list[float]] = []
    seen: list[tuple[float, float, Ints]] = []
    for _ in range(_CUTS):
        chosen = table.least(*(point * units))
        error, size, time = table.totals(chosen)
        over = np.array([size - budget.bytes, time - budget.time if timed else 0.0]) * units
        best = max(best, error + float(point @ over))
        seen.append((float(budget.over(size, time)), error, chosen))
        cuts.append([1.0, *-over, error])
        rows = np.array(cuts)
        step = linprog([-1, 0, 0], rows[:, :3], rows[:, 3], bounds=box, method="highs")
        if not step.success or step.x[0] - best <= 0.1 * GAP * abs(best):
            break
        point = step.x[1:]
    inside = sorted((one for one in seen if one[0] == 0), key=lambda one: one[1])
    outside = sorted((one for one in seen if one[0] > 0), key=lambda one: one[0])
    return best, [chosen for _, _, chosen in (*inside[:_STARTS], *outside[:_STARTS])]


def _repaired(table: Table, chosen: Ints, budget: _Budget) -> Ints | None:
    """A choice within the budgets that no exchange of one option makes better, from a near one.

    A round looks at the whole table once and exchanges the options of as many items as it can.
    """
    chosen = chosen.copy()
    while (now := budget.over(*table.totals(chosen)[1:])) > 0:
        _, size, time = table.totals(chosen)
        more = table.changes(chosen)
        freed = now - budget.over(size + more.bytes, time + more.time)
        cost = np.log(np.maximum(more.error, _TINY))  # as a logarithm: quotients may overflow
        worth = np.where(freed > 0, np.log(np.maximum(freed, _TINY)) - cost, -np.inf)

        def better(size: int, time: float, more_bytes: int, more_time: float) -> bool:
            over = budget.over(size, time)
            return bool(over > 0 and budget.over(size + more_bytes, time + more_time) < over)

        if not _exchange(table, chosen, worth, better):
            return None

    def fits(size: int, time: float, more_bytes: int, more_time: float) -> bool:
        return size + more_bytes <= budget.bytes and time + more_time <= budget.time

    while True:
        _, size, time = table.totals(chosen)
        more = table.changes(chosen)
        within = (size + more.bytes <= budget.bytes) & (time + more.time <= budget.time)
        worth = np.where(within & (more.error < 0), -more.error, -np.inf)
        if not _exchange(table, chosen, worth, fits):
            return chosen


def _exchange(
    table: Table, chosen: Ints, worth: Floats, may: Callable[[int, float, int, float], bool]
) -> bool:
    """Takes the best option of every item where it `may`, those of most worth first.

    Args:
      table: of all.
      chosen: changed in place.
      worth: f64 [items, width]; −inf is none.
      may: (bytes and time so far, those that the exchange adds) -> whether.

    Returns:
      Whether anything was exchanged.
    """
    if not worth.size:
        return False
    option = np.argmax(worth, axis=1)
    value = worth[table.rows, option]
    more = table.changes(chosen)
    _, size, time = table.totals(chosen)
    changed = False
    for item in np.argsort(-value, kind="stable"):
        if value[item] == -np.inf:
            break
        more_bytes = int(more.bytes[item, option[item]])
        more_time = float(more.time[item, option[item]])
        if may(size, time, more_bytes, more_time):
            size, time = size + more_bytes, time + more_time
            chosen[item] = option[item]
            changed = True
    return changed


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing reaches the process's stdout: HiGHS has been seen to print there whatever it is told.

    A document that `--json` prints must stand alone.
    """
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _exact(
    table: Table, budget: _Budget, best: Ints | None, bound: float
) -> tuple[Ints | None, float]:
    """Branch and bound as far as it may go; what was there where it gives nothing better."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    real = np.isfinite(table.error)
    rows, options = np.nonzero(real)
    if len(rows) > EXACT_VARIABLES:
        return best, bound
    columns = np.arange(len(rows))
    one_each = csr_matrix((np.ones(len(rows)), (rows, columns)), (len(real), len(rows)))
    constraints = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(table.bytes[real][None].astype(np.float64), -np.inf, budget.bytes),
    ]
    if np.isfinite(budget.time):
        constraints.append(LinearConstraint(table.time[real][None], -np.inf, budget.time))
    with _silent():
        done = milp(
            table.error[real], constraints=constraints, integrality=np.ones(len(rows)),
            bounds=Bounds(0, 1), options={"node_limit": EXACT_NODES, "mip_rel_gap": GAP},
        )  # fmt: skip
    if done.mip_dual_bound is not None and np.isfinite(done.mip_dual_bound):
        bound = max(bound, float(done.mip_dual_bound))
    if done.x is None:
        return best, bound
    chosen = np.zeros(len(real), np.int64)
    taken = done.x > 0.5
    chosen[rows[taken]] = options[taken]
    # Its own tolerances are not ours: what is a byte over goes through the repair.
    mended = _repaired(table, chosen, budget)
    found = [c for c in (best, mended) if c is not None]
    return min(found, key=lambda c: table.totals(c)[0], default=None), bound
