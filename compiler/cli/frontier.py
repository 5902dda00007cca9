"""`slc frontier`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people, progress_bar
from slc.compiler.cli.tables import print_frontier


def command(
    model: opt.Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The HTML page to write.", show_default=False)
    ],
    device: opt.Device = "host",
    budgets: Annotated[int, typer.Option(help="How many budgets.")] = 16,
    low: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="The first budget, such as 40MB; left out: what just fits.",
            show_default=False,
        ),
    ] = None,
    high: Annotated[
        str | None,
        typer.Option(
            "--to", help="The last; left out: every weight in 8 bits.", show_default=False
        ),
    ] = None,
    context: opt.Context = None,
    batch: opt.Batch = 1,
    calibrate: opt.Calibrate = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file at OUT.")] = False,
    json: opt.Json = False,
) -> None:
    """Draw quality over bytes for MODEL, a structured checkpoint, beside what else would fit."""
    from slc.compiler import api
    from slc.compiler.budget.frontier import point_json

    with progress_bar() as progress:
        points, target = api.frontier(
            model, out, device=device, budgets=budgets, low=low, high=high, context=context,
            batch=batch, calibrate=calibrate, force=force, progress=progress,
        )  # fmt: skip
    print_frontier(people, points, out)
    if json:
        emit({"device": target.name, "page": str(out), "points": [point_json(p) for p in points]})
