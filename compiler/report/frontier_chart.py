"""Error over session bytes, of every way to spend a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape

from slc.compiler.budget.frontier import Point
from slc.compiler.budget.sizes import format_size
from slc.compiler.report.page import legend
from slc.compiler.report.plot import NARROW, Frame, both_widths, frame

NAMES = {
    "best": "slc", "uniform": "one ratio", "hpa": "SALAAD's allocation",
    "dense_int8": "dense int8", "dense_int4": "dense int4",
}  # fmt: skip
_LEAST = 1e-12  # an error of 0 is drawn there

Place = tuple[int, float, str]  # session bytes, error, text


@dataclasses.dataclass(frozen=True)
class Mark:
    """An artifact on the chart; without a predicted error it is a line at its bytes."""

    session_bytes: int
    error: float | None


def chart(points: Sequence[Point], mark: Mark | None = None) -> str:
    """The picture and its legend.

    Args:
      points: of `frontier.frontier`, two at least.
      mark: an artifact to show among them.
    """
    series = _series(points)
    marked = [] if mark is None else [mark]
    places = [place for some in series.values() for place in some]
    sizes = [size for size, _, _ in places] + [one.session_bytes for one in marked]
    errors = [error for _, error, _ in places] + [one.error or 0.0 for one in marked]
    errors = [max(error, _LEAST) for error in errors if error > 0] or [1.0]
    margin = 0.02 * (max(sizes) - min(sizes))

    def draw(width: int) -> tuple[int, list[str]]:
        height = 420 if width > NARROW else 320
        axes = frame(
            width, height, (min(sizes) - margin, max(sizes) + margin),
            (min(errors) / 1.5, max(errors) * 1.5), log_y=True,
        )  # fmt: skip
        parts = axes.grid(
            x=lambda size: format_size(int(size)), y=lambda error: f"{error:.0e}",
            x_name="what the session takes", y_name="predicted error",
        )  # fmt: skip
        for name, some in series.items():
            parts += _line(axes, name, some)
        for one in marked:
            parts += _marked(axes, one)
        return height, parts

    names = [(f"var(--{name})", NAMES[name]) for name in series]
    if marked:
        names.append(("var(--bad)", "this artifact"))
    return f"{legend(names)}\n{both_widths(draw, 'predicted error over session bytes')}"


def _series(points: Sequence[Point]) -> dict[str, list[Place]]:
    """Places by name; an alternative only where it fits, once."""
    series: dict[str, list[Place]] = {name: [] for name in NAMES}
    for point in points:
        series["best"].append((point.session_bytes, point.error, stored_as(point)))
        for one in point.alternatives:
            place = (one.session_bytes, one.error or 0.0, one.how)
            drawn = one.fits and one.error is not None and one.name in NAMES
            if drawn and place not in series[one.name]:
                series[one.name].append(place)
    return {name: sorted(places) for name, places in series.items() if places}


def stored_as(point: Point) -> str:
    """How many Linears are stored in which way."""
    return ", ".join(f"{count} {name}" for name, count in point.stored.items())


def _line(axes: Frame, name: str, places: Sequence[Place]) -> list[str]:
    at = [(axes.x(size), axes.y(max(error, _LEAST))) for size, error, _ in places]
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


def _marked(axes: Frame, mark: Mark) -> list[str]:
    """A diamond, or a line where only the bytes are known."""
    x = axes.x(mark.session_bytes)
    hint = f"<title>this artifact: {format_size(mark.session_bytes)}"
    if mark.error is None:
        line = f"M{x:.1f} {axes.y.start:.1f}V{axes.y.stop:.1f}"
        return [
            f"<path class='mark' d='{line}' stroke='var(--bad)' stroke-width='2' "
            f"stroke-dasharray='2 3'>{hint}</title></path>"
        ]
    y = axes.y(max(mark.error, _LEAST))
    diamond = f"M{x:.1f} {y - 9:.1f}l9 9l-9 9l-9 -9z"
    return [
        f"<path class='mark' d='{diamond}' fill='var(--bad)' stroke='var(--ground)' "
        f"stroke-width='1.5'>{hint}, error {mark.error:.3g}</title></path>"
    ]
