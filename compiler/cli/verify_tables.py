"""How the findings of `slc verify` look to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slc.compiler.budget.sizes import format_size
from slc.compiler.cli.tables import ROWS_MAX, table

if TYPE_CHECKING:
    from slc.compiler.artifact.linear_check import LinearCheck
    from slc.compiler.artifact.report import Distance, LinearDistance, MemoryCheck, VerifyReport
    from slc.compiler.artifact.tolerance import OutputCheck


def print_verify(console: Console, report: VerifyReport) -> None:
    """Every kind of check, the worst of each first."""
    for problem in report.checksum_problems:
        console.print(f"[bold red]checksum:[/] {escape(problem)}", soft_wrap=True)
    size = format_size(report.bytes_checked)
    console.print(f"checksums: {report.files_checked} files, {size}")
    parts: list[Table | None] = [
        _outputs(report.outputs), _operators(report.linears), _distances(report.distances),
        _linears(report.linear_distances),
    ]  # fmt: skip
    for part in parts:
        if part is not None:
            console.print(part)
    if report.linears:
        failed = sum(not check.passed for check in report.linears)
        console.print(f"{len(report.linears)} operators against f64, {failed} beyond their bound")
    if report.tokens is not None:
        t = report.tokens
        console.print(f"greedy tokens: {t.equal} of {len(t.tokens)} equal {_mark(t.passed)}")
    if (o := report.original_tokens) is not None:
        console.print(
            f"the original's greedy tokens: {o.agreed} of {len(o.tokens)} chosen too, the first "
            f"{o.equal} in a row"
        )
    if report.memory is not None:
        console.print(_memory(report.memory), soft_wrap=True)
    console.print("[bold green]passed[/]" if report.passed else "[bold red]failed[/]")


def _outputs(outputs: Sequence[OutputCheck]) -> Table | None:
    if not outputs:
        return None
    worst = sorted(outputs, key=lambda o: (o.passed, -o.max_error / max(o.max_tolerance, 1e-300)))
    rows = [
        (o.output, o.probe, f"{o.max_error:.2e}", f"{o.max_tolerance:.2e}",
         f"{o.mean_error:.2e}", f"{o.mean_tolerance:.2e}", _mark(o.passed))
        for o in worst[:ROWS_MAX]
    ]  # fmt: skip
    columns = ("output", "inputs", ">max error", ">allowed", ">mean error", ">allowed", "")
    title = "outputs against the same weights run densely" + _of(outputs)
    return table(title, columns, rows)


def _operators(linears: Sequence[LinearCheck]) -> Table | None:
    if not linears:
        return None
    worst = sorted(linears, key=lambda check: (check.passed, -check.used))
    rows = [
        (c.node, c.op, c.accuracy_level, f"{c.max_error:.2e}", f"{c.bound:.2e}",
         f"{c.used:.1%}", _mark(c.passed))
        for c in worst[:ROWS_MAX]
    ]  # fmt: skip
    columns = ("node", "operator", ">level", ">max error", ">bound", ">used", "")
    title = "operators against f64, nearest to their bound first" + _of(linears)
    return table(title, columns, rows)


def _distances(distances: Sequence[Distance]) -> Table | None:
    if not distances:
        return None
    worst = sorted(distances, key=lambda d: (d.against, d.cosine))
    kinds = {d.against for d in distances}
    shown = [
        d for kind in sorted(kinds)
        for d in [one for one in worst if one.against == kind][: ROWS_MAX // len(kinds)]
    ]  # fmt: skip
    rows = [
        (d.output, d.against, d.probe, f"{d.max_error:.2e}", f"{d.mean_error:.2e}",
         f"{d.relative_squared_error:.2e}", f"{d.cosine:.5f}")
        for d in shown
    ]  # fmt: skip
    columns = ("output", "against", "inputs", ">max error", ">mean error", ">squared", ">cosine")
    title = "how far outputs are from other graphs, farthest first" + _of(distances, len(shown))
    return table(title, columns, rows)


def _linears(distances: Sequence[LinearDistance]) -> Table | None:
    if not distances:
        return None
    worst = sorted(distances, key=lambda d: -d.relative_error)
    rows = [(d.linear, f"{d.relative_error:.2e}", f"{d.cosine:.5f}") for d in worst[:ROWS_MAX]]
    title = "how far the Linears' outputs are from the original's" + _of(distances)
    return table(title, ("Linear", ">relative error", ">cosine"), rows)


def _of(rows: Sequence[object], shown: int = ROWS_MAX) -> str:
    """Says so in a title when not all rows are shown."""
    return f" ({shown} of {len(rows)}; --json has all)" if len(rows) > shown else ""


def _memory(memory: MemoryCheck) -> str:
    budget = "no budget given"
    if memory.budget_bytes is not None:
        budget = f"of {format_size(memory.budget_bytes)}"
    parts = ", ".join(f"{kind} {format_size(size)}" for kind, size in memory.added_bytes.items())
    return (
        f"session memory: measured {format_size(memory.measured_bytes)}, predicted "
        f"{format_size(memory.predicted_bytes)}, {budget} {_mark(memory.passed)}\n"
        f"  of which after the last run: {parts}"
    )


def _mark(passed: bool) -> str:
    return "[green]ok[/]" if passed else "[bold red]FAILED[/]"
