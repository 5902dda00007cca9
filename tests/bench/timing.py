"""Candidates timed in turns, and the two ceilings that they are held against."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Step = Callable[[int], Any]  # runs one copy, by number

TURNS_MIN = 5
SPIN_SECONDS = 0.1  # onnxruntime's threads spin some 40 ms after a run


@dataclass
class Candidate:
    """One thing to time on one shape.

    Attributes:
      name: as the table shows it.
      weight_bytes: of one copy.
      positions: of W times rows of X, the work of one step.
      threads: that share it.
      step: the work.
      copies: how many step can choose from.
      nbits: bits of the MatMulNBits that it is compared with; 0: none.
      floor_s: the least time that its instructions take; 0: unknown.
    """

    name: str
    weight_bytes: int
    positions: int
    threads: int
    step: Step
    copies: int = 1
    nbits: int = 0
    floor_s: float = 0.0


@dataclass
class Timing:
    """What was measured of one candidate, from the fastest tenth unless the name says otherwise."""

    name: str
    threads: int
    copies: int
    runs: int
    weight_bytes: int
    median_us: float
    fastest_tenth_us: float
    gw_s: float
    gb_s: float
    roofline_share: float
    matmul_ratio: float | None = None
    matmul_ratio_median: float | None = None
    nbits_ratio: float | None = None
    nbits_bytes_ratio: float | None = None


def interleave(candidates: Sequence[Candidate], seconds: float) -> dict[str, list[float]]:
    """Seconds of every step, in rounds until each candidate had `seconds` on average.

    Every round has its own order, so that no candidate always follows the same neighbour.
    """
    for candidate in candidates:
        candidate.step(0)
    times: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    order, shuffle = list(candidates), random.Random(0).shuffle
    end = time.perf_counter() + seconds * len(candidates)
    turn = 1
    while time.perf_counter() < end or turn <= TURNS_MIN:
        shuffle(order)
        for candidate in order:
            begin = time.perf_counter()
            candidate.step(turn % candidate.copies)
            times[candidate.name].append(time.perf_counter() - begin)
        turn += 1
    return times


def fastest_tenth(values: Sequence[float]) -> float:
    """Mean of the smallest tenth, of one value at least."""
    ordered = np.sort(values)
    return float(ordered[: max(1, len(ordered) // 10)].mean())


def timing(candidate: Candidate, seconds: Sequence[float], bytes_per_s: float) -> Timing:
    """The figures of one candidate that need no other candidate."""
    tenth = fastest_tenth(seconds)
    floor = max(candidate.weight_bytes / bytes_per_s, candidate.floor_s)
    return Timing(
        candidate.name,
        candidate.threads,
        candidate.copies,
        len(seconds),
        candidate.weight_bytes,
        float(np.median(seconds)) * 1e6,
        tenth * 1e6,
        candidate.positions / tenth / 1e9,
        candidate.weight_bytes / tenth / 1e9,
        floor / tenth,
    )


def best_of(work: Callable[[], Any], runs: int = 20, seconds: float = 0.2) -> float:
    """Seconds of the fastest of some runs in a row, of fewer once `seconds` have passed."""
    times: list[float] = []
    while len(times) < runs and sum(times) < seconds:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


class ReadProbe:
    """Streaming reads of a buffer of 8 times the last cache; numpy reads as fast as a C loop."""

    def __init__(self, l3_bytes: int) -> None:
        self._buffer = np.ones(8 * l3_bytes // np.int64().nbytes, np.int64)
        self.best: dict[int, float] = {}

    def bytes_per_s(self, threads: int) -> float:
        """The best that `threads` threads have reached in this process so far."""
        parts = np.array_split(self._buffer, threads)
        time.sleep(SPIN_SECONDS)
        with ThreadPoolExecutor(threads) as pool:
            fastest = best_of(
                lambda: list(pool.map(np.bitwise_or.reduce, parts)), runs=30, seconds=1
            )
        self.best[threads] = max(self.best.get(threads, 0.0), self._buffer.nbytes / fastest)
        return self.best[threads]
