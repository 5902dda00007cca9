"""Whole sessions against every choice there is, where operators share scratch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from budget.models import mlp

from slc.compiler.budget.best import Chooser
from slc.compiler.budget.candidates import Candidate, Item
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.encodings import dense_choice
from slc.compiler.linear import Linear

LINEARS = mlp((64,) * 6).linears
SCRATCH = (0, 4000, 9000)
BESIDE, ADAPTER = 1000, 700
MARGIN = 0.02
TABLES = 24
CLOSE = 1 + 1e-9


@dataclasses.dataclass(frozen=True)
class Session:
    """One choice for every Linear."""

    error: float
    bytes: int
    us: float


def some_items(rng: np.random.Generator, adapters: float) -> list[Item]:
    """Five candidates for each Linear; those with scratch are worth more for their bytes."""
    return [
        Item((linear,), tuple(some_candidate(rng, linear, adapters) for _ in range(5)))
        for linear in LINEARS
    ]


def some_candidate(rng: np.random.Generator, linear: Linear, adapters: float) -> Candidate:
    size, scratch = int(rng.integers(500, 5000)), int(rng.choice(SCRATCH))
    error = float(rng.lognormal() * np.exp(-size / 1500)) * (0.5 if scratch else 1.0)
    # What is predicted sees Choices only: nnz stands for the scratch.
    choice = dataclasses.replace(
        dense_choice(linear, ""), encoding="full", weight_bytes=size, nnz=scratch,
        rank=int(rng.random() < adapters),
    )  # fmt: skip
    return Candidate((choice,), error, size, round((1 + MARGIN) * scratch))


def predict(choices: list[Choice]) -> int:
    """Weights, the scratch of the neediest, and a buffer where there is any adapter."""
    beside = BESIDE + max(c.nnz for c in choices) + ADAPTER * any(c.rank for c in choices)
    return sum(c.weight_bytes for c in choices) + beside + int(MARGIN * beside)


def time_us(linear: Linear, choice: Choice) -> float:
    """More for larger ones and for some more than for others; `linear` does not matter."""
    return 1 + choice.weight_bytes * (1 + choice.weight_bytes % 7) / 1e4


def every_session(items: list[Item]) -> list[Session]:
    return [
        Session(
            sum(c.error for c in some),
            predict([c.choices[0] for c in some]),
            sum(time_us(LINEARS[0], c.choices[0]) for c in some),
        )
        for some in itertools.product(*(item.candidates for item in items))
    ]


def tables(adapters: float) -> Iterator[tuple[np.random.Generator, list[Item], list[Session]]]:
    for seed in range(TABLES):
        rng = np.random.default_rng(seed)
        items = some_items(rng, adapters)
        yield rng, items, every_session(items)


# Where an adapter is worth its buffer a bound stays that counts none.
ADAPTERS = pytest.mark.parametrize(("adapters", "proofs"), [(0.0, 0.9), (0.2, 0.4)])


@ADAPTERS
def test_the_best_of_all_sessions_is_found_and_proved(adapters: float, proofs: float) -> None:
    found = proved = 0
    for rng, items, sessions in tables(adapters):
        allowed = int(np.quantile([one.bytes for one in sessions], rng.uniform(0.01, 0.6)))
        least = min(one.error for one in sessions if one.bytes <= allowed)
        chooser = Chooser(LINEARS, items, predict)
        best = chooser.best(allowed)
        assert best is not None
        assert best.session_bytes == predict(list(best.choices)) <= allowed
        bound = chooser._bound(allowed, np.inf)  # best() gives the error's own where that is less
        assert best.bound <= bound <= least * CLOSE
        found += best.error <= least * CLOSE
        proved += bound >= least * (1 - 1e-3)
    print(f"found: {found}, proved to 0.1 %: {proved} of {TABLES}")
    assert found >= 0.95 * TABLES
    assert proved >= proofs * TABLES


@ADAPTERS
def test_within_a_time_too(adapters: float, proofs: float) -> None:
    tried = found = proved = 0
    for rng, items, sessions in tables(adapters):
        allowed = int(np.quantile([one.bytes for one in sessions], rng.uniform(0.1, 0.6)))
        max_us = float(np.quantile([one.us for one in sessions], rng.uniform(0.1, 0.6)))
        fitting = [one.error for one in sessions if one.bytes <= allowed and one.us <= max_us]
        if not fitting:
            continue
        tried += 1
        chooser = Chooser(LINEARS, items, predict, time_us)
        best = chooser.best(allowed, max_us)
        bound = chooser._bound(allowed, max_us)
        assert bound <= min(fitting) * CLOSE
        if best is not None:
            us = sum(map(time_us, LINEARS, best.choices))
            assert best.session_bytes <= allowed
            assert us <= max_us * CLOSE
            found += best.error <= min(fitting) * CLOSE
            proved += bound >= min(fitting) * (1 - 1e-3)
    print(f"found: {found}, proved to 0.1 %: {proved} of {tried}")
    assert tried >= TABLES / 2
    assert found >= 0.9 * tried
    assert proved >= proofs * tried


@pytest.mark.parametrize("seed", range(8))
def test_as_little_as_fits_is_found(seed: int) -> None:
    items = some_items(np.random.default_rng(seed), adapters=0.2)
    least = min(one.bytes for one in every_session(items))
    chooser = Chooser(LINEARS, items, predict)
    assert chooser.best(least - 1) is None
    smallest = predict(chooser.smallest())
    best = chooser.best(smallest)
    assert best is not None
    assert least <= best.session_bytes <= smallest
    # The smallest weights of some kind, not all combinations of them.
    assert smallest <= least + ADAPTER * (1 + MARGIN) + 1


def test_a_model_without_linears() -> None:
    chooser = Chooser([], [], lambda choices: BESIDE)
    best = chooser.best(BESIDE)
    assert best is not None
    assert (best.choices, best.error, best.bound) == ((), 0.0, 0.0)
    assert chooser.best(BESIDE - 1) is None
    assert chooser.smallest() == []
