"""Panels of lines side by side, as one SVG file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from html import escape
from itertools import cycle

from slc.compiler.report.plot import Axis

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
WIDTH, HEIGHT = 430, 320  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 62, 415, 34, 268  # of its axes

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One picture of the row.

    Attributes:
      title: above it.
      x: what the horizontal axis is.
      series: name -> (x, y) points.
      log: whether the vertical axis is in powers.
      levels: name -> height of a dashed line across: a target.
      marks: whether the points themselves are shown.
    """

    title: str
    x: str
    series: dict[str, Points]
    log: bool = False
    levels: dict[str, float] = dataclasses.field(default_factory=dict)
    marks: bool = False


def svg(panels: Sequence[Panel], columns: int = 3) -> str:
    """The panels in rows of `columns`.

    Raises:
      ValueError: a panel has no point.
    """
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = WIDTH * columns, HEIGHT * rows
    parts = [f'<rect width="{width}" height="{height}" fill="white"/>']
    for i, panel in enumerate(panels):
        at = f"translate({WIDTH * (i % columns)} {HEIGHT * (i // columns)})"
        parts += [f'<g transform="{at}">', *_panel(panel), "</g>"]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif">\n{body}\n</svg>\n'
    )


def _panel(panel: Panel) -> list[str]:
    points = [point for series in panel.series.values() for point in series]
    if not points:
        raise ValueError(f"the panel {panel.title!r} has no point")
    xs = [x for x, _ in points]
    ys = [y for _, y in points if y > 0 or not panel.log] + list(panel.levels.values())
    ys = ys or [1.0]  # a log panel of nothing but zeros
    low, high = (min(ys), max(ys)) if panel.log else (min(0.0, *ys), max(ys))
    across = Axis(min(xs), max(xs), LEFT, RIGHT)
    up = Axis(low, high * 1.05 if high > low else low + 1.0, BOTTOM, TOP, panel.log)
    parts = [_text((LEFT + RIGHT) / 2, 20, panel.title, "middle", 14)]
    for value in up.ticks():
        parts.append(_line(LEFT, up(value), RIGHT, up(value), "#ddd"))
        parts.append(_text(LEFT - 6, up(value) + 4, f"{value:.4g}", "end"))
    for value in across.ticks():
        parts.append(_line(across(value), BOTTOM, across(value), BOTTOM + 5, "#444"))
        parts.append(_text(across(value), BOTTOM + 18, f"{value:.4g}", "middle"))
    parts += [
        _line(LEFT, BOTTOM, RIGHT, BOTTOM, "#444"),
        _line(LEFT, TOP, LEFT, BOTTOM, "#444"),
        _text((LEFT + RIGHT) / 2, BOTTOM + 36, panel.x, "middle"),
    ]
    for name, level in panel.levels.items():
        parts.append(_line(LEFT, up(level), RIGHT, up(level), "#888", ' stroke-dasharray="5 4"'))
        parts.append(_text(LEFT + 6, up(level) - 4, name, "start", 11, "#666"))
    for i, (colour, (name, series)) in enumerate(zip(cycle(COLOURS), panel.series.items())):
        places = [(across(x), up(y)) for x, y in series if y > 0 or not panel.log]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
        if panel.marks:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places
            ]
        parts.append(_text(RIGHT - 4, TOP + 14 + 15 * i, name, "end", 12, colour))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'
    )


def _text(x: float, y: float, text: str, anchor: str, size: int = 11, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}" paint-order="stroke" stroke="white" stroke-width="3">'
        f"{escape(text)}</text>"
    )
