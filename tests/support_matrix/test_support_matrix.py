"""The matrices that README.md shows are those that were stored, and a wrong cell would be seen."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moved_inputs import with_scaled_inputs, without_the_last_byte
from support_matrix import make_matrix, releases, tables
from support_matrix.cells import (
    FAILS,
    NO_WHEEL,
    PROBLEMS,
    REFUSED,
    RUNS,
    TOO_STRICT,
    WRONG,
    Artifacts,
    Cell,
    Offer,
    Reference,
    judge,
    run_ort,
)
from support_matrix.genai_cells import Tokens, _judge_tokens, judge_genai
from support_matrix.kinds import GENAI_KINDS, KINDS, PROMPT, Sources
from support_matrix.releases import RegistryError, Release, Runtime

from slc.targets.target import version_tuple


@pytest.mark.parametrize("name", tables.NAMES)
def test_the_readme_shows_what_was_found(name: str) -> None:
    readme = tables.README.read_text(encoding="utf-8")
    assert tables.in_readme(readme, name, tables.to_markdown(tables.read(name))) == readme


@pytest.mark.parametrize("name", tables.NAMES)
def test_what_is_stored_has_no_holes(name: str) -> None:
    document = tables.read(name)
    for row in document["rows"]:
        assert len(row["cells"]) == len(document["columns"])
        for status, why in row["cells"]:
            assert status in (RUNS, REFUSED, NO_WHEEL)
            assert status == RUNS or why


def test_every_kind_and_every_release_is_in() -> None:
    document = tables.read("onnxruntime")
    assert [row["name"] for row in document["rows"]] == [*KINDS]
    minors = [version_tuple(column["version"])[:2] for column in document["columns"]]
    assert minors == [(1, minor) for minor in range(17, minors[-1][1] + 1)]
    assert {row["title"].split(", ", 1)[1] for row in tables.read("genai")["rows"]} == {
        kind.title for kind in GENAI_KINDS.values()
    }


OFFERED, REFUSAL = Offer(Path("out")), Offer(None, "too old")


@pytest.mark.parametrize(
    ("offered", "ran", "wanted"),
    [
        (OFFERED, RUNS, RUNS),
        (OFFERED, FAILS, FAILS),
        (OFFERED, WRONG, WRONG),
        (REFUSAL, FAILS, REFUSED),
        (REFUSAL, WRONG, REFUSED),
        (REFUSAL, RUNS, TOO_STRICT),
    ],
)
def test_the_profile_is_held_to_what_happens(offered: Offer, ran: str, wanted: str) -> None:
    assert judge(offered, Cell(ran)).status == wanted


@pytest.mark.parametrize(
    ("genai", "onnxruntime", "last", "ran", "wanted"),
    [
        ("0.18.0", "1.32.0", True, RUNS, RUNS),
        ("0.18.0", "1.32.0", True, FAILS, FAILS),
        ("0.18.0", "1.30.0", True, FAILS, REFUSED),  # its own wheel asks for 1.31
        ("0.18.0", "1.30.0", True, RUNS, RUNS),
        ("0.18.0", "1.30.0", True, WRONG, WRONG),
        ("0.11.4", "1.32.0", True, FAILS, REFUSED),
        ("0.11.4", "1.32.0", True, RUNS, TOO_STRICT),
        ("0.11.4", "1.32.0", False, RUNS, RUNS),
        ("0.8.3", "1.32.0", False, FAILS, REFUSED),
        ("0.8.3", "1.32.0", False, RUNS, TOO_STRICT),
    ],
)
def test_genai_is_held_to_what_happens(
    genai: str, onnxruntime: str, last: bool, ran: str, wanted: str
) -> None:
    asks_for = "1.31.0" if genai == "0.18.0" else "1.22.0"
    here = Tokens(([], []), 0.0, last)
    assert judge_genai(genai, asks_for, onnxruntime, here, Cell(ran)).status == wanted


@pytest.mark.parametrize(
    ("got", "wanted"), [([4, 5], RUNS), ([4, 6], RUNS), ([4, 7], WRONG), ([], WRONG)]
)
def test_tokens(got: list[int], wanted: str) -> None:
    """6 and 5 are a tie within rounding, 7 is none."""
    logits = [np.eye(8, dtype=np.float32)[4], np.array([0, 0, 0, 0, 0, 1, 0.95, 0.5])]
    here = Tokens(([4, 5], logits), 0.05, True)
    assert _judge_tokens({"tokens": [*PROMPT, *got]}, here).status == wanted


def test_a_problem_ends_in_exit_1_and_a_release_without_a_wheel_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["make_matrix.py", "--print"])
    for status, code in ((RUNS, 0), (REFUSED, 0), (NO_WHEEL, 0), *((s, 1) for s in PROBLEMS)):
        row = {"name": "x", "title": "x", "cells": [[status, "why"]]}
        made = {"onnxruntime": {"corner": "", "columns": [{"version": "1.17.3", "python": None}]}}
        made["onnxruntime"]["rows"] = [row]
        monkeypatch.setattr(make_matrix, "make", lambda *_, made=made: made)
        assert make_matrix.main() == code
        assert ("profile is wrong" in capsys.readouterr().err) == bool(code)


def test_one_interpreter_gets_the_rows_that_it_can() -> None:
    old, new = Release("1.17.3", ("3.10", "3.11", "3.12")), Release("1.32.0", ("3.11", "3.13"))
    assert make_matrix.python_for(old, here=["3.13"]) is None
    assert make_matrix.python_for(new, here=["3.13"]) == "3.13"
    assert make_matrix.python_for(new, old, here=["3.10", "3.11", "3.13"]) == "3.11"
    cell = make_matrix.no_wheel(old, ["3.13"])
    assert cell == Cell(NO_WHEEL, "no wheel for Python 3.13: it has some for 3.10, 3.11, 3.12")


def test_the_last_patch_of_every_minor(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = {
        "3.10": "x (1.18.1)\nAvailable versions: 1.18.1, 1.18.0, 1.17.3, 1.16.0\n",
        "3.11": "x (1.19.0)\nAvailable versions: 1.19.0, 1.18.1, 1.17.10, 1.17.3\n",
    }

    def pip(*arguments: str) -> str:
        if arguments[-1] not in printed:
            raise RegistryError("no such")
        return printed[arguments[-1]]

    monkeypatch.setattr(releases, "pip", pip)
    assert releases.last_patches("x", "1.17") == [
        Release("1.17.10", ("3.11",)),
        Release("1.18.1", ("3.10", "3.11")),
        Release("1.19.0", ("3.11",)),
    ]


def test_no_index_is_an_error_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(arguments: argparse.Namespace, folder: Path) -> Any:
        return releases.last_patches("no-such-package-of-slc", "1.17")

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("sys.argv", ["make_matrix.py"])
    monkeypatch.setattr(make_matrix, "make", make)
    assert make_matrix.main() == 2
    assert "is there an index that pip can reach?" in capsys.readouterr().err


def test_markers_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match="matrix: genai"):
        tables.in_readme("no markers", "genai", "table")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bitmap_i4", "dense_int8", "slot"])
def test_a_wrong_kernel_would_be_found(name: str, tmp_path: Path) -> None:
    """On the onnxruntime that is here, by the script that runs elsewhere."""
    import onnxruntime

    artifacts = Artifacts(Sources(tmp_path), tmp_path)
    folder = artifacts.offer(name, KINDS[name], "1.23").folder
    assert folder is not None
    made = artifacts.reference(folder)
    site = Path(onnxruntime.__file__).parents[1]
    runtime = Runtime(sys.executable, (site,))
    assert run_ort(runtime, folder, made, tmp_path) == Cell(RUNS)
    wrong = with_scaled_inputs(folder, made.feeds, without_the_last_byte)
    far = wrong - made.here  # as far from what is asked for as from what runs
    other = Reference(made.feeds, wrong, [moved + far for moved in made.moved])
    assert run_ort(runtime, folder, other, tmp_path).status == WRONG
