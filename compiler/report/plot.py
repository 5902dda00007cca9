"""What every chart shares: axes, round ticks, a grid. Inline SVG, no script.

A chart is drawn twice, for a wide and for a narrow window, because its text must not shrink with
the window; the style sheet shows one of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from html import escape

WIDE, NARROW = 1024, 366  # pixels: as wide as the page's column, and as a phone's
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 22, 44  # margins around the plot, for its labels

Format = Callable[[float], str]


@dataclasses.dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` onto pixels from `start` to `stop`, evenly or by powers of 10."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; beyond the ends it is that of the end."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        part = (self._scaled(max(value, self.low)) - low) / ((high - low) or 1.0)
        return self.start + (self.stop - self.start) * min(part, 1.0)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values within the ends.

        When logarithmic powers of 10, and 2 and 5 times those where powers are few.
        """
        if self.log:
            low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            digits = (1, 2, 5) if 2 * (high - low) <= count else (1,)
            values = [digit * 10.0**power for power in range(low, high + 1) for digit in digits]
            return [value for value in values if self.low <= value <= self.high]
        span = (self.high - self.low) or abs(self.high) or 1.0
        power = 10.0 ** math.floor(math.log10(span / count))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= span / count)
        first = math.ceil(self.low / step)
        last = math.floor(self.high / step * (1 + 1e-12))
        return [i * step for i in range(first, last + 1)]


@dataclasses.dataclass(frozen=True)
class Frame:
    """A chart's two axes and its size in pixels."""

    width: int
    height: int
    x: Axis
    y: Axis

    def grid(self, *, x: Format, y: Format, x_name: str, y_name: str) -> list[str]:
        """Lines and labels at round values, and what the axes are."""
        left, right = self.x.start, self.x.stop
        bottom = self.y.start
        parts = [f"<path class='axis' d='M{left:.1f} {bottom:.1f}H{right:.1f}'/>"]
        for value in self.y.ticks():
            at = self.y(value)
            parts.append(f"<path class='grid' d='M{left:.1f} {at:.1f}H{right:.1f}'/>")
            parts.append(
                f"<text x='{left - 8:.1f}' y='{at + 4:.1f}' text-anchor='end'>{y(value)}</text>"
            )
        for value in self.x.ticks(6 if self.width > NARROW else 3):
            at = self.x(value)
            parts.append(f"<path class='axis' d='M{at:.1f} {bottom:.1f}v5'/>")
            parts.append(
                f"<text x='{at:.1f}' y='{bottom + 19:.1f}' text-anchor='middle'>{x(value)}</text>"
            )
        parts.append(
            f"<text x='{right:.1f}' y='{bottom + 37:.1f}' text-anchor='end'>{escape(x_name)}</text>"
        )
        parts.append(f"<text x='4' y='12'>{escape(y_name)}</text>")
        return parts


def frame(
    width: int, height: int, x: tuple[float, float], y: tuple[float, float], *, log_y: bool = False
) -> Frame:
    """Axes over the values (low, high) of `x` and `y`, inside the margins."""
    across = Axis(*x, LEFT, width - RIGHT)
    up = Axis(*y, height - BOTTOM, TOP, log=log_y)
    return Frame(width, height, across, up)


def both_widths(draw: Callable[[int], tuple[int, list[str]]], label: str) -> str:
    """One <svg> for each width; `draw` takes the width and returns (height, the parts inside)."""
    pictures = []
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        height, parts = draw(width)
        inside = "\n".join(parts)
        pictures.append(
            f"<svg class='{name}' viewBox='0 0 {width} {height}' role='img' "
            f"aria-label='{escape(label, quote=True)}'>\n{inside}\n</svg>"
        )
    return "\n".join(pictures)
