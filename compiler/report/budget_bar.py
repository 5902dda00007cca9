"""The memory of a session as one bar: what it is made of, the budget, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from slc.compiler.budget.sizes import format_size
from slc.compiler.report.page import swatch, table

PARTS = 10  # colours --part0 … --part9 of the style sheet, as many as a session has lines


def budget_bar(memory: Mapping[str, Any], measured_bytes: int | None) -> list[str]:
    """The bar, and the sum that it draws as a table.

    Args:
      memory: of the manifest.
      measured_bytes: what a session took, None when that was not measured.
    """
    lines = [line for line in memory["lines"] if line["bytes"]]
    total, budget = memory["predicted_bytes"], memory["budget_bytes"]
    scale = max(total, budget or 0, measured_bytes or 0, 1)
    marks = [("budget", "budget", budget), ("measured", "measured", measured_bytes)]
    drawn = [_mark(*mark, scale) for mark in marks if mark[2] is not None]
    label = f"The session is predicted to take {format_size(total)}"
    if budget is not None:
        label += f" of a budget of {format_size(budget)}"
    segments = "".join(_segment(i, line, scale) for i, line in enumerate(lines))
    return [
        f"<div class='bar' role='img' aria-label='{label}'>{segments}{''.join(drawn)}</div>",
        _sum(lines, total, budget),
    ]


def _colour(index: int) -> str:
    return f"var(--part{index % PARTS})"


def _percent(size: int, scale: int) -> str:
    return f"{100 * size / scale:.3f}%"


def _segment(index: int, line: Mapping[str, Any], scale: int) -> str:
    hint = escape(f"{line['what']}: {format_size(line['bytes'])}", quote=True)
    style = f"width:{_percent(line['bytes'], scale)};background:{_colour(index)}"
    return f"<span class='segment' style='{style}' title='{hint}'></span>"


def _mark(kind: str, name: str, size: int, scale: int) -> str:
    """A line across the bar; its text leans to the side where there is room."""
    side = " left" if size > scale / 2 else ""
    text = f"{name} {format_size(size)}"
    return (
        f"<span class='mark {kind}{side}' style='left:{_percent(size, scale)}'>"
        f"<span>{text}</span></span>"
    )


def _sum(lines: Sequence[Mapping[str, Any]], total: int, budget: int | None) -> str:
    rows = [
        (
            swatch(_colour(i)) + escape(line["what"]),
            f"{line['bytes']:,}",
            format_size(line["bytes"]),
            f"{line['bytes'] / max(total, 1):.1%}",
        )
        for i, line in enumerate(lines)
    ]
    rows.append(("<b>the session takes</b>", f"{total:,}", f"<b>{format_size(total)}</b>", "100 %"))
    if budget is not None:
        used = f"{total / budget:.1%} used"
        rows.append(("budget (<code>--mem</code>)", f"{budget:,}", format_size(budget), used))
    return table(("what", "bytes", "", "share"), rows, text=[0])
