"""`slc bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people, progress_bar
from slc.compiler.cli.milliseconds import METAVAR, milliseconds
from slc.compiler.cli.tables import table

if TYPE_CHECKING:
    from slc.compiler.bench.report import BenchReport

_COLOURS = {"passed": "green", "failed": "red", "inconclusive": "yellow", "measured": "green"}


def command(
    artifact: Annotated[Path, typer.Argument(help="A folder that `slc export` made.")],
    against: Annotated[
        Path | None,
        typer.Option(help="The base, another artifact of the model: gates A and B run."),
    ] = None,
    max_slowdown: Annotated[
        str, typer.Option(help="Gate B: allowed against the base, e.g. 5%.")
    ] = "5%",
    max_growth: Annotated[
        str, typer.Option(help="Gate B: allowed of measured session memory, e.g. 5%.")
    ] = "5%",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Gate A: growth that is meant: files, initializers, read, memory, dense, "
            "undeclared or ops.OPERATOR; may be given several times.",
        ),
    ] = None,
    counts_only: Annotated[
        bool, typer.Option("--counts-only", help="Gate A alone: on any machine, nothing is run.")
    ] = False,
    time_limit: Annotated[
        float, typer.Option(help="Seconds after which gate B is inconclusive.")
    ] = 60.0,
    max_p90: Annotated[
        float | None,
        typer.Option(
            parser=milliseconds,
            metavar=METAVAR,
            help="Gate C: milliseconds that 9 of 10 tokens (of other graphs: passes of --context) "
            "may take at most.",
            show_default=False,
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(help="Gate C: the fingerprint of the runner that it is meant for."),
    ] = None,
    any_machine: Annotated[
        bool,
        typer.Option("--any-machine", help="Gate C: judge on a throttled or other machine too."),
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Compare ARTIFACT with itself: the least slowdown seen here."
        ),
    ] = False,
    cold: Annotated[
        bool,
        typer.Option("--cold", help="Time load and first run with the files out of the cache."),
    ] = False,
    batch: Annotated[int | None, typer.Option(help="Sequences at a time.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of each: prompt and answer, or the length of a pass.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Of the session; left out: all that this process may use.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of warm runs, where no base is given.")] = 6.0,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Also write the JSON document to this file; ARTIFACT/measured.json takes the "
            "times alone and keeps what slc verify put there."
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A summary in Markdown on stdout, for CI.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Time ARTIFACT, or hold it against a base. Exit 1: a regression; 3: could not be decided."""
    from slc.compiler.bench.bench import bench
    from slc.compiler.bench.request import BenchRequest
    from slc.compiler.bench.tables import markdown as to_markdown

    plain = against is None and not (counts_only or calibrate or cold)
    _check_output(artifact, output, plain=plain, markdown=markdown, json=json)
    request = BenchRequest(
        max_slowdown=max_slowdown, max_growth=max_growth, max_p90_ms=max_p90,
        time_limit_s=time_limit, seconds=seconds, batch=batch, context=context, threads=threads,
        allow=tuple(allow or ()), expect=expect, any_machine=any_machine, cold=cold,
        counts_only=counts_only, calibrate=calibrate,
    )  # fmt: skip
    with progress_bar() as progress:
        report = bench(artifact, against=against, request=request, progress=progress)
    _print(report)
    if markdown:
        typer.echo(to_markdown(report))
    if output is not None:
        _write(artifact, output, report)
    if json:
        emit(report.to_json())
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _print(report: BenchReport) -> None:
    """Tables, the machine, what is wrong, the verdict."""
    from slc.compiler.bench.tables import grids, lines, machine_line

    for grid in grids(report):
        people.print(table(grid.title, grid.columns, grid.rows))
    fingerprint = report.environment.fingerprint
    people.print(escape(f"{machine_line(report)}; fingerprint {fingerprint}"), soft_wrap=True)
    for line in lines(report):
        people.print(escape(line), soft_wrap=True)
    people.print(f"[bold {_COLOURS[report.verdict]}]{report.verdict}[/]")


def _check_output(
    artifact: Path, output: Path | None, *, plain: bool, markdown: bool, json: bool
) -> None:
    """Before minutes of work: where the results go."""
    from slc.compiler.errors import RequestError

    if output is not None and _is_measured(artifact, output) and not plain:
        raise RequestError(
            f"--output: got {output}, which keeps the times of slc bench ARTIFACT alone: name "
            "another file for a comparison, counts, cold starts or a calibration"
        )
    if markdown and json:
        raise RequestError("--markdown and --json both want stdout: use --output FILE for the JSON")
    if output is not None and not output.resolve().parent.is_dir():
        raise RequestError(f"--output: got {output}, whose folder does not exist: make it first")
    if output is not None and output.is_dir():
        raise RequestError(f"--output: got {output}, a folder: name a file")


def _write(artifact: Path, output: Path, report: BenchReport) -> None:
    """The document; to the artifact's own measured.json its times, beside what is there."""
    from slc.compiler.artifact.manifest import write_json
    from slc.compiler.artifact.measured import keep_measured, times
    from slc.compiler.errors import RequestError

    document = report.to_json()
    if _is_measured(artifact, output):
        keep_measured(artifact, None, "latency", times(document))
        return
    try:
        write_json(output, document)
    except OSError as error:
        raise RequestError(f"--output: {output} can't be written: {error.strerror}") from error


def _is_measured(artifact: Path, output: Path) -> bool:
    from slc.compiler.artifact.manifest import MEASURED_FILE

    return output.resolve() == (artifact / MEASURED_FILE).resolve()
