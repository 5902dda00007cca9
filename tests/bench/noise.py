"""Synthetic turns of two sides: process-to-process offsets, jitter, bursts of neighbours."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Noise:
    """What a neighbour and the machine do to a time.

    Attributes:
      process: standard deviation of what a process keeps for its life, in log.
      turn: of every turn by itself.
      burst_chance: that a burst begins in a turn.
      burst_turns: how long it lasts on average, exponential.
      burst_factor: it makes turns up to so many times slower, evenly drawn.
      one_sided: only turns of the side that is drawn for the burst are hit.
    """

    process: float = 0.01
    turn: float = 0.02
    burst_chance: float = 0.05
    burst_turns: float = 4.0
    burst_factor: float = 1.7
    one_sided: bool = True


def pair(rng: np.random.Generator, ratio: float, noise: Noise, rounds: int) -> list[float]:
    """log(head / base) of the rounds of one pair of processes whose true ratio is `ratio`."""
    sides = np.array(([0, 1], [1, 0]) * rounds)[:rounds]  # [rounds, 2]
    offsets = rng.normal([0.0, np.log(ratio)], noise.process)
    times = (offsets[sides] + rng.normal(0, noise.turn, sides.shape)).reshape(-1)
    flat = sides.reshape(-1)
    bursts = np.zeros(times.size)
    for start in np.flatnonzero(rng.random(times.size) < noise.burst_chance):
        stop = start + 1 + int(rng.exponential(noise.burst_turns))
        victim = rng.integers(2)
        hit = (flat[start:stop] == victim) | (not noise.one_sided)
        factor = np.log(rng.uniform(1, noise.burst_factor))
        bursts[start:stop] = np.maximum(bursts[start:stop], hit * factor)
    logs = np.take_along_axis(
        (times + bursts).reshape(rounds, 2), np.argsort(sides, axis=1), axis=1
    )
    return [float(head - base) for base, head in logs]
