"""`slc ops`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people, progress_bar
from slc.compiler.errors import RequestError
from slc.targets import load

app = typer.Typer(
    help="The op library that runs slc's operators in onnxruntime.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("build")
def build(
    device: opt.Device = "host",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder that takes libslc_ops.so.")
    ] = Path(),
    jobs: Annotated[int | None, typer.Option(help="Compilers at a time.")] = None,
    json: opt.Json = False,
) -> None:
    """Compile the op library from source: on a device, or with ziglang for another."""
    from slc.compiler.build_library import build_library

    target = load(device)
    with progress_bar() as progress:
        library = build_library(target, out, jobs=jobs, progress=progress)
    people.print(f"{library}: for {target.platform_tag}", soft_wrap=True)
    if json:
        emit({"library": str(library), "platform": target.platform_tag})


@app.command("path")
def path(device: opt.Device = "host", json: opt.Json = False) -> None:
    """Say where the installed op library for a device lies, for applications to register."""
    import slc.ops

    target = load(device)
    try:
        found = slc.ops.library_path(target.platform_tag)
    except slc.ops.LibraryNotFoundError as error:
        raise RequestError(str(error)) from error
    if json:
        emit({"library": found, "platform": target.platform_tag})
    else:
        typer.echo(found)
