"""What `slc bench` found: the document of `bench.schema.json`, the verdict and the exit code."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from slc.compiler.bench.calibration import Calibration
from slc.compiler.bench.counts import Counts
from slc.compiler.bench.environment import Environment
from slc.compiler.bench.gate_counts import Finding
from slc.compiler.bench.gate_limits import LimitCheck
from slc.compiler.bench.gate_paired import MEMORY, Comparison, Quantity
from slc.compiler.bench.measurement import Measurement
from slc.compiler.bench.request import BenchRequest
from slc.compiler.bench.subject import Load

SCHEMA_VERSION = 1
Verdict = Literal["measured", "passed", "failed", "inconclusive"]
EXIT_CODES: dict[Verdict, int] = {"measured": 0, "passed": 0, "failed": 1, "inconclusive": 3}


@dataclasses.dataclass
class BenchReport:
    """Parts that were not asked for are None.

    Attributes:
      artifact: name of its folder.
      base: likewise, of what it is compared with.
      request: the options.
      environment: the machine.
      load: what the sessions were asked to do; None where nothing was run.
      counts: of the artifact.
      base_counts: of the base.
      findings: of gate A.
      measured: the artifact by itself.
      comparison: gate B.
      limits: gate C.
      calibration: by quantity.
      throttled: what held the processor back before, during or after.
      causes: why the artifact may be slower than the base.
    """

    artifact: str
    base: str | None
    request: BenchRequest
    environment: Environment
    counts: Counts
    load: Load | None = None
    base_counts: Counts | None = None
    findings: list[Finding] = dataclasses.field(default_factory=list)
    measured: Measurement | None = None
    comparison: Comparison | None = None
    limits: list[LimitCheck] = dataclasses.field(default_factory=list)
    calibration: list[Calibration] = dataclasses.field(default_factory=list)
    throttled: tuple[str, ...] = ()
    causes: list[str] = dataclasses.field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """A failure of any gate is one; what could not be judged is no pass."""
        if self.failures():
            return "failed"
        if self.doubts():
            return "inconclusive"
        judged = self.base is not None or self.limits
        return "passed" if judged else "measured"

    @property
    def exit_code(self) -> int:
        """As design and `--help` give it: 0, 1 or 3."""
        return EXIT_CODES[self.verdict]

    def failures(self) -> list[str]:
        """One sentence for each thing that a gate found."""
        found = [f"{finding.what} (gate A, {finding.rule})" for finding in self.findings]
        for quantity in self._quantities("regression"):
            found.append(f"{describe(quantity)} (gate B)")
        for check in self.limits:
            if check.passed is False:
                found.append(
                    f"{check.quantity}: p90 {check.p90_ms:.3g} ms, at most {check.max_p90_ms:.3g} "
                    "ms allowed (gate C)"
                )
        return found

    def doubts(self) -> list[str]:
        """One sentence for each thing that could not be judged, and what to do."""
        found = []
        for quantity in self._quantities("undecided"):
            assert self.comparison is not None
            found.append(f"{describe(quantity)}: {_what_to_do(self.comparison)} (gate B)")
        for check in self.limits:
            if check.refusals:
                found.append(
                    f"{check.quantity}: not judged, {'; '.join(check.refusals)}: run it on the "
                    "device it is meant for, or add --any-machine (gate C)"
                )
        return found

    def _quantities(self, decision: str) -> list[Quantity]:
        if self.comparison is None:
            return []
        return [q for q in self.comparison.quantities if q.decision == decision]

    def to_json(self) -> dict[str, Any]:
        """The document of `bench.schema.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "artifact": self.artifact,
            "base": self.base,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "failures": self.failures(),
            "doubts": self.doubts(),
            "likely_causes": self.causes,
            "environment": {
                **self.environment.to_json(),
                "throttled": list(self.throttled),
            },
            "load": None if self.load is None else self._load(self.load),
            "counts": self.counts.to_json(),
            "measured": None if self.measured is None else self.measured.to_json(),
            "gate_counts": None if self.base_counts is None else self._gate_counts(),
            "gate_paired": None if self.comparison is None else self._gate_paired(self.comparison),
            "gate_limits": [check.to_json() for check in self.limits],
            "calibration": [c.to_json(self.request.slowdown) for c in self.calibration],
        }

    def _load(self, load: Load) -> dict[str, Any]:
        fields = dataclasses.asdict(load)
        prompt = load.prompt_tokens if load.decoder else None
        return {**fields, "prompt_tokens": prompt, "cold": self.request.cold}

    def _gate_counts(self) -> dict[str, Any]:
        assert self.base_counts is not None
        return {
            "passed": not self.findings,
            "allowed": list(self.request.allow),
            "findings": [finding.to_json() for finding in self.findings],
            "base": self.base_counts.to_json(),
        }

    def _gate_paired(self, comparison: Comparison) -> dict[str, Any]:
        return {
            "decision": comparison.decision,
            "ended": comparison.ended,
            "seconds": comparison.seconds,
            "confidence": 0.95,
            "quantities": [_quantity(q) for q in comparison.quantities],
        }


def _quantity(q: Quantity) -> dict[str, Any]:
    """Ratios, not logs, and None for an end of the interval that is open."""
    interval, memory = q.interval, q.name == MEMORY
    unit = 1.0 if memory else 1e3
    return {
        "name": q.name,
        "unit": "bytes" if memory else "ms",
        "decision": q.decision,
        "ratio": q.ratio if q.pairs else None,
        "interval": [_ratio(interval.low), _ratio(interval.high)],
        "ratio_most": math.exp(q.limit),
        "pairs": len(q.pairs),
        "rounds": sum(map(len, q.pairs)),
        "base": unit * float(np.median(q.base)) if q.pairs else None,
        "head": unit * float(np.median(q.head)) if q.pairs else None,
        "ratios": [[math.exp(r) for r in rounds] for rounds in q.pairs],
    }


def _ratio(end: float) -> float | None:
    return math.exp(end) if math.isfinite(end) else None


def describe(q: Quantity) -> str:
    """How much, between what, and what is allowed, in one clause."""
    if not q.pairs:
        return f"{q.name}: not one pair of processes came to its end"
    low, high = _ratio(q.interval.low), _ratio(q.interval.high)
    between = (
        "too few pairs for an interval"
        if low is None or high is None
        else f"between {percent(low)} and {percent(high)}"
    )
    words = ("smaller", "larger") if q.name == MEMORY else ("faster", "slower")
    size = f"{100 * abs(q.ratio - 1):.1f} % {words[q.ratio >= 1]}"
    return (
        f"{q.name}: {size} than the base, {between} ({len(q.pairs)} pairs), at most "
        f"{percent(math.exp(q.limit))} allowed"
    )


def percent(ratio: float) -> str:
    """Of a ratio: +7.3 % for 1.073."""
    return f"{100 * (ratio - 1):+.1f} %"


def _what_to_do(comparison: Comparison) -> str:
    if comparison.ended == "time":
        return "time ran out, so it is not decided; give more with --time-limit"
    return (
        f"not decided after {len(comparison.quantities[0].pairs)} pairs, so it is close to the "
        "limit or this machine is too noisy (--calibrate says how small a slowdown it can see)"
    )
