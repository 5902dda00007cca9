"""Every Linear's Choice, one row each; `report.js` sorts and filters it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from slc.compiler.budget.sizes import format_size
from slc.compiler.report.page import table

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Column:
    """One column: its cells are text, or (what they sort by, text)."""

    head: str
    cell: Callable[[Json], str | tuple[float, str]]
    kind: str = ""  # CSS class


def choices_table(linears: Sequence[Json], moved: Mapping[str, float]) -> list[str]:
    """The filter and the table.

    Args:
      linears: of the manifest.
      moved: by name, how far `slc verify --reference` found a Linear's output from the original
        model's, ‖ours − original‖ / ‖original‖.
    """
    columns = _columns(linears, moved)
    heads = "".join(
        f"<th scope='col'{_class(column)}><button type='button'>{escape(column.head)}</button></th>"
        for column in columns
    )
    body = "\n".join(_row(linear, columns) for linear in linears)
    encodings = Counter(linear["choice"]["encoding"] for linear in linears)
    options = "".join(
        f"<option value='{name}'>{name} ({count})</option>" for name, count in encodings.items()
    )
    count = len(linears)
    return [
        "<div class='filter'><label>Filter <input type='search' id='filter' "
        "placeholder='name or reason' autocomplete='off'></label> "
        "<label>Stored as <select id='encoding'><option value=''>anything</option>"
        f"{options}</select></label> "
        f"<span id='shown' class='note' role='status'>{count} of {count}</span></div>",
        "<div class='scroll tall' role='region' aria-label='Linears' tabindex='0'>"
        f"<table id='linears'>\n<thead><tr>{heads}</tr>"
        f"</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>",
    ]


def _row(linear: Json, columns: Sequence[_Column]) -> str:
    cells = []
    for column in columns:
        cell = column.cell(linear)
        key, text = ("", cell) if isinstance(cell, str) else (f" data-v='{cell[0]:.9g}'", cell[1])
        inside = escape(text)
        if column.head == "Linear":  # a long name breaks between its parts
            inside = inside.replace(".", ".<wbr>").replace("/", "/<wbr>")
        cells.append(f"<td{_class(column)}{key}>{inside}</td>")
    return f"<tr data-encoding='{linear['choice']['encoding']}'>{''.join(cells)}</tr>"


def _class(column: _Column) -> str:
    return f" class='{column.kind}'" if column.kind else ""


def _columns(linears: Sequence[Json], moved: Mapping[str, float]) -> list[_Column]:
    """Those that this artifact has something for."""
    choices = [linear["choice"] for linear in linears]
    columns = [
        _Column("Linear", lambda e: str(e["name"]), "text"),
        _Column("N × K", lambda e: (e["N"] * e["K"], f"{e['N']:,} × {e['K']:,}")),
        _Column("stored as", lambda e: _stored(e["choice"]), "text"),
        _Column("level", lambda e: str(e["choice"].get("accuracy_level", 1))),
        _Column("density", lambda e: f"{e['choice']['density']:.3f}"),
        _Column("rank", lambda e: str(e["choice"]["rank"])),
        _Column("bits", lambda e: f"{_bits(e):.2f}"),
        _Column("bytes", lambda e: (e["choice"]["weight_bytes"],
                                    format_size(e["choice"]["weight_bytes"]))),
    ]  # fmt: skip
    if any(choice.get("error") is not None for choice in choices):
        columns.append(_Column("error", lambda e: _number(e["choice"].get("error"), ".2e")))
    if any(choice.get("us") is not None for choice in choices):
        columns.append(_Column("µs", lambda e: _number(e["choice"].get("us"), ".1f")))
    if moved:
        columns.append(_Column("drift", lambda e: _number(moved.get(e["name"]), ".2e")))
    if any(choice["reason"] for choice in choices):
        columns.append(_Column("why", lambda e: e["choice"]["reason"] or "", "text why"))
    return columns


def _number(value: float | None, digits: str) -> str | tuple[float, str]:
    return "" if value is None else (value, format(value, digits))


def _bits(linear: Json) -> float:
    return float(8 * linear["choice"]["weight_bytes"] / (linear["N"] * linear["K"]))


def _stored(choice: Json) -> str:
    """The encoding, the values of what is no whole weight, and an adapter in int8."""
    text = str(choice["encoding"])
    if text not in ("int8", "int4"):
        text += f" {choice['value_type']}"
    if choice["rank"] and choice.get("adapter_type", "f16") != "f16":
        text += f" + {choice['adapter_type']}"
    return text


def refusals_table(linears: Sequence[Json], refusals: Sequence[Json]) -> list[str]:
    """What stayed as it was, by reason."""
    reasons: dict[str, list[str]] = {}
    for linear in linears:
        if linear["choice"]["reason"]:
            reasons.setdefault(linear["choice"]["reason"], []).append(linear["name"])
    for refusal in refusals:
        reasons.setdefault(refusal["reason"], []).append(refusal["name"])
    if not reasons:
        return ["<p class='good'>Nothing: every Linear is compressed.</p>"]
    rows = [
        (escape(reason), str(len(names)), _names(names))
        for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
    return [table(("why", "how many", "which"), rows, text=(0, 2), stacked=True)]


def _names(names: Sequence[str]) -> str:
    """All of them, folded when there are many."""
    listed = ", ".join(f"<code>{escape(name)}</code>" for name in names)
    if len(names) <= 3:
        return listed
    return f"<details><summary>{len(names)} names</summary>{listed}</details>"
