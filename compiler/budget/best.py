"""The best Choices for a budget: least predicted output error within the bytes and the time.

What is not weights depends on what is chosen (an adapter's sum is a buffer of its own, a packed
weight a transient while loading), so the knapsack is solved again and again for what the last
solution left to the weights. Every solution is held against the whole prediction: none that
passes the budget is ever returned.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from slc.compiler.budget.candidates import Candidate, Item, choices_in_order, smallest
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.knapsack import Options, pareto, solve
from slc.compiler.linear import Linear

_ROUNDS = 8
_CLOSE = 1e-3  # of the budget: what closing in further could still gain


@dataclasses.dataclass(frozen=True)
class Best:
    """What was found.

    Attributes:
      choices: one per Linear, in graph order.
      error: predicted error of the model's output.
      bound: no candidates that fit have less.
      session_bytes: predicted.
    """

    choices: tuple[Choice, ...]
    error: float
    bound: float
    session_bytes: int


@dataclasses.dataclass(frozen=True)
class _Table:
    """Items and what the knapsack sees of them."""

    items: tuple[Item, ...]
    options: list[Options] = dataclasses.field(compare=False)

    @cached_property
    def scratch_bytes(self) -> int:
        """The most that any candidate needs."""
        return _most_scratch([c for item in self.items for c in item.candidates])

    def chosen(self, picked: npt.NDArray[np.int64]) -> list[Candidate]:
        """The candidates of a solution."""
        return [item.candidates[j] for item, j in zip(self.items, picked, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Found:
    """A choice that fits, the candidates it is from and the bytes that it was given."""

    best: Best
    offered: _Table
    size: int


class Chooser:
    """Solves one model's budgets; what they share is reckoned once."""

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
        self._linears, self._predict = list(linears), predict
        # A dense weight is a transient while loading, an adapter's sum a buffer, and operators of
        # ours share scratch: what those cost beside their bytes may buy more than they do, and the
        # knapsack sees none of it.
        needs = sorted({c.scratch_bytes for item in items for c in item.candidates})
        wanted: list[Callable[[Candidate], bool]] = [
            _any,
            _without_f32,
            lambda c: _without_f32(c) and _without_adapter(c),
            _without_ours,
            lambda c: _without_f32(c) and _without_ours(c),
            lambda c: _without_f32(c) and _without_ours(c) and _without_adapter(c),
        ]
        options = [_options(item, time_us) for item in items]
        timed = time_us is not None
        tables = [_table(items, options, may, timed=timed) for may in wanted]
        by_scratch = [
            _table(items, options, partial(_within_scratch, most), timed=timed)
            for most in needs[:-1]
        ]
        self._modes = [one for i, one in enumerate(tables) if one not in tables[:i]] + by_scratch
        # (most scratch, the candidates that need no more); not where some item has none of those.
        levels = zip(needs, (*by_scratch, tables[0]), strict=True) if needs else ()
        self._levels = [(most, one) for most, one in levels if one.scratch_bytes <= most]

    def smallest(self) -> list[Choice]:
        """The Choices of the smallest session."""
        least = [self._choices(smallest(offered.items)) for offered in self._modes]
        return min(least, key=self._predict)

    def best(self, allowed: int, max_us: float = np.inf) -> Best | None:
        """The best Choices whose session takes at most `allowed` bytes; None where none does.

        Args:
          allowed: for the whole session.
          max_us: for the Linears together, where `time_us` was given.
        """
        bound = self._bound(allowed, max_us)
        found: list[_Found] = []
        for offered in self._modes:
            for one in self._within(offered, allowed, max_us):
                if found and one.best.bound >= min(other.best.error for other in found):
                    break  # nothing of these sizes is better
                found.append(one)
        if not found:
            return None
        found.sort(key=lambda one: (one.best.error, one.best.session_bytes))
        best, closed = found[0].best, list[_Table]()
        for one in found:  # of each mode the best, where it may hold a better one
            if one.best.bound < best.error and one.offered not in closed:
                best = min(best, self._exact(one, allowed, max_us), key=lambda b: b.error)
                closed.append(one.offered)
        return dataclasses.replace(best, bound=min(best.error, bound))

    def _bound(self, allowed: int, max_us: float) -> float:
        """No choice that fits has less: of all candidates, with the most that weights ever get.

        What a session takes beside them is least for the smallest choice of some mode, but for the
        scratch that operators share: a choice that takes so much of it has no candidate that needs
        more, and that much less for its weights.
        """
        # The margin is on all of it and rounded once: a byte either way.
        left = allowed - self._least_beside(allowed) + 1
        cases = [
            (_least(offered.options, left - most, max_us, exact=False), False, i)
            for i, (most, offered) in enumerate(self._levels)
        ]
        if not cases:
            return 0.0
        heapq.heapify(cases)
        while True:  # the loosest decides, until it is as tight as it gets
            bound, closed, i = cases[0]
            if closed or np.isinf(bound):
                return bound
            most, offered = self._levels[i]
            tighter = _least(offered.options, left - most, max_us, exact=True)
            heapq.heapreplace(cases, (max(bound, tighter), True, i))

    def _least_beside(self, allowed: int) -> int:
        """What a session that fits takes at least beside weights and scratch.

        A mode whose smallest weights do not fit beside the least of all modes has none that does.
        """
        chosen = [smallest(offered.items) for offered in self._modes]
        besides = [self._beside(some) - _most_scratch(some) for some in chosen]
        left = allowed - min(besides)
        return min(
            (
                beside
                for beside, some in zip(besides, chosen, strict=True)
                if sum(candidate.resident_bytes for candidate in some) <= left
            ),
            default=min(besides),
        )

    def _exact(self, found: _Found, allowed: int, max_us: float) -> Best:
        """The best choice for the bytes that `found` left to the weights, if that fits as well."""
        solution = solve(found.offered.options, found.size, max_us)
        if solution is None or solution.error >= found.best.error:
            return found.best
        chosen = found.offered.chosen(solution.chosen)
        total = self._total(chosen)
        if total > allowed:
            return found.best
        return Best(tuple(self._choices(chosen)), solution.error, found.best.bound, total)

    def quickest(self, allowed: int) -> Best | None:
        """The least time of the Linears within the bytes; None where nothing fits."""
        found = [
            one.best
            for offered in self._modes
            for one in self._within(_Table(offered.items, _timed(offered.options)), allowed, np.inf)
        ]
        return min(found, key=lambda one: one.error, default=None)

    def _within(self, offered: _Table, allowed: int, max_us: float) -> Iterator[_Found]:
        """Solutions that fit, the weights' budget closed in on from what the last one left."""
        chosen = smallest(offered.items)
        # As if a candidate that needs the most scratch were among them: where one is, that is it.
        most = allowed - self._beside(chosen)
        size = most - offered.scratch_bytes + _most_scratch(chosen)
        low, high, bound = 0, allowed + 1, np.inf
        for _ in range(_ROUNDS):
            solution = solve(offered.options, size, max_us, exact=False)
            if solution is None and size < most:
                size = most  # nothing with that scratch fits, but something with less may
                continue
            if solution is None:
                return
            bound = min(bound, solution.bound)
            chosen = offered.chosen(solution.chosen)
            total = self._total(chosen)
            if total <= allowed:
                choices = tuple(self._choices(chosen))
                yield _Found(Best(choices, solution.error, bound, total), offered, size)
                low = size
            else:
                high = size
            size += allowed - total
            if not low < size < high:
                size = (low + high) // 2
            if high - low <= _CLOSE * allowed:
                return

    def _choices(self, chosen: Sequence[Candidate]) -> list[Choice]:
        return choices_in_order(self._linears, iter(chosen))

    def _beside(self, chosen: Sequence[Candidate]) -> int:
        """What the session takes beside these candidates' own bytes."""
        return self._total(chosen) - sum(candidate.resident_bytes for candidate in chosen)

    def _total(self, chosen: Sequence[Candidate]) -> int:
        return self._predict(self._choices(chosen))


def _least(options: list[Options], size: int, max_us: float, *, exact: bool) -> float:
    """No choice of these options within both budgets has less; infinite where there is none."""
    solution = solve(options, size, max_us, exact=exact)
    if solution is not None:
        return solution.bound
    too_large = sum(int(one.bytes.min()) for one in options) > size
    too_slow = sum(float(one.time.min()) for one in options) > max_us
    # Of two budgets each of which can be met alone nobody knows.
    return np.inf if too_large or too_slow or np.isinf(max_us) else 0.0


def _table(
    items: Sequence[Item], options: Sequence[Options], may: Callable[[Candidate], bool], *,
    timed: bool,
) -> _Table:  # fmt: skip
    """The candidates that `may` be offered; of an item without any, all of them.

    Those that another is as good as in every way are left out.
    """
    kept, rows = [], []
    for item, row in zip(items, options, strict=True):
        some = [j for j, candidate in enumerate(item.candidates) if may(candidate)]
        some = some or list(range(len(item.candidates)))
        left = [some[j] for j in pareto(row.some(some), timed=timed)]
        kept.append(dataclasses.replace(item, candidates=tuple(item.candidates[j] for j in left)))
        rows.append(row.some(left))
    return _Table(tuple(kept), rows)


def _timed(options: list[Options]) -> list[Options]:
    """The same table with time in the place of error."""
    return [Options(one.time, one.bytes, one.time) for one in options]


def _any(_: Candidate) -> bool:
    return True


def _without_f32(candidate: Candidate) -> bool:
    return all(choice.encoding != "dense" for choice in candidate.choices)


def _without_ours(candidate: Candidate) -> bool:
    return not any(choice.packed for choice in candidate.choices)


def _most_scratch(candidates: Sequence[Candidate]) -> int:
    return max((candidate.scratch_bytes for candidate in candidates), default=0)


def _within_scratch(most: int, candidate: Candidate) -> bool:
    return candidate.scratch_bytes <= most


def _without_adapter(candidate: Candidate) -> bool:
    return all(choice.rank == 0 for choice in candidate.choices)


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
