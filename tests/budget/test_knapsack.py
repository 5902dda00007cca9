"""The multiple-choice knapsack against brute force, its bound, its limits and its time."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slc.compiler.budget.knapsack import GAP, Options, pareto, solve


def tables(seed: int, items: int, width: int) -> list[Options]:
    """Options as matrices have them: more bytes, less error, on the whole; some needless."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(items):
        count = int(rng.integers(1, width + 1))
        size = np.sort(rng.integers(1, 10_000, count))
        error = np.sort(rng.lognormal(0, 2, count))[::-1] * rng.uniform(0.7, 1.3, count)
        made.append(Options(error, size, rng.uniform(0.1, 1, count) * size))
    return made


def brute(items: list[Options], max_bytes: int, max_time: float) -> float | None:
    best = None
    for choice in itertools.product(*(range(len(item.error)) for item in items)):
        picked = list(zip(items, choice, strict=True))
        if sum(int(i.bytes[j]) for i, j in picked) > max_bytes:
            continue
        if sum(float(i.time[j]) for i, j in picked) > max_time:
            continue
        error = sum(float(i.error[j]) for i, j in picked)
        best = error if best is None else min(best, error)
    return best


@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.floats(0, 1.1),
    st.one_of(st.none(), st.floats(0, 1.1)),
)
@settings(max_examples=150, deadline=None)
def test_against_brute_force(seed: int, items: int, part: float, timed: float | None) -> None:
    table = tables(seed, items, 5)
    max_bytes = int(part * sum(int(i.bytes.max()) for i in table))
    max_time = np.inf if timed is None else timed * sum(float(i.time.max()) for i in table)
    found, wanted = solve(table, max_bytes, max_time), brute(table, max_bytes, max_time)
    assert (found is None) == (wanted is None)
    if found is None or wanted is None:
        return
    picked = list(zip(table, found.chosen, strict=True))
    assert found.bytes == sum(int(i.bytes[j]) for i, j in picked) <= max_bytes
    assert sum(float(i.time[j]) for i, j in picked) <= max_time
    assert found.error == pytest.approx(sum(float(i.error[j]) for i, j in picked))
    # The bound is one, up to HiGHS's own tolerance, and the gap what is promised.
    assert found.bound <= wanted * (1 + 1e-6)
    assert wanted <= found.error <= wanted * (1 + 2 * GAP)


def test_ten_thousand_linears_of_forty_options() -> None:
    rng = np.random.default_rng(0)
    size = np.sort(rng.integers(10_000, 10_000_000, (10_000, 40)), axis=1)
    error = rng.lognormal(0, 2, (10_000, 1)) / size * rng.uniform(0.9, 1.1, size.shape)
    speed = rng.uniform(0.5, 1, size.shape)
    items = [Options(e, b, b * s) for e, b, s in zip(error, size, speed, strict=True)]
    for max_time in (np.inf, 0.35 * sum(float(i.time.max()) for i in items)):
        start = time.process_time()
        found = solve(items, int(0.4 * size[:, -1].sum()), max_time)
        # Processor time, whatever else runs here; 5 s are promised, on two cores.
        assert time.process_time() - start < 10
        assert found is not None
        assert found.gap < 1e-3


def test_pareto() -> None:
    item = Options(
        np.array([3.0, 1.0, 2.0, 3.0, 1.0]), np.array([1, 3, 2, 2, 3]),
        np.array([5.0, 5.0, 5.0, 1.0, 5.0]),
    )  # fmt: skip
    assert pareto(item, timed=False).tolist() == [0, 1, 2]
    assert pareto(item, timed=True).tolist() == [0, 1, 2, 3]


def test_nothing_fits_and_nothing_to_choose() -> None:
    items = tables(0, 3, 4)
    least = sum(int(i.bytes.min()) for i in items)
    assert solve(items, least - 1) is None
    found = solve(items, least)
    assert found is not None
    assert found.bytes == least
    empty = solve([], 0)
    assert empty is not None
    assert (empty.error, empty.gap) == (0, 0)
