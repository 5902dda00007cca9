"""`slc doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people
from slc.compiler.cli.tables import table

if TYPE_CHECKING:
    from slc.compiler.artifact.doctor import Finding


def command(
    artifact: Annotated[
        Path | None, typer.Argument(help="An artifact; left out: this installation.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Only say what this error of onnxruntime or genai means."
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Look for what keeps ARTIFACT or this installation from working. Exit 1 if anything does."""
    if explain is not None:
        _explain(explain, json)
        return
    from slc.compiler.artifact.doctor import diagnose

    diagnosis = diagnose(artifact)
    rows = [(name, escape(fact)) for name, fact in diagnosis.facts.items()]
    people.print(table("this machine", ("", ""), rows))
    for finding in diagnosis.findings:
        _print(finding)
    if not diagnosis.findings:
        people.print("[green]nothing wrong found[/]")
    if json:
        emit(diagnosis.to_json())
    if not diagnosis.passed:
        raise typer.Exit(1)


def _print(finding: Finding) -> None:
    colour = {"error": "bold red", "warning": "yellow"}[finding.severity]
    people.print(
        f"[{colour}]{finding.severity}:[/] {escape(finding.what)}\n  fix: {escape(finding.fix)}",
        soft_wrap=True,
    )


def _explain(text: str, json: bool) -> None:
    """The meaning of one error text."""
    from slc.compiler.artifact.findings import explain
    from slc.compiler.errors import RequestError

    finding = explain(text)
    if finding is None:
        raise RequestError(
            "--explain: got a text that is none of the known errors of onnxruntime; run slc doctor "
            "ARTIFACT, which looks for itself"
        )
    _print(finding)
    if json:
        emit({"what": finding.what, "fix": finding.fix})
