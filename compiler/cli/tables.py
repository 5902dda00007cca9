"""How results look to people: rich tables on stderr."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from slc.compiler.budget.sizes import format_size

if TYPE_CHECKING:
    from slc.compiler.budget import Plan
    from slc.compiler.budget.cost_plan import CostPlan
    from slc.compiler.budget.frontier import Point
    from slc.targets import Target

ROWS_MAX = 12  # of a long table; --json has them all


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A plain table; every cell becomes text, numbers are right-aligned."""
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        result.add_column(column.lstrip(">"), justify=justify, overflow="fold")
    for row in rows:
        result.add_row(*(str(cell) for cell in row))
    return result


def print_export(console: Console, path: Path, manifest: Mapping[str, Any]) -> None:
    """What was made, what it needs, what is missing."""
    _print_choices(console, [entry["choice"] for entry in manifest["linears"]])
    _print_memory(console, [(line["what"], line["bytes"]) for line in manifest["memory"]["lines"]])
    _print_refusals(console, manifest["refusals"])
    _print_notes(console, manifest.get("notes", ()))
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    console.print(f"{path}: {format_size(size)} for {manifest['device']['name']}", soft_wrap=True)
    library = manifest["op_library"]
    if library["note"]:
        word = "note" if library["file"] else "missing"
        console.print(f"[yellow]{word}:[/] {library['note']}", soft_wrap=True)


def print_plan(console: Console, plan: Plan, target: Target) -> None:
    """The Choices, the arithmetic and what was decided by default."""
    rows = [
        (c.linear, c.encoding, _values(c.value_type, c.layout), c.accuracy_level,
         f"{c.density:.3f}", _rank(c.rank, c.adapter_type), format_size(c.weight_bytes),
         c.reason or "")
        for c in plan.choices[:ROWS_MAX]
    ]  # fmt: skip
    columns = ("Linear", "encoding", "values", ">level", ">density", ">rank", ">bytes", "reason")
    console.print(table(f"choices for {target.name}", columns, rows))
    if len(plan.choices) > ROWS_MAX:
        console.print(f"  … and {len(plan.choices) - ROWS_MAX} more Linears (--json lists all)")
    _print_memory(console, [(line.name, line.bytes) for line in plan.memory.lines])
    console.print(f"allowed: {format_size(plan.allowed_bytes)}; context {plan.context} tokens")
    if plan.speed is not None:
        console.print(_speed(plan.speed))
    if plan.error is not None:
        gap = (plan.error - (plan.error_bound or 0.0)) / max(plan.error, 1e-300)
        console.print(
            f"predicted error of the output: {plan.error:.3g}, at most {max(gap, 0):.1%} above the "
            "least that any choice has"
        )
    if plan.alternatives:
        console.print(_alternatives(plan))
    _print_refusals(console, [{"name": r.name, "reason": r.reason} for r in plan.refusals])
    _print_notes(console, plan.notes)


def _print_notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, emoji=False)


def _speed(speed: CostPlan) -> Table:
    """What a token takes."""
    rows = [(line.name, f"{line.us / 1000:.3g}", line.reckoned) for line in speed.lines]
    span = speed.tokens_per_s_range
    between = "" if span is None else f", {span[0]:.3g} to {span[1]:.3g}"
    rows.append(
        ("a token", f"{speed.us_per_token / 1000:.3g}", f"{speed.tokens_per_s:.3g} tok/s{between}")
    )
    return table("predicted time", ("what", ">ms", ""), rows)


def print_frontier(console: Console, points: Sequence[Point], path: Path) -> None:
    """One row per budget."""
    names = [one.name for one in points[0].alternatives]
    rows = [
        (format_size(p.mem_bytes, up=True), format_size(p.session_bytes), f"{p.error:.3g}",
         "" if p.tokens_per_s is None else f"{p.tokens_per_s:.3g}",
         *(f"{a.error:.3g}" if a.fits and a.error is not None else "-" for a in p.alternatives))
        for p in points
    ]  # fmt: skip
    columns = (">--mem", ">session", ">error", ">tok/s", *(f">{name}" for name in names))
    console.print(table("predicted error of the output, and of the alternatives", columns, rows))
    console.print(f"{path}: open it in a browser", soft_wrap=True)


def _alternatives(plan: Plan) -> Table:
    """This plan and what else the budget could be spent on."""
    weights = sum(choice.weight_bytes for choice in plan.choices)
    rows = [("this plan", plan.allocation, plan.memory.total_bytes, weights, plan.error, True)]
    rows += [
        (one.name, one.how, one.session_bytes, one.weight_bytes, one.error, one.fits)
        for one in plan.alternatives
    ]
    shown = [
        (name, how, format_size(session), format_size(size),
         "" if error is None else f"{error:.3g}", "yes" if fits else "no")
        for name, how, session, size, error, fits in rows
    ]  # fmt: skip
    columns = ("", "how", ">session", ">weights", ">predicted error", "fits")
    return table("what the budget could be spent on", columns, shown)


_NUMBERS = ("N x K", "level", "bits")


def print_inspect(console: Console, document: Mapping[str, Any]) -> None:
    """The facts as lines, the Linears as a table."""
    for key, value in document.items():
        if key == "linears":
            _print_linears(console, value)
        elif isinstance(value, list):
            for row in value:
                console.print(f"{key}: " + ", ".join(f"{k} {_cell(v)}" for k, v in row.items()))
        elif isinstance(value, dict):
            text = ", ".join(f"{k} {_cell(v)}" for k, v in value.items() if not _nested(v))
            console.print(f"{key}: {text or ', '.join(value)}", soft_wrap=True)
        else:
            console.print(f"{key}: {_cell(value)}", soft_wrap=True)


def _print_linears(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Narrow columns; those of an artifact are named as in the tables of export and plan."""
    shown = [_stored(row) if "encoding" in row else _plain(row) for row in rows[:ROWS_MAX]]
    columns = list(shown[0]) if shown else []
    numbers = {c for c in columns if isinstance(rows[0].get(c), (int, float))}
    heads = [f">{c}" if c in numbers or c in _NUMBERS else c for c in columns]
    console.print(table("linears", heads, [list(row.values()) for row in shown]))
    if len(rows) > ROWS_MAX:
        console.print(f"  … and {len(rows) - ROWS_MAX} more (--json lists all)")


def _plain(row: Mapping[str, Any]) -> dict[str, str]:
    """Of a checkpoint, as it is."""
    return {key: _cell(value) for key, value in row.items() if key not in ("reason", "kind")}


def _stored(row: Mapping[str, Any]) -> dict[str, str]:
    """Of an artifact."""
    return {
        "linear": row["name"],
        "N x K": f"{row['N']} x {row['K']}",
        "encoding": row["encoding"],
        "values": _values(row["value_type"], row["layout"]),
        "level": str(row["accuracy_level"]),
        "density": f"{row['density']:.3f}",
        "rank": _rank(row["rank"], row["adapter_type"]),
        "bits": f"{row['bits_per_weight']:.2f}",
    }


def _nested(value: object) -> bool:
    return isinstance(value, (list, dict))


def _print_choices(console: Console, choices: Sequence[Mapping[str, Any]]) -> None:
    """One row per distinct way of storing."""
    groups: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for c in choices:
        values = _values(c["value_type"], c["layout"])
        rank = _rank(c["rank"], c["adapter_type"])
        key = (c["encoding"], values, c["accuracy_level"], f"{c['density']:.3f}", rank)
        groups.setdefault(key, []).append(c)
    rows = [
        (len(group), *key, format_size(sum(c["weight_bytes"] for c in group)))
        for key, group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    columns = (">Linears", "encoding", "values", ">level", ">density", ">rank", ">bytes")
    console.print(table("how the Linears are stored", columns, rows[:ROWS_MAX]))
    reasons = Counter(c["reason"] for c in choices if c["reason"])
    for reason, count in reasons.items():
        console.print(f"{count} left dense: {reason}", soft_wrap=True)


def _values(value_type: str, layout: str) -> str:
    return f"{value_type} {layout}" if value_type == "i4" else value_type


def _rank(rank: int, adapter_type: str) -> str:
    """Of the residual adapter, and its type where that is not f16."""
    return f"{rank} {adapter_type}" if rank and adapter_type != "f16" else str(rank)


def _print_memory(console: Console, lines: Sequence[tuple[str, int]]) -> None:
    rows = [(what, format_size(size)) for what, size in lines if size]
    rows.append(("the session adds", format_size(sum(size for _, size in lines))))
    console.print(table("predicted memory", ("what", ">bytes"), rows))


def _print_refusals(console: Console, refusals: Sequence[Mapping[str, str]]) -> None:
    for refusal in refusals[:ROWS_MAX]:
        console.print(f"left as it is: {refusal['name']}: {refusal['reason']}", soft_wrap=True)
    if len(refusals) > ROWS_MAX:
        console.print(f"  … and {len(refusals) - ROWS_MAX} more")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
