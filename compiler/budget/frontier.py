"""The spectrum of one checkpoint on one device: quality, bytes and speed over many budgets."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from slc.compiler.budget.alternatives import Alternative
from slc.compiler.budget.options import BudgetOptions
from slc.compiler.budget.planning import Plan, plan
from slc.compiler.budget.sizes import format_size
from slc.compiler.errors import BudgetError, RequestError
from slc.compiler.progress import Progress

if TYPE_CHECKING:
    from slc.compiler.frontends.source import Source
    from slc.compiler.structure.menu import Menu
    from slc.targets import Target

BUDGETS_MIN = 2
_ENOUGH = 1 << 62


@dataclasses.dataclass(frozen=True)
class Point:
    """One budget.

    Attributes:
      mem_bytes: the budget.
      session_bytes: predicted.
      weight_bytes: of the Linears, in the data file.
      error: predicted error of the model's output.
      tokens_per_s: predicted; None of what is no decoder.
      stored: how many Linears are stored in each encoding.
      alternatives: what else the budget could be spent on.
    """

    mem_bytes: int
    session_bytes: int
    weight_bytes: int
    error: float
    tokens_per_s: float | None
    stored: dict[str, int]
    alternatives: tuple[Alternative, ...]


def frontier(
    source: Source,
    target: Target,
    options: BudgetOptions,
    menu: Menu,
    *,
    count: int = 16,
    low: int | None = None,
    high: int | None = None,
    progress: Progress | None = None,
) -> list[Point]:
    """`count` budgets, unless told from the smallest that fits to every weight in 8 bits.

    Args:
      source: the model.
      target: the device.
      options: of the budget; its memory is not used.
      menu: predicts errors.
      count: budgets, evenly spaced.
      low: bytes of the first.
      high: bytes of the last.
      progress: called as progress(done, count, what).

    Raises:
      RequestError: fewer than two budgets, or the last is not above the first.
      BudgetError: the first is below the smallest that fits.
    """
    if count < BUDGETS_MIN:
        raise RequestError(f"--budgets: got {count}, wanted at least {BUDGETS_MIN}")
    smallest, widest = _span(source, target, options, menu)
    first, last = smallest if low is None else low, widest if high is None else high
    if first >= last:
        raise RequestError(
            f"--from {format_size(first)} --to {format_size(last)}: wanted a last budget above the "
            f"first; those that differ lie from {format_size(smallest, up=True)} to "
            f"{format_size(widest, up=True)}"
        )
    points = []
    for done, mem in enumerate(np.linspace(first, last, count).astype(np.int64).tolist(), 1):
        asked = dataclasses.replace(options, mem_bytes=int(mem))
        points.append(_point(plan(source, target, asked, menu, compare=True), int(mem)))
        if progress is not None:
            progress(done, count, "budgets")
    return points


def _span(source: Source, target: Target, options: BudgetOptions, menu: Menu) -> tuple[int, int]:
    """The smallest budget, and a widest that is worth drawing."""
    try:
        smallest = plan(source, target, dataclasses.replace(options, mem_bytes=1), menu)
        low = smallest.memory.total_bytes
    except BudgetError as error:
        low = error.smallest_bytes
    wide = plan(source, target, dataclasses.replace(options, mem_bytes=_ENOUGH), menu, compare=True)
    named = {one.name: one for one in wide.alternatives}
    high = max(named["dense_int8"].session_bytes, named["hpa"].session_bytes)
    return low, max(high, low + 1)


def _point(result: Plan, mem: int) -> Point:
    stored: dict[str, int] = {}
    for choice in result.choices:
        key = choice.encoding if choice.rank == 0 else f"{choice.encoding} + adapter"
        stored[key] = stored.get(key, 0) + 1
    return Point(
        mem, result.memory.total_bytes, sum(c.weight_bytes for c in result.choices),
        float(result.error or 0.0), None if result.speed is None else result.speed.tokens_per_s,
        stored, result.alternatives,
    )  # fmt: skip


def point_json(point: Point) -> dict[str, Any]:
    """A point as JSON values, its alternatives by name."""
    row = dataclasses.asdict(point)
    row["alternatives"] = {
        one["name"]: {key: value for key, value in one.items() if key not in ("name", "choices")}
        for one in row["alternatives"]
    }
    return row
