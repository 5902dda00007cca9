"""`slc structure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people, progress_bar


def command(
    model: opt.DenseModel,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .slr folder to make.", show_default=False)
    ],
    density: Annotated[
        float | None, typer.Option(help="Ceiling, 0.7 by itself: any lower density is a slice.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Ceiling, 32 by itself: any lower rank is a slice.")
    ] = None,
    method: opt.Method = None,
    calibrate: opt.Calibrate = None,
    iterations: opt.Iterations = None,
    match_blocks: opt.MatchBlocks = None,
    balance: Annotated[
        bool,
        typer.Option(
            "--balance",
            help="Each matrix chooses its rank, at the bytes that --density, --rank and --values "
            "make; give the --values that you will export. Takes half a dozen short runs of each.",
        ),
    ] = False,
    values: Annotated[
        str, typer.Option(help="i8 or i4: round S for such blobs as it is made (hessian).")
    ] = "auto",
    group: opt.Group = 64,
    jobs: opt.Jobs = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a checkpoint at OUT.")] = False,
    json: opt.Json = False,
) -> None:
    """Decompose MODEL's weights into a structured checkpoint: the slow, once-only half.

    Of a structured checkpoint, with --calibrate alone: measure what its slices lose, as the budget
    of an export wants to know.
    """
    from slc.compiler import api

    with progress_bar() as progress:
        checkpoint = api.structure(
            model, out, density=density, rank=rank, method=method, calibrate=calibrate,
            iterations=iterations, match_blocks=match_blocks, balance=balance, values=values,
            group=group, jobs=jobs, force=force, progress=progress,
        )  # fmt: skip
    total = sum(checkpoint.entry(name).N * checkpoint.entry(name).K for name in checkpoint.names)
    most = max((checkpoint.entry(name).rank for name in checkpoint.names), default=0)
    kept = sum(checkpoint.entry(name).nnz for name in checkpoint.names)
    people.print(
        f"{out}: {len(checkpoint.names)} Linears, {total:,} weights, {kept:,} stored in S "
        f"(density {kept / max(total, 1):.3f}), rank up to {most}"
    )
    if json:
        emit(
            {
                "checkpoint": str(out),
                "linears": len(checkpoint.names),
                "weights": total,
                "nnz": kept,
            }
        )
