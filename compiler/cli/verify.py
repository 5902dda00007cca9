"""`slc verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people, progress_bar
from slc.compiler.cli.verify_tables import print_verify


def _keep(artifact: Path, output: Path | None, document: dict[str, Any]) -> None:
    """Beside the model, outside the hashed files; a folder that can't be written to is no error."""
    from slc.compiler.artifact.measured import keep_measured
    from slc.compiler.errors import ArtifactError

    try:
        keep_measured(artifact, output, "verify", document)
    except ArtifactError as error:
        if output is not None:
            raise
        people.print(f"note: {error}", soft_wrap=True)


def command(
    artifact: Annotated[Path, typer.Argument(help="A folder that `slc export` made.")],
    reference: Annotated[
        Path | None, typer.Option(help="The original model: also report the distance to it.")
    ] = None,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Only the hashes of the files.")
    ] = False,
    memory: Annotated[
        bool, typer.Option(help="Also measure the session in a process of its own.")
    ] = True,
    output: Annotated[
        Path | None,
        typer.Option(help="Keep the figures in this file, not in measured.json in ARTIFACT."),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Check ARTIFACT: files, memory, numerics against its weights run densely. Exit 1 if not."""
    with progress_bar() as progress:
        if checksums:  # imports no graph library: this is for devices too
            from slc.compiler.artifact.checksums import verify_checksums

            report = verify_checksums(artifact, progress)
        else:
            from slc.compiler import verify

            report = verify(artifact, reference=reference, memory=memory, progress=progress)
    print_verify(people, report)
    if not checksums:
        _keep(artifact, output, report.to_json())
    if json:
        emit(report.to_json())
    if not report.passed:
        raise typer.Exit(1)
