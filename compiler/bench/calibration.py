"""How small a slowdown gate B can see on this machine: an artifact compared with itself.

Pairs of processes of one artifact give the noise that gate B will meet. A decision within
`HORIZON` pairs needs all but a share p of them on its side of the limit (`sequential.py`, exactly);
so the spread s that |log(head / base)| exceeds in a share p of the pairs is the distance from the
limit that is decided with the asked power. An equal artifact passes at limits of s and more, and
with such a limit a slowdown is found from limit + s on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from slc.compiler.bench.ratios import pair_ratio
from slc.compiler.bench.sequential import largest_p_wrong, pairs_least

POWER = 0.95


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Of one quantity.

    Attributes:
      name: what was timed.
      ratios: log(head / base) of every pair, both being the same artifact.
      spread: s of the module's docstring, a log; infinite if too few pairs ran.
    """

    name: str
    ratios: tuple[float, ...]
    spread: float

    @property
    def smallest_limit(self) -> float:
        """The least --max-slowdown at which an equal artifact passes, 0.02 for 2 %."""
        return math.expm1(self.spread)

    def detectable(self, limit: float) -> float:
        """The least slowdown that is found at --max-slowdown `limit`, as a share."""
        return math.expm1(math.log1p(limit) + self.spread)

    def to_json(self, limit: float) -> dict[str, Any]:
        """As JSON values; None for what so few pairs can't say."""
        known = math.isfinite(self.spread)
        return {
            "name": self.name,
            "pairs": len(self.ratios),
            "power": POWER,
            "smallest_max_slowdown": self.smallest_limit if known else None,
            "max_slowdown": limit,
            "detectable_slowdown": self.detectable(limit) if known else None,
            "ratios": [math.exp(ratio) for ratio in self.ratios],
        }


def calibration(name: str, pairs: Sequence[Sequence[float]]) -> Calibration:
    """What pairs of equal sides say.

    Args:
      name: of the quantity.
      pairs: log ratios of the rounds of each pair.
    """
    ratios = tuple(pair_ratio(rounds) for rounds in pairs)
    return Calibration(name, ratios, _spread(ratios))


def _spread(ratios: Sequence[float]) -> float:
    """The distance that all but a share p of the pairs keep, by the next larger order statistic.

    The sign of a ratio is chance, the sides being equal, so both signs are pooled: a distance on
    one side is exceeded half as often as |ratio| is.
    """
    if len(ratios) < pairs_least():
        return math.inf
    p = largest_p_wrong(POWER)
    distances = sorted(map(abs, ratios))
    within = math.ceil((1 - 2 * p) * (len(distances) + 1))
    return distances[within - 1]
