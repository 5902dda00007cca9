"""Reads what `slc frontier --json` printed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slc.compiler.artifact.schema import first_problem, load_schema
from slc.compiler.budget.alternatives import Alternative
from slc.compiler.budget.frontier import Point
from slc.compiler.errors import RequestError


def read_frontier(path: Path, manifest: Mapping[str, Any]) -> list[Point]:
    """The points in a file.

    Args:
      path: of the file.
      manifest: of the artifact that will be marked among them.

    Raises:
      RequestError: the file can't be read, is no frontier, or is of another device.
    """
    wanted = "wanted what slc frontier --json printed"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: got a file that can't be read ({error}), {wanted}") from error
    problem = first_problem(document, load_schema("slc.compiler.budget", "frontier.schema.json"))
    if problem is not None:
        raise RequestError(f"{path}: got JSON in which {problem.strip()}, {wanted}")
    device = manifest["device"]["name"]
    if document["device"] != device:
        raise RequestError(
            f"{path}: got the frontier of {document['device']}, wanted that of {device}, which "
            "the artifact is for"
        )
    return [_point(row) for row in document["points"]]


def _point(row: Mapping[str, Any]) -> Point:
    known = {field.name for field in dataclasses.fields(Point)}
    fields = {key: value for key, value in row.items() if key in known}
    fields["alternatives"] = tuple(
        Alternative(
            name, one["how"], one["session_bytes"], one["weight_bytes"], one["error"],
            fits=one["fits"], choices=(),
        )
        for name, one in row["alternatives"].items()
    )  # fmt: skip
    return Point(**fields)
