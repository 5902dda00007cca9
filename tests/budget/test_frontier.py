"""The spectrum of a small checkpoint, as points and as a page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from budget.models import mlp
from report.reader import Reader

from slc.compiler.artifact.schema import load_schema
from slc.compiler.budget import BudgetOptions
from slc.compiler.budget.frontier import Point, frontier, point_json
from slc.compiler.budget.typical import typical_menu
from slc.compiler.errors import BudgetError, RequestError
from slc.compiler.frontends.source import Source
from slc.compiler.report.frontier_page import page
from slc.compiler.report.plot import WIDE
from slc.compiler.structure.decompose import decompose
from slc.targets import load

TARGET = load("x86-64-avx2")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("frontier")
    source = dataclasses.replace(mlp((256, 512, 384, 256)), workdir=folder)
    checkpoint = decompose(source, folder / "m.slr", method="salr", density=0.6, rank=16)
    return dataclasses.replace(source, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def points(source: Source) -> list[Point]:
    return frontier(
        source, TARGET, BudgetOptions(context=32), typical_menu(source), count=6
    )  # fmt: skip


def test_budgets_rise_and_errors_fall(points: list[Point]) -> None:
    budgets = [point.mem_bytes for point in points]
    errors = [point.error for point in points]
    assert len(points) == 6
    assert budgets == sorted(budgets)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]
    for point in points:
        assert point.session_bytes <= point.mem_bytes
        assert sum(point.stored.values()) == 3
        for one in point.alternatives:
            if one.fits:
                assert one.session_bytes <= point.mem_bytes
    # At the widest budget every alternative fits.
    assert all(one.fits for one in points[-1].alternatives)


def test_the_page_stands_alone_and_is_well_formed(points: list[Point]) -> None:
    text = page(
        points, model="a<b>.slr", device="x", unit="relative squared error", calibration="typical"
    )  # fmt: skip
    assert "a&lt;b&gt;.slr" in text
    assert "<b>" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert "<script" not in text
    assert Reader(text).links == ["data:,"]
    assert text.count("<tr>") == 1 + len(points)
    # A mark for each of our points at least, none outside the picture.
    marks = [m.split("'")[0] for m in text.split("<circle cx='")[1:]]
    assert len(marks) >= len(points)
    assert all(0 <= float(m) <= WIDE for m in marks)


def test_points_are_json(points: list[Point]) -> None:
    rows = json.loads(json.dumps([point_json(point) for point in points], allow_nan=False))
    assert set(rows[0]["alternatives"]) == {"uniform", "hpa", "dense_int8", "dense_int4"}
    assert "choices" not in rows[0]["alternatives"]["hpa"]
    assert np.isfinite([row["error"] for row in rows]).all()
    schema = load_schema("slc.compiler.budget", "frontier.schema.json")
    jsonschema.validate({"device": "x", "page": "x.html", "points": rows}, schema)


def test_one_budget_is_no_spectrum(tmp_path: Path) -> None:
    source = mlp((64, 64))
    with pytest.raises(RequestError, match="--budgets: got 1, wanted at least 2"):
        frontier(source, TARGET, BudgetOptions(), typical_menu(source), count=1)


def test_a_part_of_the_spectrum(points: list[Point], source: Source) -> None:
    low, high = points[1].mem_bytes, points[3].mem_bytes
    part = frontier(
        source, TARGET, BudgetOptions(context=32), typical_menu(source), count=3, low=low, high=high
    )
    assert part[::2] == points[1:4:2]
    middle, wanted = part[1], points[2]
    assert abs(middle.mem_bytes - wanted.mem_bytes) <= 1  # halfway between rounded ends
    assert abs(middle.error - wanted.error) <= 0.01 * wanted.error


def test_a_span_that_is_none_is_refused(points: list[Point], source: Source) -> None:
    options, menu = BudgetOptions(context=32), typical_menu(source)
    first, last = points[0].mem_bytes, points[-1].mem_bytes
    with pytest.raises(RequestError, match=r"--from .* --to .* wanted a last budget above"):
        frontier(source, TARGET, options, menu, low=last, high=first)
    with pytest.raises(BudgetError, match="the smallest that fits is"):
        frontier(source, TARGET, options, menu, low=first // 2)
