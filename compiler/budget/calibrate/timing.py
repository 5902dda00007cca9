"""Sessions timed in turns, so that a noisy neighbour hits them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np

ROUNDS_MIN = 3


def interleave(steps: Sequence[Callable[[], object]], seconds: float) -> list[list[float]]:
    """Microseconds of every run of each step, in rounds of another order, until `seconds` passed.

    Every step runs once before, untimed.
    """
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in steps]
    order, shuffle = list(range(len(steps))), random.Random(0).shuffle
    end, rounds = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or rounds < ROUNDS_MIN:
        shuffle(order)
        for i in order:
            begin = time.perf_counter()
            steps[i]()
            times[i].append((time.perf_counter() - begin) * 1e6)
        rounds += 1
    return times


def median_and_fastest(times: Sequence[float]) -> tuple[float, float]:
    """The median and the mean of the fastest tenth, of one value at least."""
    ordered = np.sort(times)
    return float(np.median(ordered)), float(ordered[: max(1, len(ordered) // 10)].mean())
