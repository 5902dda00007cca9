"""Whole sessions against every choice there is, where operators share scratch."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from budget.models import mlp

from slc.compiler.budget.best import Chooser
from slc.compiler.budget.candidates import Candidate, Item
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.encodings import dense_choice
from slc.compiler.linear import Linear

LINEARS = mlp((64,) * 6).linears
SCRATCH = (0, 4000, 9000)
BESIDE = 1000
TABLES = 60


def some_items(rng: np.random.Generator) -> list[Item]:
    """Five candidates for each Linear; those with scratch are worth more for their bytes."""
    return [
        Item((linear,), tuple(some_candidate(rng, linear) for _ in range(5))) for linear in LINEARS
    ]


def some_candidate(rng: np.random.Generator, linear: Linear) -> Candidate:
    size, scratch = int(rng.integers(500, 5000)), int(rng.choice(SCRATCH))
    error = float(rng.lognormal() * np.exp(-size / 1500)) * (0.5 if scratch else 1.0)
    # `predict` sees Choices only: nnz stands for the scratch.
    choice = dataclasses.replace(dense_choice(linear, ""), weight_bytes=size, nnz=scratch)
    return Candidate((choice,), error, size, scratch)


def predict(choices: list[Choice]) -> int:
    return BESIDE + sum(c.weight_bytes for c in choices) + max(c.nnz for c in choices)


def every_session(items: list[Item]) -> list[tuple[float, int]]:
    """(error, bytes) of each."""
    chosen = itertools.product(*(item.candidates for item in items))
    return [(sum(c.error for c in some), predict([c.choices[0] for c in some])) for some in chosen]


def test_the_best_of_all_sessions_is_found_and_proved() -> None:
    proved = 0
    for seed in range(TABLES):
        rng = np.random.default_rng(seed)
        items = some_items(rng)
        sessions = every_session(items)
        allowed = int(np.quantile([size for _, size in sessions], rng.uniform(0.01, 0.6)))
        least = min(error for error, size in sessions if size <= allowed)
        best = Chooser(LINEARS, items, predict).best(allowed)
        assert best is not None
        assert best.session_bytes == predict(list(best.choices)) <= allowed
        assert best.error <= least * (1 + 1e-9)
        assert best.bound <= least * (1 + 1e-9)
        proved += best.bound >= least * (1 - 1e-3)
    print(f"proved to 0.1 %: {proved} of {TABLES}")
    # Where most scratch is worth its bytes a bound stays that counts less of it.
    assert proved >= 0.8 * TABLES


def test_nothing_fits() -> None:
    items = some_items(np.random.default_rng(0))
    least = min(size for _, size in every_session(items))
    chooser = Chooser(LINEARS, items, predict)
    assert chooser.best(least - 1) is None
    assert predict(chooser.smallest()) == least
    best = chooser.best(least)
    assert best is not None
    assert best.session_bytes == least


def test_a_model_without_linears() -> None:
    chooser = Chooser([], [], lambda choices: BESIDE)
    best = chooser.best(BESIDE)
    assert best is not None
    assert (best.choices, best.error, best.bound) == ((), 0.0, 0.0)
    assert chooser.best(BESIDE - 1) is None
    assert chooser.smallest() == []
