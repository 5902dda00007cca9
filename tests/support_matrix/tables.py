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

FOLDER = Path(__file__).resolve().parent
README = FOLDER.parents[1] / "README.md"
NAMES = ("onnxruntime", "genai")
MARKS = {RUNS: "✓", REFUSED: "–", NO_WHEEL: "·"}
PROBLEM = "✗"


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
    """A table of it; what is not offered is explained at the end of its row."""
    versions = [column["version"] for column in document["columns"]]
    pythons = [column["python"] or "none here" for column in document["columns"]]
    lines = [
        _line([document["corner"], *versions, "–, because"]),
        _line(["---"] * (len(versions) + 2)),
        _line(["Python", *pythons, ""]),
    ]
    for row in document["rows"]:
        cells = [tuple(cell) for cell in row["cells"]]
        marks = [_mark(status, why) for status, why in cells]
        lines.append(_line([row["title"], *marks, _reasons(cells, versions, row["name"])]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _mark(status: str, why: str) -> str:
    mark = MARKS.get(status, PROBLEM)
    return f"({mark})" if status == RUNS and why else mark


def _reasons(cells: Sequence[tuple[str, str]], versions: Sequence[str], name: str) -> str:
    """Each reason of a row once, whichever release it names."""
    said: dict[str, None] = {}
    for (status, why), version in zip(cells, versions, strict=True):
        if why and status != RUNS:
            short = why.split(": choose")[0].replace(f"'onnxruntime-{version}'", "")
            short = short.replace(f"onnxruntime {version}", "less").replace("|", "/")
            said[short] = None
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
