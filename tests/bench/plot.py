"""Speed over the dense MatMul against density, as an SVG file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from typing import Any

from operators import DENSE

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 70, 610, 50, 460  # of the axes
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#666666",
    "#000000",
)  # fmt: skip
LABEL_STEP = 17
Series = dict[str, list[tuple[float, float]]]  # name -> (density, ratio)


def series_of(shapes: Sequence[dict[str, Any]]) -> Series:
    """x MatMul of each sparse operator, and of the best MatMulNBits of each width."""
    series: Series = {}
    for shape in shapes:
        density = shape["density"]
        best: dict[str, float] = {}
        for row in shape["operators"]:
            name, ratio = row["name"], row["matmul_ratio"]
            if name == DENSE:
                continue
            if name.startswith("MatMulNBits"):
                name = name.rpartition(" ")[0] + ", best block"
            best[name] = max(ratio, best.get(name, 0.0))
        for name, ratio in best.items():
            series.setdefault(name, []).append((density, ratio))
    return {name: sorted(points) for name, points in series.items()}


@dataclass(frozen=True)
class Scale:
    """From density and ratio to the picture; the ratio axis is in powers of 2, low to high."""

    right: float
    low: int
    high: int

    def x(self, density: float) -> float:
        """Pixels from the left."""
        return LEFT + (RIGHT - LEFT) * density / self.right

    def y(self, ratio: float) -> float:
        """Pixels from the top."""
        return BOTTOM - (BOTTOM - TOP) * (math.log2(ratio) - self.low) / (self.high - self.low)


def svg(series: Series, title: str) -> str:
    """A picture with a line for each series, named at its right end."""
    ratios = [ratio for points in series.values() for _, ratio in points]
    densities = [density for points in series.values() for density, _ in points]
    low = min(0, math.floor(math.log2(min(ratios))))
    high = max(1, math.ceil(math.log2(max(ratios))))
    scale = Scale(max(densities), low, high)
    parts = [_text(WIDTH / 2, 24, title, "middle", 15), *_axes(scale), *_curves(scale, series)]
    head = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    body = "\n".join([f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *parts])
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {head} font-family="sans-serif">'
    return f"{opening}\n{body}\n</svg>\n"


def _axes(scale: Scale) -> list[str]:
    parts = []
    for power in range(scale.low, scale.high + 1):
        height = scale.y(2.0**power)
        parts.append(_line(LEFT, height, RIGHT, height, "#ddd" if power else "#888"))
        parts.append(_text(LEFT - 8, height + 4, f"{2.0**power:g}", "end"))
    for tenth in range(math.floor(scale.right * 10 + 1e-9) + 1):
        across = scale.x(tenth / 10)
        parts.append(_line(across, BOTTOM, across, BOTTOM + 5, "#444"))
        parts.append(_text(across, BOTTOM + 20, f"{tenth / 10:g}", "middle"))
    middle = (TOP + BOTTOM) / 2
    label = _text(20, middle, "times as fast as MatMul float32 (fastest tenth)", "middle")
    return [
        *parts,
        _line(LEFT, BOTTOM, RIGHT, BOTTOM, "#444"),
        _line(LEFT, TOP, LEFT, BOTTOM, "#444"),
        _text((LEFT + RIGHT) / 2, BOTTOM + 42, "density of S", "middle"),
        f'<g transform="rotate(-90 20 {middle:.1f})">{label}</g>',
    ]


def _curves(scale: Scale, series: Series) -> list[str]:
    """Series that reach the right edge are named beside it, the others at their last point."""
    ends = {name: points[-1] for name, points in series.items()}
    labels = _apart({name: scale.y(r) for name, (d, r) in ends.items() if d == scale.right})
    inner = _apart({name: scale.y(r) for name, (d, r) in ends.items() if d < scale.right})
    curves, names = [], []
    for colour, (name, points) in zip(cycle(COLOURS), series.items(), strict=False):
        path = " ".join(f"{scale.x(d):.1f},{scale.y(r):.1f}" for d, r in points)
        dashes = ' stroke-dasharray="6 4"' if name.startswith("MatMul") else ""
        curves.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        )
        x, y = scale.x(points[-1][0]), scale.y(points[-1][1])
        if name in labels:
            curves.append(_line(x + 3, y, RIGHT + 12, labels[name], colour, 0.6))
        at = (RIGHT + 16, labels[name]) if name in labels else (x + 6, inner[name])
        names.append(_text(at[0], at[1] + 4, name, "start", 12, colour))
    return curves + names


def _apart(wanted: dict[str, float]) -> dict[str, float]:
    """Heights near the wanted ones, at least LABEL_STEP from each other."""
    placed: dict[str, float] = {}
    below = math.inf
    for name, height in sorted(wanted.items(), key=lambda item: -item[1]):
        below = placed[name] = min(height, below - LABEL_STEP)
    return placed


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}" paint-order="stroke" stroke="white" stroke-width="3">'
        f"{escape(text)}</text>"
    )
