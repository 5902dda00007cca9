"""`slc devices`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people
from slc.compiler.cli.tables import table
from slc.compiler.errors import RequestError
from slc.targets import Target, load, names

_DETECTED = """\
This machine, as `slc devices --detect` found it: where each figure is from stands in [sources].
Change what you know better; `--device ./FILE.toml` takes the file."""


def command(
    name: Annotated[str | None, typer.Argument(help="A device; left out: all of them.")] = None,
    detect: Annotated[
        bool, typer.Option("--detect", help="Print a profile of this machine as TOML, measured.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """List the device profiles, show one with the source of each figure, or make this machine's."""
    if detect:
        if name is not None:
            raise RequestError(f"--detect is about this machine, got {name!r} too: leave one out")
        _print_profile(_measured(), json)
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


def _print_profile(target: Target, json: bool) -> None:
    """The profile on stdout: a TOML file, or the JSON document that shows it."""
    from slc.targets.toml_writer import to_toml

    if json:
        emit(_document(target))
    else:
        sys.stdout.write(to_toml(target, _DETECTED))


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
        if field.name in ("sources", "name", "description", "notes"):
            continue
        value = getattr(target, field.name)
        text = (
            f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        )
        rows.append((field.name, text, target.sources.get(field.name, "")))
    rows += [("note", note, "") for note in target.notes]
    return table(f"{target.name}: {target.description}", ("field", "value", "source"), rows)
