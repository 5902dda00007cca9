"""On which side of a limit a ratio lies, decided after as few pairs of processes as possible.

The unit of evidence is a fresh pair of processes, one per artifact, that take turns; what varies
from process to process (where memory lies, which huge pages are had) varies between units and
never within one. A pair gives one number, log(head / base). If the true ratio is *at* the limit and
the noise of the two sides is alike, that number is above the limit as often as below, however
heavy the tails of the noise are: two draws of one distribution are as likely in either order. So
the count of pairs on the wrong side is a symmetric random walk, whose exact distribution is known
without any assumption about the noise; drift and slow changes between pairs do not enter.

A look after every pair inflates the error unless each look spends only a part of it. The budget
α of each side is spent as α·(n / HORIZON)^SPENDING_POWER, the power family of Kim and DeMets (1987,
"Design and analysis of group sequential tests based on the type I error spending rate function"),
and the number of pairs that may lie on the wrong side at look n is the largest with which the
probability, by exact recursion over the walk, of having stopped by then is within what is spent.
Inverting the test gives a repeated confidence interval of the median by order statistics (Jennison
and Turnbull 1989, "Interim analyses: the repeated confidence interval approach"): its lower end is
above the limit exactly when the test says so.

The power trades the first look against the second. All of α on six pairs that agree (2⁻⁶ = 1.6 %)
leaves so little that one dissenter is forgiven at eleven; with ½ seven must agree, and one is
forgiven at ten.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

HORIZON = 24  # pairs at most
ALPHA = 0.025  # of each side: an interval of 95 %
SPENDING_POWER = 1 / 2

Decision = Literal["regression", "pass", "undecided"]


@functools.cache
def wrong_side_most(alpha: float = ALPHA, horizon: int = HORIZON) -> tuple[int, ...]:
    """By number of pairs n = 0 … horizon: of how many the wrong side is still a decision; -1: none.

    Args:
      alpha: probability that a side is decided for at any look, the ratio being at the limit.
      horizon: the last look.
    """
    allowed = [-1]
    undecided, stopped = {0: 1.0}, 0.0  # by count on the wrong side: probability to be there
    for n in range(1, horizon + 1):
        undecided = _step(undecided, 0.5)
        spent = alpha * (n / horizon) ** SPENDING_POWER
        most = -1
        while stopped + sum(p for wrong, p in undecided.items() if wrong <= most + 1) <= spent:
            most += 1
            if most >= n:
                break
        # A walk that is further out would have stopped before: going on is no new information.
        most = max(most, allowed[-1])
        stopped += sum(p for wrong, p in undecided.items() if wrong <= most)
        undecided = {wrong: p for wrong, p in undecided.items() if wrong > most}
        allowed.append(most)
    return tuple(allowed)


def pairs_least() -> int:
    """As few as any decision takes."""
    return next(n for n, most in enumerate(wrong_side_most()) if most >= 0)


def _step(walk: dict[int, float], p_wrong: float) -> dict[int, float]:
    """The walk one pair later."""
    after: dict[int, float] = {}
    for wrong, p in walk.items():
        after[wrong] = after.get(wrong, 0.0) + p * (1 - p_wrong)
        after[wrong + 1] = after.get(wrong + 1, 0.0) + p * p_wrong
    return after


def stopping_probability(p_wrong: float, pairs: int = HORIZON, alpha: float = ALPHA) -> float:
    """How likely a side is decided for within `pairs` looks.

    Args:
      p_wrong: probability that a pair lies on the other side; ½ at the limit.
      pairs: looks.
      alpha: as in `wrong_side_most`.
    """
    allowed, walk, stopped = wrong_side_most(alpha), {0: 1.0}, 0.0
    for n in range(1, pairs + 1):
        walk = _step(walk, p_wrong)
        stopped += sum(p for wrong, p in walk.items() if wrong <= allowed[n])
        walk = {wrong: p for wrong, p in walk.items() if wrong > allowed[n]}
    return stopped


def largest_p_wrong(power: float, pairs: int = HORIZON) -> float:
    """The most that p_wrong may be for a decision within `pairs` looks with probability `power`."""
    low, high = 0.0, 0.5
    if stopping_probability(low, pairs) < power:
        return math.nan  # too few pairs for any decision
    for _ in range(40):
        middle = (low + high) / 2
        if stopping_probability(middle, pairs) >= power:
            low = middle
        else:
            high = middle
    return low


@dataclasses.dataclass(frozen=True)
class Interval:
    """Of the median, in the unit of the values; infinite ends: too few pairs to say."""

    low: float
    high: float

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def decide(self, limit: float) -> Decision:
        """What the interval says about values above `limit`."""
        if self.low > limit:
            return "regression"
        return "pass" if self.high <= limit else "undecided"


def repeated_interval(values: Sequence[float], alpha: float = ALPHA) -> Interval:
    """The interval of the median at this look, one value a pair; 1 − 2·alpha over all looks."""
    n = min(len(values), HORIZON)
    allowed, ordered = wrong_side_most(alpha)[n], sorted(values[:n])
    if allowed < 0:
        return Interval(-math.inf, math.inf)
    return Interval(ordered[allowed], ordered[n - 1 - allowed])
