"""The command `slc`: one file per command, all of them registered here."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from slc.compiler import __version__
from slc.compiler.cli import (
    adapters,
    bench,
    devices,
    doctor,
    export,
    frontier,
    inspect,
    ops,
    plan,
    report,
    structure,
    verify,
)
from slc.compiler.cli.console import report_error

app = typer.Typer(
    name="slc",
    help="Compile sparse plus low-rank networks to ONNX artifacts that a stock onnxruntime runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("export")(export.command)
app.command("plan")(plan.command)
app.command("frontier")(frontier.command)
app.command("structure")(structure.command)
app.command("verify")(verify.command)
app.command("report")(report.command)
app.command("bench")(bench.command)
app.command("inspect")(inspect.command)
app.add_typer(adapters.app, name="adapters")
app.command("devices")(devices.command)
app.command("doctor")(doctor.command)
app.add_typer(ops.app, name="ops")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print it and exit."
        ),
    ] = False,
) -> None:
    """Compile sparse plus low-rank networks to ONNX artifacts that a stock onnxruntime runs."""


def main() -> None:
    """Runs the command line; exit codes are those of design §8."""
    try:
        app()
    except Exception as error:  # the boundary: known errors become one sentence, bugs stay visible
        sys.exit(report_error(error))
