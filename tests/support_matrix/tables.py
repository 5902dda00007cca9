"""The matrices as JSON and as tables of README.md, between markers.

A document: {"package", "made_by", "columns": [{"version", "python"}], "rows": [{"name", "title",
"cells": [[status, why], …]}]}, a cell for every column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support_matrix.cells import NO_WHEEL, REFUSED, RUNS

Document = Mapping[str, Any]
Row = Mapping[str, Any]

FOLDER = Path(__file__).resolve().parent
README = FOLDER.parents[1] / "README.md"
NAMES = ("onnxruntime", "genai")
MARKS = {RUNS: "✓", REFUSED: "–", NO_WHEEL: "·"}
PROBLEM = "✗"
# Made for a column: what errors say of it is in its head.
_ABOUT_THE_DEVICE = r"(device '\S+'|got a device that) promises onnxruntime [\d.]+( and|,) "


def to_json(document: Document) -> str:
    """A row of the matrix a line."""
    head = {key: value for key, value in document.items() if key != "rows"}
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in document["rows"])
    return "\n".join(["{", *lines, ' "rows": [', rows, " ]", "}"]) + "\n"


def read(name: str) -> Document:
    """The stored document of that name."""
    document: Document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return document


def to_markdown(document: Document) -> str:
    """A table of it; what is not offered is explained at the end of its row.

    Rows of one name are one row: a mark where all say the same, else one for each.
    """
    versions = [column["version"] for column in document["columns"]]
    lines = [
        _line([document["corner"], *versions, "–, because"]),
        _line(["---"] * (len(versions) + 2)),
    ]
    if document["corner"] == "artifact":
        pythons = [column["python"] or "none here" for column in document["columns"]]
        lines.append(_line(["Python", *pythons, ""]))
    rows: dict[str, list[Row]] = {}
    for row in document["rows"]:
        rows.setdefault(row["name"], []).append(row)
    for name, same in rows.items():
        title = same[0]["title"] if len(same) == 1 else name
        cells = [_marks([row["cells"][i] for row in same]) for i in range(len(versions))]
        lines.append(_line([title, *cells, _reasons(same, versions)]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _marks(cells: Sequence[Sequence[str]]) -> str:
    marks = [_mark(status, why) for status, why in cells]
    return marks[0] if len({*marks}) == 1 else " ".join(marks)


def _mark(status: str, why: str) -> str:
    mark = MARKS.get(status, PROBLEM)
    return f"({mark})" if status == RUNS and why else mark


def _reasons(rows: Sequence[Row], versions: Sequence[str]) -> str:
    """Each reason once, whichever release it names, and without what to do about it."""
    said: dict[str, None] = {}
    for row in rows:
        for (status, why), version in zip(row["cells"], versions, strict=True):
            if why and status != RUNS:
                text = re.sub(_ABOUT_THE_DEVICE, "", why.split(": choose")[0])
                text = text.replace(f"onnxruntime-genai {row['name']}", "it")
                said[text.replace(version, "this release").replace("|", "/")] = None
    return "; ".join(said)


def in_readme(readme: str, name: str, table: str) -> str:
    """The README with the table of that name in place of the one that it has.

    Raises:
      ValueError: its markers are missing.
    """
    start, end = f"<!-- matrix: {name} -->", f"<!-- end of matrix: {name} -->"
    pattern = re.compile(f"{re.escape(start)}\n.*?{re.escape(end)}", flags=re.DOTALL)
    if len(pattern.findall(readme)) != 1:
        raise ValueError(f"README.md: got no pair of markers {start} and {end}, wanted one")
    return pattern.sub(lambda _: f"{start}\n{table}\n{end}", readme)
