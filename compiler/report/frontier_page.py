"""The frontier as one HTML file: a chart that one can choose by, and the table behind it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from slc.compiler.budget.frontier import Point
from slc.compiler.budget.sizes import format_size
from slc.compiler.report.frontier_chart import NAMES, chart, stored_as
from slc.compiler.report.page import document, table


def page(points: Sequence[Point], *, model: str, device: str, unit: str, calibration: str) -> str:
    """The whole document.

    Args:
      points: of `frontier.frontier`, two at least.
      model: its name.
      device: its name.
      unit: what the error is, for people.
      calibration: where it was measured.
    """
    title = f"{model} on {device}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Predicted {escape(unit)} over what the session takes, at {len(points)} budgets; "
        "lower is better. Point at a mark for its figures.</p>",
        chart(points),
        frontier_table(points),
        f"<p class='note'>Errors: {escape(calibration)}, one Linear at a time, added up. "
        "Every point is <code>slc export --mem</code> of its budget.</p>",
    ]
    return document(title, body)


def frontier_table(points: Sequence[Point]) -> str:
    """One row per budget."""
    timed = any(point.tokens_per_s is not None for point in points)
    heads = ["--mem", "session", "weights", "error", *(["tok/s"] if timed else [])]
    heads += [NAMES.get(one.name, one.name) for one in points[0].alternatives] + ["stored as"]
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
        rows.append([escape(cell) for cell in (*cells, stored_as(point))])
    return table(heads, rows, text=[len(heads) - 1])
