"""Gate B with processes that answer by a script: what it decides, when it ends, what it asks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from slc.compiler.bench import gate_paired
from slc.compiler.bench.gate_paired import MEMORY, Comparison, compare
from slc.compiler.bench.process import OutOfTimeError
from slc.compiler.bench.report import describe
from slc.compiler.bench.sequential import HORIZON, pairs_least
from slc.compiler.bench.subject import Load


class Side:
    """A subject whose runs take what `seconds` says."""

    def __init__(self, run_s: float, peak_bytes: int = 10**7, noise: float = 0.0) -> None:
        self.quantities, self.works = ("1x8",), ("1x8", "1x4")
        self.load = Load(1, 8, 1, decoder=False)
        self.run_s, self.peak, self.noise = run_s, peak_bytes, noise
        self.rng = np.random.default_rng(int(run_s * 1e6))
        self.log: list[Any] = []


class ScriptedProcess:
    """Stands in for `process.Process`; nothing runs."""

    alive: ClassVar[list[Side]] = []  # who is alive at the same time

    def __init__(self, side: Side, deadline: float) -> None:
        self.side, self.deadline = side, deadline

    def __enter__(self) -> ScriptedProcess:
        self.alive.append(self.side)
        return self

    def __exit__(self, *_: object) -> None:
        self.alive.remove(self.side)

    def touch(self) -> int:
        return 0

    def turn(self, work: str, warm: int, runs: int) -> dict[str, list[float]]:
        assert len(self.alive) == 2
        self.side.log.append((work, warm, runs))
        clock.now += (warm + runs) * self.side.run_s
        if clock.now > self.deadline:
            raise OutOfTimeError
        noise = np.exp(self.side.rng.normal(0, self.side.noise, runs))
        return {work: list(self.side.run_s * noise)}

    def peak_bytes(self) -> int:
        return self.side.peak


class Clock:
    """Time passes when a turn is taken."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


clock = Clock()


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(gate_paired, "Process", ScriptedProcess)
    monkeypatch.setattr(gate_paired, "time", clock)
    yield
    assert ScriptedProcess.alive == []


def run(base: Side, head: Side, **options: Any) -> Comparison:
    given: dict[str, Any] = {"max_slowdown": 0.05, "max_growth": 0.05, "time_limit_s": 100.0}
    return compare(cast(Any, base), cast(Any, head), **{**given, **options})


def decisions(result: Comparison) -> dict[str, str]:
    return {q.name: q.decision for q in result.quantities}


def test_equal_pass_as_soon_as_can_be() -> None:
    result = run(Side(0.010, noise=0.01), Side(0.010, noise=0.01))
    assert decisions(result) == {"1x8": "pass", MEMORY: "pass"}
    assert result.decision == "pass"
    assert result.ended == "decided"
    assert [len(q.pairs) for q in result.quantities] == [pairs_least()] * 2
    assert result.seconds < 15


def test_slow_one_is_a_regression() -> None:
    result = run(Side(0.010, noise=0.01), Side(0.011, noise=0.01))
    assert decisions(result) == {"1x8": "regression", MEMORY: "pass"}
    assert result.decision == "regression"
    assert result.quantities[0].ratio == pytest.approx(1.1, rel=0.01)
    low, high = (math.exp(end) for end in vars(result.quantities[0].interval).values())
    assert 1.05 < low < 1.1 < high < 1.15


def test_larger_one_is_a_regression_however_fast() -> None:
    result = run(Side(0.010), Side(0.005, peak_bytes=int(1.06e7)))
    assert decisions(result) == {"1x8": "pass", MEMORY: "regression"}
    assert result.decision == "regression"
    assert decisions(run(Side(0.01), Side(0.01, peak_bytes=int(1.04e7))))[MEMORY] == "pass"


def test_at_the_limit_nothing_is_decided_and_pairs_run_out() -> None:
    result = run(Side(0.010, noise=0.2), Side(0.0105, noise=0.2))
    assert result.decision == "undecided"
    assert result.ended == "pairs"
    assert len(result.quantities[0].pairs) == HORIZON
    assert result.seconds <= 100


def test_too_little_time() -> None:
    result = run(Side(0.010), Side(0.010), time_limit_s=3.0)
    assert result.decision == "undecided"
    assert result.ended == "time"
    assert len(result.quantities[0].pairs) in (1, 2)
    assert result.seconds <= 3.0
    assert result.quantities[0].interval.low == -math.inf


def test_a_pair_that_does_not_end_is_left_out() -> None:
    result = run(Side(1.0), Side(1.0), time_limit_s=8.0)
    assert result.ended == "time"
    assert result.quantities[0].pairs == []
    assert math.isnan(result.quantities[0].ratio)
    assert "not one pair" in describe(result.quantities[0])
    assert result.seconds <= 8.0 + 4 * 1.0  # the turn that was under way


def test_later_pairs_share_the_time_that_is_left() -> None:
    noisy = run(Side(0.010, noise=0.2), Side(0.0105, noise=0.2), time_limit_s=200.0)
    rounds = [len(pair) for pair in noisy.quantities[0].pairs]
    assert max(rounds[:12]) < min(rounds[12:])
    assert 150 < noisy.seconds <= 200


def test_calibration_runs_all_pairs() -> None:
    result = run(Side(0.010), Side(0.010), stop_early=False)
    assert len(result.quantities[0].pairs) == HORIZON
    assert result.decision == "pass"


def test_turns_alternate_and_are_alike_on_both_sides() -> None:
    base, head = Side(0.010), Side(0.020)
    run(base, head)
    turns = [ask for ask in base.log if ask[1] == 1]
    assert {work for work, _, _ in base.log} == {"1x8"}
    assert len({runs for _, _, runs in head.log if runs > 1}) == 1
    assert turns[-1] == head.log[-1]  # as many runs on both sides, after one that is not timed
    assert turns[-1][2] == 2  # of 10 ms, which fill a turn


def test_a_long_run_is_a_turn() -> None:
    base, head = Side(0.030), Side(0.030)
    run(base, head)
    assert base.log[-1] == head.log[-1] == ("1x8", 0, 1)
    timed = [ask for ask in base.log if ask == ("1x8", 0, 1)]
    assert len(timed) % 2 == 0  # as often first as second


def test_a_process_offset_is_not_taken_for_evidence() -> None:
    """One slow process, timed a thousand times, is still one process."""
    pairs = [[0.08] * 1000]
    quantity = gate_paired.Quantity("1x8", math.log1p(0.05))
    quantity.add(pairs[0], 1.0, 1.08)
    assert quantity.decision == "undecided"
