"""Runs artifacts of every kind on every onnxruntime, and decoders on every onnxruntime-genai.

    make matrix                                    # both, then JSON and README.md are written
    python tests/support_matrix/make_matrix.py --releases 1.17 1.32 --print

For every release since 1.17 (genai: 0.8), the last patch, `slc export` is asked for each kind of
artifact for a device that has just this release. What it makes runs in an interpreter that has this
onnxruntime and numpy and nothing of ours, and the output is held to this machine's within derived
tolerances. What it refuses is tried all the same, with what it makes for the newest release: a
refusal is only right if that fails. Exit 1 if a cell and the profile disagree.

Runtimes are folders in --environments (about 2 GB, kept for the next time). A release that has no
wheel for a Python that is installed here gets a column that says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from support_matrix import tables
from support_matrix.cells import (
    NO_WHEEL,
    PROBLEMS,
    REFUSED,
    Artifacts,
    Cell,
    Offer,
    at_oldest_ir,
    judge,
    run_ort,
)
from support_matrix.genai_cells import judge_genai, run_genai, tokens_here
from support_matrix.kinds import GENAI_KINDS, KINDS, Sources
from support_matrix.releases import (
    RegistryError,
    Release,
    installed,
    interpreters,
    last_patches,
    requirement_of,
    runtime,
)

from slc.targets.target import ORT_OLDEST, version_tuple

GENAI_OLDEST = "0.8"
Columns = Sequence[tuple[Release, str | None]]


def say(text: str) -> None:
    """To people."""
    print(text, file=sys.stderr, flush=True)


def python_for(release: Release, *others: Release, here: Iterable[str]) -> str | None:
    """The oldest Python here that all have wheels for."""
    both = [p for p in release.pythons if all(p in other.pythons for other in others)]
    return next((python for python in both if python in here), None)


def no_wheel(release: Release, here: Iterable[str]) -> Cell:
    """Of a release that no Python here can have."""
    return Cell(
        NO_WHEEL,
        f"no wheel for Python {', '.join(here)}: it has some for {', '.join(release.pythons)}",
    )


def matrix_of_onnxruntime(
    artifacts: Artifacts, columns: Columns, cache: Path, scratch: Path, here: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for every kind, a cell for every release, oldest first."""
    rows = []
    newest = columns[-1][0].version
    for name, kind in KINDS.items():
        reserve = artifacts.offer(name, kind, newest)  # tried where nothing is offered
        cells: list[Cell] = []
        offered: Offer | None = None
        for release, python in columns:
            if python is None:
                cells.append(no_wheel(release, here))
                continue
            if not (offered and offered.folder and kind.once):
                offered = artifacts.offer(name, kind, release.version)
            cell = _run(
                artifacts, offered, reserve, runtime(cache, release.version, python), scratch
            )
            cells.append(cell)
            say(f"{release.version:8} {kind.title:26} {cell.status} {cell.why[:150]}")
        rows.append(_row(name, kind.title, cells))
    return rows


def _run(artifacts: Artifacts, offered: Offer, reserve: Offer, where: Any, scratch: Path) -> Cell:
    folder = offered.folder or reserve.folder
    if folder is None:  # the newest of --releases is not offered it either: nothing to try
        return Cell(REFUSED, offered.reason)
    graph = "model.onnx" if offered.folder else at_oldest_ir(folder)
    return judge(offered, run_ort(where, folder, artifacts.reference(folder), scratch, graph))


def matrix_of_genai(
    artifacts: Artifacts, genais: Columns, columns: Columns, cache: Path, scratch: Path,
    here: Sequence[str],
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for every genai and kind, a cell for every onnxruntime that decoders are offered on."""
    newest = columns[0][0].version  # the artifact for the oldest runs on all
    folders = {n: artifacts.offer(f"genai_{n}", k, newest).folder for n, k in GENAI_KINDS.items()}
    made = {name: folder for name, folder in folders.items() if folder is not None}
    tokens = {name: tokens_here(folder) for name, folder in made.items()}
    rows = []
    for genai, _ in genais:
        cells: dict[str, list[Cell]] = {name: [] for name in made}
        for release, _ in columns:
            python = python_for(release, genai, here=here)
            if python is None:
                for each in cells.values():
                    each.append(no_wheel(genai, here))
                continue
            where = runtime(cache, release.version, python, genai.version)
            asks = requirement_of(
                installed(cache, f"onnxruntime-genai=={genai.version}", python), "onnxruntime"
            )
            for name, ran in run_genai(where, made, tokens, scratch).items():
                cell = judge_genai(genai.version, asks, release.version, tokens[name], ran)
                cells[name].append(cell)
                said = f"{cell.status} {cell.why[:120]}"
                say(f"genai {genai.version:7} {release.version:8} {name:12} {said}")
        rows += [
            _row(genai.version, f"{genai.version}, {GENAI_KINDS[n].title}", each)
            for n, each in cells.items()
        ]
    return rows


def _row(name: str, title: str, cells: Sequence[Cell]) -> dict[str, Any]:
    return {"name": name, "title": title, "cells": [[cell.status, cell.why] for cell in cells]}


def offered_to_decoders(rows: Sequence[Mapping[str, Any]], columns: Columns) -> Columns:
    """The releases on which some decoder runs."""
    (row,) = [row for row in rows if row["name"] == "decoder"]
    runs = [cell[0] == "runs" for cell in row["cells"]]
    return [column for column, yes in zip(columns, runs, strict=True) if yes]


def document(corner: str, columns: Columns, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What is stored."""
    return {
        "made_by": "make matrix",
        "corner": corner,
        "columns": [{"version": r.version, "python": python} for r, python in columns],
        "rows": rows,
    }


def problems(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Cells in which the profile is wrong."""
    return [
        f"{row['title']} on {column['version']}: {status}: {why}"
        for one in documents
        for row in one["rows"]
        for column, (status, why) in zip(one["columns"], row["cells"], strict=True)
        if status in PROBLEMS
    ]


def make(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Both documents."""
    here = [*interpreters()]
    found = last_patches("onnxruntime", ORT_OLDEST)
    if arguments.releases:
        asked = {version_tuple(text)[:2] for text in arguments.releases}
        found = [release for release in found if version_tuple(release.version)[:2] in asked]
    if not found:
        raise RegistryError(f"no onnxruntime of {arguments.releases}: wanted 1.17 or newer")
    columns = [(release, python_for(release, here=here)) for release in found]
    for release, python in columns:
        if python is None:
            say(f"onnxruntime {release.version}: {no_wheel(release, here).why}")
    artifacts = Artifacts(Sources(folder), folder)
    cache = arguments.environments
    rows = matrix_of_onnxruntime(artifacts, columns, cache, folder, here)
    made = {"onnxruntime": document("artifact", columns, rows)}
    decoders = offered_to_decoders(rows, columns)
    if decoders and not arguments.no_genai:
        genais = [(one, None) for one in last_patches("onnxruntime-genai", GENAI_OLDEST)]
        rows = matrix_of_genai(artifacts, genais, decoders, cache, folder, here)
        made["genai"] = document("onnxruntime-genai", decoders, rows)
    return made


def write(made: Mapping[str, Mapping[str, Any]]) -> None:
    """JSON beside this file, tables in README.md."""
    readme = tables.README.read_text(encoding="utf-8")
    for name, one in made.items():
        (tables.FOLDER / f"{name}.json").write_text(tables.to_json(one), encoding="utf-8")
        readme = tables.in_readme(readme, name, tables.to_markdown(one))
    tables.README.write_text(readme, encoding="utf-8")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environments", type=Path, default=Path("build/support_matrix"))
    parser.add_argument(
        "--releases", nargs="*", help="of onnxruntime, e.g. 1.17 1.32; with it nothing is written"
    )
    parser.add_argument("--no-genai", action="store_true", help="leave that table as it is")
    parser.add_argument("--print", action="store_true", help="tables on stdout, nothing is written")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="support-matrix-") as folder:
            made = make(arguments, Path(folder))
    except RegistryError as error:
        say(f"{error}; this command fetches wheels: is there an index that pip can reach?")
        return 2
    if arguments.print or arguments.releases:
        print("\n\n".join(tables.to_markdown(one) for one in made.values()))
    else:
        write(made)
    wrong = problems(made.values())
    for problem in wrong:
        say(f"the target profile is wrong: {problem}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
