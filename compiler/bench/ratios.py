"""From alternating turns to one ratio per pair of processes, and what the pairs say together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from slc.compiler.bench.sequential import ALPHA, Decision, Interval, repeated_interval

BOOTSTRAP_SAMPLES = 1000


def pair_ratio(rounds: Sequence[float]) -> float:
    """log(head / base) of a pair of processes: the median of its rounds.

    A burst on one side moves the rounds it falls into and no others; half of them may be hit.
    """
    return statistics.median(rounds)


def interval(pairs: Sequence[Sequence[float]], alpha: float = ALPHA) -> Interval:
    """Of log(head / base), 1 − 2·alpha over all looks: what the decision is made on.

    The hull of two intervals: `repeated_interval` over the pairs, which holds whatever the noise
    is, and the bootstrap's, which also counts how uncertain each pair's own median is where a slow
    model leaves time for few rounds. Neither alone can decide.

    Args:
      pairs: log ratios of the rounds of every pair.
      alpha: error of each side.
    """
    return _over_pairs(pairs, alpha).hull(bootstrap_interval(pairs, alpha))


def decide(pairs: Sequence[Sequence[float]], limit: float, alpha: float = ALPHA) -> Decision:
    """What `interval` says about ratios above `limit`, a log; the bootstrap waits to be needed."""
    if _over_pairs(pairs, alpha).decide(limit) == "undecided":
        return "undecided"
    return interval(pairs, alpha).decide(limit)


def _over_pairs(pairs: Sequence[Sequence[float]], alpha: float) -> Interval:
    return repeated_interval([pair_ratio(rounds) for rounds in pairs], alpha)


def bootstrap_interval(pairs: Sequence[Sequence[float]], alpha: float = ALPHA) -> Interval:
    """Percentiles of the median of the pairs' medians, by resampling pairs and rounds within them.

    Seeded: the same measurements give the same interval.
    """
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(pairs), (BOOTSTRAP_SAMPLES, len(pairs)))
    medians = np.empty(drawn.shape)
    for i, rounds in enumerate(pairs):
        here = drawn == i
        indices = rng.integers(0, len(rounds), (int(here.sum()), len(rounds)))
        medians[here] = np.median(np.asarray(rounds)[indices], axis=1)
    low, high = np.quantile(np.median(medians, axis=1), [alpha, 1 - alpha])
    return Interval(float(low), float(high))
