"""How long work reports where it is: progress(done, total, what)."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]


def as_stage(progress: Progress | None, what: str) -> Progress | None:
    """`progress` under one name, for stages that would name each of their steps."""
    if progress is None:
        return None
    return lambda done, total, _step: progress(done, total, what)
