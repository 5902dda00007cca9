"""The arithmetic of a predicted speed, line by line."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class CostLine:
    """One summand of the prediction, in microseconds per token.

    Attributes:
      name: what it is.
      us: how long it takes.
      low_us: if every kernel is as far below its figures as its samples were when calibrated; NaN
        if they were not.
      high_us: if every kernel is as far above.
      reckoned: how that was found, one clause for people.
    """

    name: str
    us: float
    low_us: float
    high_us: float
    reckoned: str


@dataclasses.dataclass(frozen=True)
class CostPlan:
    """The arithmetic of one token: the lines add up to the prediction.

    Attributes:
      lines: the summands.
      context: tokens in the KV cache that it is reckoned at.
      source: where the kernels' figures are from.
    """

    lines: tuple[CostLine, ...]
    context: int
    source: str = ""

    @property
    def us_per_token(self) -> float:
        """Predicted time of one token."""
        return sum(line.us for line in self.lines)

    @property
    def tokens_per_s(self) -> float:
        """Predicted speed."""
        return 1e6 / self.us_per_token

    @property
    def tokens_per_s_range(self) -> tuple[float, float] | None:
        """(low, high): with all kernels as slow, as fast as calibration met them; None: not met."""
        slow = sum(line.high_us for line in self.lines)
        fast = sum(line.low_us for line in self.lines)
        return None if math.isnan(slow + fast) else (1e6 / slow, 1e6 / fast)

    def us_of(self, name: str) -> float:
        """The line called `name`; 0 if there is none."""
        return sum(line.us for line in self.lines if line.name == name)
