"""The options of `slc bench`, checked before any work."""

from __future__ import annotations

import dataclasses
import re

from slc.compiler.bench.gate_paired import PAIR_SECONDS
from slc.compiler.errors import RequestError

SECONDS_DEFAULT = 6.0
TIME_LIMIT_DEFAULT = 60.0
MAX_SLOWDOWN_DEFAULT = "5%"
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclasses.dataclass(frozen=True)
class BenchRequest:
    """What is measured and judged; `slc bench --help` says what each is for.

    Raises:
      RequestError: a value or a combination of options is wrong.
    """

    max_slowdown: str = MAX_SLOWDOWN_DEFAULT
    max_growth: str = MAX_SLOWDOWN_DEFAULT
    max_p90_ms: float | None = None
    time_limit_s: float = TIME_LIMIT_DEFAULT
    seconds: float = SECONDS_DEFAULT
    batch: int | None = None
    context: int | None = None
    threads: int | None = None
    allow: tuple[str, ...] = ()
    expect: str | None = None
    any_machine: bool = False
    cold: bool = False
    counts_only: bool = False
    calibrate: bool = False

    def __post_init__(self) -> None:
        """Checks what needs no artifact."""
        share("--max-slowdown", self.max_slowdown)
        share("--max-growth", self.max_growth)
        for option, value in (
            ("--time-limit", self.time_limit_s),
            ("--seconds", self.seconds),
            ("--max-p90", self.max_p90_ms),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise RequestError(f"{option}: got {value:g}, wanted a number above 0")
        if self.time_limit_s < PAIR_SECONDS:
            raise RequestError(
                f"--time-limit: got {self.time_limit_s:g} s, wanted at least {PAIR_SECONDS:g} s, "
                "which one pair of processes takes"
            )
        if self.expect is not None and not re.fullmatch(r"[0-9a-f]{12}", self.expect):
            raise RequestError(
                f"--expect: got {self.expect!r}, wanted the 12 digits that `slc bench` gives as "
                "this machine's fingerprint"
            )
        self._check_combinations()

    def _check_combinations(self) -> None:
        if (self.expect is not None or self.any_machine) and self.max_p90_ms is None:
            option = "--any-machine" if self.any_machine else "--expect"
            raise RequestError(f"{option} is about --max-p90, which is missing: give it or neither")
        if self.expect is not None and self.any_machine:
            raise RequestError("--expect and --any-machine contradict each other: give one")
        if self.cold and (self.max_p90_ms is not None or self.calibrate):
            other = "--calibrate" if self.calibrate else "--max-p90"
            raise RequestError(f"--cold times no warm run, which {other} needs: give one of them")
        if self.counts_only and (self.max_p90_ms is not None or self.calibrate or self.cold):
            raise RequestError(
                "--counts-only runs nothing: leave out --max-p90, --calibrate and --cold"
            )
        if self.calibrate and self.max_p90_ms is not None:
            raise RequestError("--calibrate judges nothing: leave out --max-p90")

    @property
    def slowdown(self) -> float:
        """Allowed, 0.05 for 5 %."""
        return share("--max-slowdown", self.max_slowdown)

    @property
    def growth(self) -> float:
        """Of session memory, allowed, 0.05 for 5 %."""
        return share("--max-growth", self.max_growth)


def share(option: str, text: str) -> float:
    """The share that a percentage names: 0.05 for "5%".

    Raises:
      RequestError: it has no percent sign (is 5 five percent or five times?), or is above 1000 %.
    """
    match = _PERCENT.fullmatch(text.strip())
    if match is None or float(match[1]) > 1000:
        raise RequestError(f"{option}: got {text!r}, wanted a percentage such as 5% or 2.5%")
    return float(match[1]) / 100
