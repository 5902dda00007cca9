"""`slc doctor`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people


def command(
    artifact: Annotated[
        Path | None, typer.Argument(help="An artifact; left out: this installation.")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Look for what keeps ARTIFACT or this installation from working. Exit 1 if anything does."""
    from slc.compiler.artifact.doctor import doctor

    findings = doctor(artifact)
    colours = {"error": "bold red", "warning": "yellow"}
    for f in findings:
        people.print(f"[{colours[f.severity]}]{f.severity}:[/] {f.what}; {f.fix}", soft_wrap=True)
    if not findings:
        people.print("[green]nothing wrong found[/]")
    if json:
        emit({"findings": [dataclasses.asdict(f) for f in findings]})
    if any(f.severity == "error" for f in findings):
        raise typer.Exit(1)
