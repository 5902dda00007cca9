"""The test that gate B decides by: exact error, simulated error and power under bursts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from bench.noise import Noise, pair

from slc.compiler.bench.ratios import bootstrap_interval, decide, interval, pair_ratio
from slc.compiler.bench.sequential import (
    ALPHA,
    HORIZON,
    Decision,
    Interval,
    largest_p_wrong,
    pairs_least,
    repeated_interval,
    stopping_probability,
    wrong_side_most,
)

LIMIT = math.log(1.05)


def test_error_at_the_limit_is_what_all_sign_sequences_say() -> None:
    """By brute force over the 2^14 first sequences: the recursion counts the same."""
    allowed, looks = wrong_side_most(), 14
    stopped = 0
    for signs in itertools.product((0, 1), repeat=looks):
        wrong = np.cumsum(signs)
        stopped += any(wrong[n - 1] <= allowed[n] for n in range(1, looks + 1))
    assert stopping_probability(0.5, looks) == pytest.approx(stopped / 2**looks, abs=1e-12)
    assert stopping_probability(0.5) <= ALPHA


def test_no_pair_of_its_own_decides() -> None:
    assert pairs_least() == 7
    assert wrong_side_most()[:8] == (-1,) * 7 + (0,)
    for n in range(7):
        assert repeated_interval([9.0] * n) == Interval(-math.inf, math.inf)


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05, 0.1])
def test_every_level_is_kept_and_used(alpha: float) -> None:
    spent = stopping_probability(0.5, alpha=alpha)
    assert spent <= alpha
    assert spent > alpha / 2


def test_interval_and_count_agree() -> None:
    """Its lower end is above the limit exactly when few enough values are at or below it."""
    rng = np.random.default_rng(1)
    for n in range(1, HORIZON + 1):
        for _ in range(30):
            values = rng.normal(LIMIT + 0.02, 0.03, n)
            wrong = int((values <= LIMIT).sum())
            regression = repeated_interval(values).decide(LIMIT) == "regression"
            assert regression == (wrong <= wrong_side_most()[n])


def test_largest_p_wrong_is_the_edge() -> None:
    p = largest_p_wrong(0.95)
    assert stopping_probability(p) >= 0.95 > stopping_probability(p + 0.001)
    assert math.isnan(largest_p_wrong(0.95, pairs=5))


def simulate(rng: np.random.Generator, ratio: float, noise: Noise, rounds: int) -> Decision:
    pairs: list[list[float]] = []
    for _ in range(HORIZON):
        pairs.append(pair(rng, ratio, noise, rounds))
        said = decide(pairs, LIMIT)
        if said != "undecided":
            return said
    return "undecided"


NOISES = {
    "calm": Noise(burst_chance=0),
    "bursts on one side": Noise(),
    "bursts on one side, most of the time": Noise(burst_chance=0.3, burst_turns=8),
    "bursts on both": Noise(one_sided=False, burst_chance=0.2),
    "processes differ": Noise(process=0.03),
}


@pytest.mark.parametrize("name", NOISES)
def test_at_the_limit_false_alarms_stay_within_alpha(name: str) -> None:
    """The limit is the worst case that must not alarm; equal artifacts are far below it."""
    rng, runs = np.random.default_rng(2), 200
    said = [simulate(rng, 1.05, NOISES[name], rounds=6) for _ in range(runs)]
    # Binomial: four standard deviations above what is promised.
    most = runs * ALPHA + 4 * math.sqrt(runs * ALPHA * (1 - ALPHA))
    assert said.count("regression") <= most
    assert said.count("pass") <= most


@pytest.mark.parametrize("name", NOISES)
def test_equal_ones_pass_and_slow_ones_are_found(name: str) -> None:
    rng, runs = np.random.default_rng(3), 30
    equal = [simulate(rng, 1.0, NOISES[name], rounds=6) for _ in range(runs)]
    slow = [simulate(rng, 1.10, NOISES[name], rounds=6) for _ in range(runs)]
    slower = [simulate(rng, 1.20, NOISES[name], rounds=6) for _ in range(runs)]
    assert equal.count("regression") == 0
    assert slow.count("pass") == 0
    assert slower.count("pass") == 0
    if name != "bursts on one side, most of the time":  # there it may not know
        assert slower.count("regression") == runs
    if name not in ("bursts on one side, most of the time", "processes differ"):
        assert equal.count("pass") >= 0.95 * runs
        assert slow.count("regression") >= 0.95 * runs


def test_drift_cancels_in_rounds_of_either_order() -> None:
    drift, ratio = 0.1, 0.5  # every turn is 10 % slower than the one before
    rounds = [ratio + drift, ratio - drift] * 3
    assert pair_ratio(rounds) == pytest.approx(ratio)


def test_half_of_the_rounds_may_be_hit() -> None:
    assert pair_ratio([0.0, 0.01, -0.01, 0.5, 0.6]) == 0.01


def test_bootstrap_is_reproducible_and_holds_the_median() -> None:
    rng = np.random.default_rng(4)
    pairs = [list(rng.normal(0.03, 0.02, 7)) for _ in range(8)]
    first = bootstrap_interval(pairs)
    assert first == bootstrap_interval(pairs)
    assert first.low < np.median([pair_ratio(p) for p in pairs]) < first.high
    assert first.high - first.low < 0.06


def test_few_rounds_widen_the_interval() -> None:
    """Medians that agree by chance do not decide: each pair's own doubt counts."""
    rounds = [[0.0, 0.06, 0.12]] * pairs_least()
    said = interval(rounds)
    assert said.low < LIMIT < pair_ratio(rounds[0])
    assert repeated_interval([0.06] * pairs_least()).low > LIMIT
