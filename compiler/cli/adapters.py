"""`slc adapters add` and `slc adapters list`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people
from slc.compiler.cli.tables import table

app = typer.Typer(
    help="Adapters that a session loads, switches and unloads while it runs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Artifact = Annotated[Path, typer.Argument(help="A folder that `slc export` made.")]


@app.command("add")
def add(
    artifact: _Artifact,
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="PEFT_DIR[=NAME]...",
            help="A folder saved by PEFT, to be adapters/NAME.onnx_adapter; NAME is the folder's "
            "where left out.",
            show_default=False,
        ),
    ],
    slot: Annotated[
        int | None,
        typer.Option(
            help="The slot they fill, from 0; left out: the one that the fewest adapters fill.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace adapters that have the same names.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Put PEFT LoRA adapters, of any rank, into an ARTIFACT that has slots; all of them or none."""
    from slc.compiler import add_adapters

    added = add_adapters(artifact, adapters, slot=slot, force=force)
    _print(f"added to {artifact}", added)
    if json:
        emit({"artifact": str(artifact), "added": added})


@app.command("list")
def list_command(artifact: _Artifact, json: opt.Json = False) -> None:
    """List the adapters that ARTIFACT has for its slots."""
    from slc.compiler import list_adapters
    from slc.compiler.artifact.manifest import read_manifest

    adapters = list_adapters(artifact)
    slots = read_manifest(artifact)["adapters"]["slots"]
    _print(f"{artifact}: {slots} slot{'' if slots == 1 else 's'}", adapters)
    if json:
        emit({"artifact": str(artifact), "slots": slots, "adapters": adapters})


def _print(title: str, adapters: Sequence[dict[str, Any]]) -> None:
    from slc.compiler.budget.sizes import format_size

    if not adapters:
        people.print(f"{title}, no adapters", soft_wrap=True, markup=False)
        return
    rows = [
        (escape(a["name"]), a["slot"], a["rank"], a["linears"], format_size(a["bytes"]),
         escape(a["file"]))
        for a in adapters
    ]  # fmt: skip
    columns = ("adapter", ">slot", ">rank", ">Linears", ">bytes", "file")
    people.print(table(escape(title), columns, rows))
