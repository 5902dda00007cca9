"""`slc report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people


def command(
    artifact: Annotated[Path, typer.Argument(help="A folder that `slc export` made.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The HTML page; left out: report.html in ARTIFACT."),
    ] = None,
    frontier: Annotated[
        Path | None,
        typer.Option(help="What `slc frontier --json` printed; the page draws ARTIFACT in it."),
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file of `slc verify --output` or `slc bench --output`, beside measured.json in "
            "ARTIFACT; may be given several times."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file at OUT.")] = False,
    json: opt.Json = False,
) -> None:
    """Write one page on ARTIFACT: its bytes, every choice, what was predicted and measured."""
    from slc.compiler.report.report import write_report

    path = write_report(
        artifact, out, frontier=frontier, measured=measured or (), force=force
    )  # fmt: skip
    people.print(f"{path}: open it in a browser", soft_wrap=True)
    if json:
        emit({"artifact": str(artifact), "page": str(path), "bytes": path.stat().st_size})
