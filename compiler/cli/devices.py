"""`slc devices`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people, progress_bar
from slc.compiler.cli.tables import table
from slc.compiler.errors import RequestError
from slc.targets import Target, load, names
from slc.targets.kernel_figures import kernel_figures, kernels_source

_DETECTED = """\
This machine, as `slc devices --detect` found it: where each figure is from stands in [sources].
Change what you know better; `--device ./FILE.toml` takes the file."""
_CALIBRATED = """\
This machine, as `slc devices --calibrate` measured it: where each figure is from stands in
[sources]. `--device ./FILE.toml` takes the file."""


def command(
    name: Annotated[str | None, typer.Argument(help="A device; left out: all of them.")] = None,
    detect: Annotated[
        bool, typer.Option("--detect", help="Print a profile of this machine as TOML, measured.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="As --detect, and time the operators, which takes a minute or two.",
        ),
    ] = False,
    json: opt.Json = False,
) -> None:
    """List the device profiles, show one with the source of each figure, or make this machine's."""
    if detect or calibrate:
        option = "--calibrate" if calibrate else "--detect"
        if name is not None:
            raise RequestError(f"{option} is about this machine, got {name!r} too: leave one out")
        if calibrate:
            _print_profile(_calibrated(), json, _CALIBRATED)
        else:
            _print_profile(_measured(), json, _DETECTED)
        return
    if name is None:
        targets = [load(one) for one in names()]
        people.print(_overview(targets))
        if json:
            emit({"devices": [_document(target) for target in targets]})
        return
    target = load(name)
    people.print(_details(target))
    if json:
        emit(_document(target))


def _measured() -> Target:
    from slc.targets.detect import detect_host

    return detect_host(measure=True)


def _calibrated() -> Target:
    from slc.compiler.budget.calibrate import calibrate

    with progress_bar() as progress:
        return calibrate(progress=progress)


def _print_profile(target: Target, json: bool, comment: str) -> None:
    """The profile on stdout: a TOML file, or the JSON document that shows it."""
    from slc.targets.toml_writer import to_toml

    if json:
        emit(_document(target))
    else:
        sys.stdout.write(to_toml(target, comment))


def _document(target: Target) -> dict[str, Any]:
    return {**dataclasses.asdict(target), "usable_bytes": target.usable_bytes}


def _overview(targets: list[Target]) -> Table:
    columns = (
        "name",
        "arch",
        ">memory GB",
        ">usable",
        ">GB/s",
        ">cores",
        "onnxruntime",
        "verified",
    )
    rows = [
        (
            " = ".join((t.name, *t.aliases[:1])),
            t.arch,
            f"{t.memory_bytes / 1e9:.1f}",
            f"{t.usable_bytes / 1e9:.1f}",
            f"{t.bandwidth_bytes_per_s / 1e9:.1f}",
            t.cores,
            t.ort_min if t.ort_max in (None, t.ort_min) else f"{t.ort_min} to {t.ort_max}",
            "yes" if t.verified else "no",
        )
        for t in targets
    ]
    return table("device profiles", columns, rows)


def _details(target: Target) -> Table:
    rows = []
    for field in dataclasses.fields(target):
        if field.name in ("sources", "name", "description", "notes", "kernels"):
            continue
        value = escape(_text(getattr(target, field.name)))
        rows.append((field.name, value, escape(target.sources.get(field.name, ""))))
    rows.append(("kernels", "", escape(kernels_source(target))))
    rows += [(f"  {name}", _figures(own), "") for name, own in kernel_figures(target).items()]
    rows += [("note", escape(note), "") for note in target.notes]
    title = escape(f"{target.name}: {target.description}")
    return table(title, ("field", "value", "source"), rows)


def _figures(figures: Mapping[str, float]) -> str:
    """What a kernel costs, figure by figure."""
    return ", ".join(f"{name} {value:g}" for name, value in figures.items())


def _text(value: object) -> str:
    """A field's value as people write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (tuple, Mapping)):
        return ", ".join(value) or "none"
    return str(value)
