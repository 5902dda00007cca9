"""`slc inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people
from slc.compiler.cli.tables import print_inspect


def command(
    path: Annotated[Path, typer.Argument(help="An artifact, a packed blob or an .slr checkpoint.")],
    json: opt.Json = False,
) -> None:
    """Say what PATH holds."""
    from slc.compiler.artifact.inspect import inspect

    document = inspect(path)
    print_inspect(people, document)
    if json:
        emit(document)
