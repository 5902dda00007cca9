"""The best Choices for a budget: least predicted output error within the bytes and the time.

What is not weights depends on what is chosen (an adapter's sum is a buffer of its own, a packed
weight a transient while loading), so the knapsack is solved for what the last solution left to the
weights, until nothing changes. Every solution is held against the whole prediction: none that
passes the budget is ever returned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from slc.compiler.budget.candidates import Candidate, Item, choices_in_order, smallest
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.knapsack import Options, solve
from slc.compiler.linear import Linear

_ROUNDS = 6
_TIE = 1e-9  # of an error: what rounding of sums may move


@dataclasses.dataclass(frozen=True)
class Best:
    """What was found.

    Attributes:
      choices: one per Linear, in graph order.
      error: predicted error of the model's output.
      bound: no candidates that leave as much to the weights have less.
      session_bytes: predicted.
    """

    choices: tuple[Choice, ...]
    error: float
    bound: float
    session_bytes: int


class Chooser:
    """Solves one model's budgets, tightest or widest first: what is shared is reckoned once."""

    def __init__(
        self, linears: Sequence[Linear], items: Sequence[Item],
        predict: Callable[[list[Choice]], int],
        time_us: Callable[[Linear, Choice], float] | None = None,
    ) -> None:  # fmt: skip
        """Keeps the table.

        Args:
          linears: of the model, in graph order.
          items: their candidates.
          predict: the session's bytes with these Choices.
          time_us: of one Linear with a Choice, where time is to be bounded.
        """
        self._linears, self._items, self._predict = list(linears), list(items), predict
        self._options = [_options(item, time_us) for item in items]

    def smallest(self) -> list[Choice]:
        """The Choices of fewest bytes."""
        return choices_in_order(self._linears, iter(smallest(self._items)))

    def best(self, allowed: int, max_us: float = np.inf) -> Best | None:
        """The best Choices whose session takes at most `allowed` bytes; None where none does.

        Args:
          allowed: for the whole session.
          max_us: for the Linears together, where `time_us` was given.
        """
        chosen = smallest(self._items)
        found: Best | None = None
        seen: set[int] = set()
        for _ in range(_ROUNDS):
            beside = self._total(chosen) - sum(c.resident_bytes for c in chosen)
            if beside in seen:
                break
            seen.add(beside)
            solution = solve(self._options, allowed - beside, max_us)
            if solution is None:
                break
            chosen = [
                item.candidates[j] for item, j in zip(self._items, solution.chosen, strict=True)
            ]
            total = self._total(chosen)
            if total <= allowed and (found is None or solution.error < found.error):
                choices = tuple(self._choices(chosen))
                found = Best(choices, solution.error, solution.bound, total)
        return found or self._cautious(allowed, max_us)

    def _cautious(self, allowed: int, max_us: float) -> Best | None:
        """What fits when more and more is set aside: for tables where the rounds never settle."""
        least = smallest(self._items)
        reserve = max(0, self._total(least) - sum(c.resident_bytes for c in least))
        for part in (0.02, 0.05, 0.1, 0.2, 0.4):
            solution = solve(self._options, int((allowed - reserve) * (1 - part)), max_us)
            if solution is None:
                continue
            chosen = [
                item.candidates[j] for item, j in zip(self._items, solution.chosen, strict=True)
            ]
            total = self._total(chosen)
            if total <= allowed:
                choices = tuple(self._choices(chosen))
                return Best(choices, solution.error, solution.bound, total)
        return None

    def _choices(self, chosen: Sequence[Candidate]) -> list[Choice]:
        return choices_in_order(self._linears, iter(chosen))

    def _total(self, chosen: Sequence[Candidate]) -> int:
        return self._predict(self._choices(chosen))


def _options(item: Item, time_us: Callable[[Linear, Choice], float] | None) -> Options:
    candidates = item.candidates
    times = [
        0.0
        if time_us is None
        else sum(time_us(li, ch) for li, ch in zip(item.linears, c.choices, strict=True))
        for c in candidates
    ]
    return Options(
        np.array([c.error for c in candidates]),
        np.array([c.resident_bytes for c in candidates], np.int64),
        np.array(times),
    )
