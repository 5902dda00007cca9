"""The frontier as one HTML file: a chart that one can choose by, and the table behind it.

No script from anywhere else, no font, no request: it opens offline. Colours follow the reader's
light or dark setting, and the chart shrinks with the window.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from html import escape

from slc.compiler.budget.frontier import Point
from slc.compiler.budget.sizes import format_size

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 745, 20, 370
NAMES = {
    "best": "slc", "uniform": "one ratio", "hpa": "SALAAD's allocation",
    "dense_int8": "dense int8", "dense_int4": "dense int4",
}  # fmt: skip
_LEAST = 1e-12  # an error of 0 is drawn there

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #8a929b; --ground: #ffffff;
  --line: #d8dde2; --best: #0072b2; --uniform: #d55e00; --hpa: #cc79a7; --dense_int8: #009e73;
  --dense_int4: #b58900; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --faint: #9aa3ac; --ground: #14171a;
  --line: #343a40; --best: #56b4e9; --uniform: #f0883e; --hpa: #e5a3cb; --dense_int8: #3fc79a;
  --dense_int4: #e3c04b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } .note { color: var(--faint); }
svg { width: 100%; height: auto; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
td, th { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td:last-child, th:last-child { text-align: left; }
circle:hover { r: 6; }
"""


@dataclasses.dataclass(frozen=True)
class _Axes:
    """Where a pair of (bytes, error) lies."""

    low: float
    high: float
    least: float
    most: float

    def x(self, size: float) -> float:
        """Left to right."""
        return LEFT + (RIGHT - LEFT) * (size - self.low) / max(1.0, self.high - self.low)

    def y(self, error: float) -> float:
        """Small errors at the bottom."""
        span = math.log(self.most) - math.log(self.least)
        part = (math.log(max(error, self.least)) - math.log(self.least)) / max(span, 1e-9)
        return BOTTOM - (BOTTOM - TOP) * part


def page(points: Sequence[Point], *, model: str, device: str, unit: str, calibration: str) -> str:
    """The whole document.

    Args:
      points: of `frontier.frontier`, two at least.
      model: its name.
      device: its name.
      unit: what the error is, for people.
      calibration: where it was measured.
    """
    title = f"{escape(model)} on {escape(device)}"
    return (
        f"<!doctype html>\n<html lang='en'>\n<head><meta charset='utf-8'>\n"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
        f"<p>Predicted {escape(unit)} over what the session takes, at {len(points)} budgets; "
        "lower is better. Point at a mark for its figures.</p>\n"
        f"{_chart(points)}\n<div class='scroll'>{_table(points)}</div>\n"
        f"<p class='note'>Errors: {escape(calibration)}, one Linear at a time, added up. "
        "Every point is <code>slc export --mem</code> of its budget.</p>\n"
        "</body></html>\n"
    )


def _series(points: Sequence[Point]) -> dict[str, list[tuple[int, float, str]]]:
    """(session bytes, error, text) by name; an alternative only where it fits, once."""
    series: dict[str, list[tuple[int, float, str]]] = {name: [] for name in NAMES}
    for point in points:
        stored = ", ".join(f"{count} {name}" for name, count in point.stored.items())
        series["best"].append((point.session_bytes, point.error, stored))
        for one in point.alternatives:
            place = (one.session_bytes, one.error or 0.0, one.how)
            if one.fits and one.error is not None and place not in series[one.name]:
                series[one.name].append(place)
    return {name: sorted(places) for name, places in series.items() if places}


def _chart(points: Sequence[Point]) -> str:
    series = _series(points)
    places = [place for some in series.values() for place in some]
    errors = [max(error, _LEAST) for _, error, _ in places if error > 0] or [1.0]
    axes = _Axes(
        min(size for size, _, _ in places), max(size for size, _, _ in places),
        min(errors) / 1.5, max(errors) * 1.5,
    )  # fmt: skip
    parts = [f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='error over bytes'>"]
    parts += _grid(axes)
    for row, (name, some) in enumerate(series.items()):
        parts += _line(axes, name, some)
        parts.append(
            f"<text x='{RIGHT - 150}' y='{TOP + 14 + 18 * row}' fill='var(--{name})' "
            f"font-size='13'>● {NAMES[name]}</text>"
        )
    return "\n".join([*parts, "</svg>"])


def _grid(axes: _Axes) -> list[str]:
    parts = []
    style = "font-size='12' fill='var(--faint)'"
    for power in range(math.floor(math.log10(axes.least)), math.ceil(math.log10(axes.most)) + 1):
        y = axes.y(10.0**power)
        if not axes.least <= 10.0**power <= axes.most:
            continue
        parts.append(f"<path d='M{LEFT} {y:.1f}H{RIGHT}' stroke='var(--line)'/>")
        parts.append(
            f"<text x='{LEFT - 8}' y='{y + 4:.1f}' text-anchor='end' {style}>1e{power}</text>"
        )
    for part in range(5):
        size = axes.low + (axes.high - axes.low) * part / 4
        anchor = ("start", "middle", "middle", "middle", "end")[part]
        parts.append(
            f"<text x='{axes.x(size):.1f}' y='{BOTTOM + 22}' text-anchor='{anchor}' {style}>"
            f"{format_size(int(size))}</text>"
        )
    parts.append(f"<path d='M{LEFT} {BOTTOM}H{RIGHT}' stroke='var(--faint)'/>")
    parts.append(f"<text x='{RIGHT}' y='{BOTTOM + 42}' text-anchor='end' {style}>session</text>")
    return parts


def _line(axes: _Axes, name: str, places: Sequence[tuple[int, float, str]]) -> list[str]:
    at = [(axes.x(size), axes.y(error)) for size, error, _ in places]
    dash = "" if name == "best" else " stroke-dasharray='5 4'"
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    parts = [f"<path d='{path}' fill='none' stroke='var(--{name})' stroke-width='2'{dash}/>"]
    for (x, y), (size, error, text) in zip(at, places, strict=True):
        hint = f"{NAMES[name]}: {format_size(size)}, error {error:.3g}; {text}"
        parts.append(
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='var(--{name})'>"
            f"<title>{escape(hint)}</title></circle>"
        )
    return parts


def _table(points: Sequence[Point]) -> str:
    timed = any(point.tokens_per_s is not None for point in points)
    heads = ["--mem", "session", "weights", "error", *(["tok/s"] if timed else [])]
    heads += [NAMES[one.name] for one in points[0].alternatives] + ["stored as"]
    rows = []
    for point in points:
        cells = [
            format_size(point.mem_bytes, up=True), format_size(point.session_bytes),
            format_size(point.weight_bytes), f"{point.error:.3g}",
            *([f"{point.tokens_per_s or 0:.3g}"] if timed else []),
        ]  # fmt: skip
        cells += [
            f"{one.error:.3g}" if one.fits and one.error is not None else "does not fit"
            for one in point.alternatives
        ]
        cells.append(", ".join(f"{count} {name}" for name, count in point.stored.items()))
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in heads) + "</tr>"
    return f"<table>\n{head}\n" + "\n".join(rows) + "\n</table>"
