"""Durations as people write them: "20", "20ms" and "0.02s" are the same."""

from __future__ import annotations

import re

import typer

METAVAR = "<ms>"
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|us|µs)?")
_MS = {None: 1.0, "ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3}


def milliseconds(text: str) -> float:
    """What `text` is in milliseconds: a number of them, or one with us, ms or s.

    Raises:
      BadParameter: it is no duration.
    """
    match = _DURATION.fullmatch(str(text).strip())
    if match is None:
        raise typer.BadParameter(f"got {text!r}, wanted milliseconds such as 20, 20ms or 0.02s")
    return float(match[1]) * _MS[match[2]]
