"""Times of one kind, and what is said of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Samples:
    """Seconds of many runs of one thing.

    Attributes:
      name: what was timed.
      seconds: of every run, in the order of time.
      read_bytes: of weights that one run reads; None where it is not known.
      tokens: that one run makes; 0: it is not a step of a decoder.
    """

    name: str
    seconds: tuple[float, ...]
    read_bytes: int | None = None
    tokens: int = 0

    def percentile_ms(self, percent: float) -> float:
        """Milliseconds that so many of a hundred runs take at most, linear between runs."""
        return 1e3 * float(np.percentile(self.seconds, percent))

    @property
    def bytes_per_s(self) -> float | None:
        """Of weights, in the median run."""
        return None if self.read_bytes is None else self.read_bytes * 1e3 / self.percentile_ms(50)

    @property
    def tokens_per_s(self) -> float | None:
        """In the median run."""
        return self.tokens * 1e3 / self.percentile_ms(50) if self.tokens else None

    def to_json(self, bandwidth_bytes_per_s: float | None = None) -> dict[str, Any]:
        """Percentiles, interquartile range, rates and every sample.

        Args:
          bandwidth_bytes_per_s: of a probe that ran beside it.
        """
        quarter, median, three, p90, p99 = map(self.percentile_ms, (25, 50, 75, 90, 99))
        rate = self.bytes_per_s
        share = rate / bandwidth_bytes_per_s if rate and bandwidth_bytes_per_s else None
        return {
            "name": self.name,
            "runs": len(self.seconds),
            "p50_ms": median,
            "p90_ms": p90,
            "p99_ms": p99,
            "iqr_ms": three - quarter,
            "tokens_per_s": self.tokens_per_s,
            "bytes_per_s": rate,
            "bandwidth_share": share,
            "samples_ms": [1e3 * s for s in self.seconds],
        }
