"""Gate B: is the head slower, or larger in memory, than the base by more than is allowed?

    for every pair of fresh processes, one for each artifact (which starts first is drawn):
        both load, touch their weights, warm up
        rounds of two turns, base head, then head base, and so on, until the time is up
        -> log(head / base) of every round, by quantity; of the peak memory once

Both processes of a pair are alive while they take turns of some 20 ms, or of one run that is
longer, one asleep while the other runs: a neighbour's burst of a second hits both sides of many
rounds, where whole processes one after the other would each get a burst of their own. On a shared
machine a run differs from the next by a tenth or more, and what two in a row have in common is
lost the more runs a turn has: the median of many short rounds is worth more than that of few long
ones. Several pairs are needed nevertheless, because a process keeps for its life what it drew at
its start, such as where its pages lie: `sequential.py` counts pairs, not turns. The first half of
the pairs is short so that a clear case ends early; the other half shares what is left of the time.

The error of a decision is bounded for each quantity by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import time
from collections.abc import Iterator

import numpy as np

from slc.compiler.bench.process import OutOfTimeError, Process
from slc.compiler.bench.ratios import decide, interval, pair_ratio
from slc.compiler.bench.sequential import HORIZON, Decision, Interval
from slc.compiler.bench.subject import Subject
from slc.compiler.progress import Progress

MEMORY = "session memory"
PAIR_SECONDS = 1.25  # of turns, after both sides are warm: 17 rounds of a run of 35 ms
ROUNDS_LEAST = 4
TURN_SECONDS = 0.02
RUNS_MOST = 50  # of a turn
TRIAL_RUNS = 3  # by which the length of a turn is found
WARM_RUNS = 3  # of a fresh process: onnxruntime plans its memory in the first two


@dataclasses.dataclass
class Quantity:
    """One thing that is compared: seconds of some work, or bytes.

    Attributes:
      name: as people read it.
      limit: the most that log(head / base) may be.
      pairs: log(head / base) of the rounds of each pair of processes.
      decision: the first that was reached: later pairs do not change it.
      base: medians of each pair, in seconds or bytes.
      head: likewise.
    """

    name: str
    limit: float
    pairs: list[list[float]] = dataclasses.field(default_factory=list)
    decision: Decision = "undecided"
    base: list[float] = dataclasses.field(default_factory=list)
    head: list[float] = dataclasses.field(default_factory=list)

    @property
    def interval(self) -> Interval:
        """Of log(head / base)."""
        return interval(self.pairs) if self.pairs else Interval(-math.inf, math.inf)

    @property
    def ratio(self) -> float:
        """Ratio head / base: the median of the pairs' medians; NaN before the first pair."""
        if not self.pairs:
            return math.nan
        return math.exp(float(np.median([pair_ratio(rounds) for rounds in self.pairs])))

    def add(self, rounds: list[float], base: float, head: float) -> None:
        """Takes in one pair and decides if that is possible now."""
        self.pairs.append(rounds)
        self.base.append(base)
        self.head.append(head)
        if self.decision == "undecided":
            self.decision = decide(self.pairs, self.limit)


@dataclasses.dataclass
class Comparison:
    """What the pairs said.

    Attributes:
      quantities: what was compared.
      seconds: that it took.
      ended: why it ended: "decided", "time" or "pairs" (the horizon was reached).
    """

    quantities: list[Quantity]
    seconds: float = 0.0
    ended: str = "decided"

    @property
    def decision(self) -> Decision:
        """A regression of anything is one; a pass is one of everything."""
        decisions = [quantity.decision for quantity in self.quantities]
        if "regression" in decisions:
            return "regression"
        return "undecided" if "undecided" in decisions else "pass"


def compare(
    base: Subject,
    head: Subject,
    *,
    max_slowdown: float,
    max_growth: float,
    time_limit_s: float,
    progress: Progress | None = None,
    stop_early: bool = True,
    seed: int = 0,
) -> Comparison:
    """Runs pairs until everything is decided, or something is a regression.

    Args:
      base: what is held to be good; its `works[0]` is timed.
      head: what is judged, under the same load.
      max_slowdown: allowed, 0.05 for 5 %.
      max_growth: of the session's memory, likewise.
      time_limit_s: no pair is begun that would end later, and one that does is left out.
      progress: called after every pair.
      stop_early: False: all pairs that the time allows, up to the horizon (for calibration).
      seed: of the order in which the two processes start.

    Raises:
      ArtifactError: a side can't be run.
    """
    quantities = [Quantity(name, math.log1p(max_slowdown)) for name in base.quantities]
    result = Comparison([*quantities, Quantity(MEMORY, math.log1p(max_growth))])
    coin, begin = random.Random(seed), time.perf_counter()
    turns = _Turns(base, head, begin + time_limit_s)
    longest_s = 0.0  # of a pair, beside its rounds
    for n in range(HORIZON):
        left_s = time_limit_s - (time.perf_counter() - begin)
        seconds = PAIR_SECONDS
        if n >= HORIZON // 2:
            seconds = max(seconds, left_s / (HORIZON - n) - longest_s)
        if n > 0 and longest_s + seconds > left_s:
            result.ended = "time"
            break
        started = time.perf_counter()
        try:
            turns.run_pair(result, seconds, head_first=coin.random() < 0.5)
        except OutOfTimeError:
            result.ended = "time"
            break
        longest_s = max(longest_s, time.perf_counter() - started - seconds)
        if progress is not None:
            progress(n + 1, HORIZON, _state(result))
        decided = "undecided" not in [q.decision for q in result.quantities]
        if stop_early and (decided or result.decision == "regression"):
            break
    else:
        result.ended = "pairs" if result.decision == "undecided" else "decided"
    result.seconds = time.perf_counter() - begin
    return result


def _state(result: Comparison) -> str:
    first = result.quantities[-2]  # decode, or the pass: memory is last
    return f"{first.name}: × {first.ratio:.3f}"


class _Turns:
    """How long a turn is, found once and then the same for all pairs, and the pairs."""

    def __init__(self, base: Subject, head: Subject, deadline: float) -> None:
        self._subjects = (base, head)
        self._deadline = deadline
        self._work = base.works[0]
        self._runs = 0

    def run_pair(self, result: Comparison, seconds: float, *, head_first: bool) -> None:
        """One pair of fresh processes."""
        with _both(self._subjects, self._deadline, head_first) as (base, head):
            for side in (base, head):
                side.touch()
                side.turn(self._work, WARM_RUNS - 1, 1)
            if self._runs == 0:
                self._runs = self._runs_of_a_turn(base)
            rounds: dict[str, list[float]] = {q.name: [] for q in result.quantities}
            sides: dict[str, tuple[list[float], list[float]]] = {q: ([], []) for q in rounds}
            end = time.perf_counter() + seconds
            # Rounds come in twos, one in either order: a drift leaves their median where it was.
            while time.perf_counter() < end or len(rounds[MEMORY]) < ROUNDS_LEAST:
                for order in ((base, head), (head, base)):
                    self._round(base, head, order, rounds, sides)
                    rounds[MEMORY].append(0.0)  # counts the rounds
            peaks = base.peak_bytes(), head.peak_bytes()
        rounds[MEMORY] = [math.log(peaks[1] / peaks[0])]
        sides[MEMORY] = ([float(peaks[0])], [float(peaks[1])])
        for quantity in result.quantities:
            of_base, of_head = (float(np.median(side)) for side in sides[quantity.name])
            quantity.add(rounds[quantity.name], of_base, of_head)

    def _runs_of_a_turn(self, base: Process) -> int:
        last = self._subjects[0].quantities[-1]
        run_s = float(np.median(base.turn(self._work, 1, TRIAL_RUNS)[last]))
        most = RUNS_MOST
        if self._subjects[0].load.decoder:
            most = max(1, min(most, self._subjects[0].load.steps_most - WARM_RUNS))
        return int(min(most, max(1, math.ceil(TURN_SECONDS / run_s))))

    def _round(
        self,
        base: Process,
        head: Process,
        order: tuple[Process, Process],
        rounds: dict[str, list[float]],
        sides: dict[str, tuple[list[float], list[float]]],
    ) -> None:
        """A turn of each side, in `order`.

        The run before a turn's first is not timed, because the caches are the other side's. Where a
        turn is one long run that is left out: it would double the time, and cold caches are a small
        part of such a run, and alike for both.
        """
        untimed = 1 if self._runs > 1 or self._subjects[0].load.decoder else 0
        turns = {side: side.turn(self._work, untimed, self._runs) for side in order}
        for name in self._subjects[0].quantities:
            of_base, of_head = (float(np.median(turns[side][name])) for side in (base, head))
            rounds[name].append(math.log(of_head / of_base))
            sides[name][0].append(of_base)
            sides[name][1].append(of_head)


@contextlib.contextmanager
def _both(
    subjects: tuple[Subject, Subject], deadline: float, head_first: bool
) -> Iterator[tuple[Process, Process]]:
    """(base, head), loading at the same time."""
    order = subjects[::-1] if head_first else subjects
    with Process(order[0], deadline) as first, Process(order[1], deadline) as second:
        yield (second, first) if head_first else (first, second)
