"""What every command shares: where output goes, progress bars, and errors as one sentence."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from slc.compiler import progress as reporting
from slc.compiler.errors import BudgetError, SlcError
from slc.ops import LibraryNotFoundError
from slc.targets import TargetError

WIDTH_OF_FILES = 120  # where stderr is no terminal, so that names are not folded

people = Console(
    stderr=True, highlight=False, width=None if sys.stderr.isatty() else WIDTH_OF_FILES
)


def emit(document: dict[str, Any]) -> None:
    """Prints the one JSON document of a `--json` run on stdout."""
    json.dump(document, sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")


@contextlib.contextmanager
def progress_bar() -> Iterator[reporting.Progress]:
    """A bar per stage on a terminal, nothing otherwise; yields the callback that moves it."""
    if not people.is_terminal:
        yield lambda done, total, what: None
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=people, transient=False) as progress:
        stage: dict[str, Any] = {"total": None, "done": 0}

        def update(done: int, total: int, what: str) -> None:
            # One bar a stage, whatever it is at: another total or a step back begins the next one.
            if stage["total"] != total or done < stage["done"]:
                stage.update(total=total, task=progress.add_task(what, total=total))
            stage["done"] = done
            progress.update(stage["task"], completed=done, description=what)

        yield update


def report_error(error: Exception) -> int:
    """Prints a user's error as one sentence and returns the exit code."""
    if isinstance(error, (SlcError, TargetError, LibraryNotFoundError)):
        message = " ".join(str(error).split())
        if "--json" in sys.argv:
            document: dict[str, Any] = {"error": message}
            if isinstance(error, BudgetError):
                document["smallest_bytes"] = error.smallest_bytes
            emit(document)
        people.print(f"[bold red]error:[/] {_escape(message)}", soft_wrap=True)
        return 2
    traceback.print_exc()
    people.print("[bold red]this is a bug in slc[/]: please report it with the lines above")
    return 70


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
