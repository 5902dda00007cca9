"""The best Choices for a budget: least predicted output error within the bytes and the time.

What is not weights depends on what is chosen (an adapter's sum is a buffer of its own, a packed
weight a transient while loading), so the knapsack is solved again and again for what the last
solution left to the weights. Every solution is held against the whole prediction: none that
passes the budget is ever returned.
"""

from __future__ import annotations

import dataclasses
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
        # ours share scratch: what those cost beside their bytes may buy more than they do, and no
        # option's row says so.
        needs = sorted({c.scratch_bytes for item in items for c in item.candidates})
        wanted: list[Callable[[Candidate], bool]] = [
            _any,
            _without_f32,
            lambda c: _without_f32(c) and _without_adapter(c),
            _without_ours,
            lambda c: _without_f32(c) and _without_ours(c),
            lambda c: _without_f32(c) and _without_ours(c) and _without_adapter(c),
        ]
        tables = [_table(items, time_us, may) for may in wanted]
        by_scratch = [_table(items, time_us, partial(_within_scratch, most)) for most in needs[:-1]]
        self._modes = [one for i, one in enumerate(tables) if one not in tables[:i]] + by_scratch
        # Of those that need at most so much: where that is less than any, all candidates.
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
                    break  # nothing in this mode is better
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
            (_least(offered.options, left - most, max_us, exact=False), offered, left - most)
            for most, offered in self._levels
        ]
        if not cases:
            return 0.0
        cases.sort(key=lambda case: case[0])
        first, offered, size = cases[0]
        # The loosest decides; the next one is as far as closing it can help.
        limit = cases[1][0] if len(cases) > 1 else np.inf
        return max(first, min(limit, _least(offered.options, size, max_us, exact=True)))

    def _least_beside(self, allowed: int) -> int:
        """What a session that fits takes at least beside weights and scratch.

        A mode whose smallest choice does not fit even without scratch has none that does.
        """
        chosen = [smallest(offered.items) for offered in self._modes]
        fitting = [some for some in chosen if self._total(some) - _most_scratch(some) <= allowed]
        return min(self._beside(some) - _most_scratch(some) for some in fitting or chosen)

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
        size = allowed - self._beside(chosen) - offered.scratch_bytes + _most_scratch(chosen)
        low, high, bound = 0, allowed + 1, np.inf
        for _ in range(_ROUNDS):
            solution = solve(offered.options, size, max_us, exact=False)
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
    return np.inf if np.isinf(max_us) else 0.0  # of two budgets none is known


def _table(
    items: Sequence[Item], time_us: Callable[[Linear, Choice], float] | None,
    may: Callable[[Candidate], bool],
) -> _Table:  # fmt: skip
    """The candidates that `may` be offered; of an item without any, all of them.

    Those that another is as good as in every way are left out.
    """
    kept = []
    for item in items:
        some = tuple(c for c in item.candidates if may(c)) or item.candidates
        options = _options(dataclasses.replace(item, candidates=some), time_us)
        best = pareto(options, timed=time_us is not None)
        left = dataclasses.replace(item, candidates=tuple(some[j] for j in best))
        kept.append((left, options.some(best)))
    return _Table(tuple(item for item, _ in kept), [options for _, options in kept])


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
