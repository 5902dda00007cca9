"""`slc verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people, progress_bar
from slc.compiler.cli.tables import print_verify

if TYPE_CHECKING:
    from slc.compiler.artifact.report import VerifyReport


def _keep_measured(artifact: Path, report: VerifyReport) -> None:
    """Writes what was measured on this machine beside the model, outside the hashed files."""
    from slc.compiler.artifact.manifest import MEASURED_FILE, write_json

    document = report.to_json()
    try:
        write_json(artifact / MEASURED_FILE, {k: document[k] for k in ("memory", "passed")})
    except OSError as error:
        people.print(f"{MEASURED_FILE} not written: {error.strerror}")


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
    json: opt.Json = False,
) -> None:
    """Check ARTIFACT: files, memory, numerics against its weights run densely. Exit 1 if not."""
    from slc.compiler import verify

    with progress_bar() as progress:
        report = verify(
            artifact, reference=reference, checksums_only=checksums, memory=memory,
            progress=progress,
        )  # fmt: skip
    print_verify(people, report)
    if report.memory is not None:
        _keep_measured(artifact, report)
    if json:
        emit(report.to_json())
    if not report.passed:
        raise typer.Exit(1)
