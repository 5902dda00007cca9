"""Errors of a model that was not measured, against Gaussian weights that are."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from budget.models import mlp, table_source

from slc.compiler.budget import BudgetOptions, plan, to_json
from slc.compiler.budget.typical import masking_error, rounding_error, typical_menu
from slc.compiler.errors import BudgetError, RequestError
from slc.compiler.frontends.source import Source
from slc.compiler.structure.decompose import decompose
from slc.compiler.structure.dense_codes import round_matrix
from slc.targets import load

TARGET = load("x86-64-avx2")
W = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)


@pytest.mark.parametrize(("bits", "levels"), [(4, 8), (8, 127)])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_rounding_loses_what_is_said(bits: int, levels: int, group: int) -> None:
    codes = round_matrix(W, bits=bits, group=group)
    E = np.square(W - codes.matrix())
    # Of 4 bits the level opposite to the farthest is missing: what would lie there is cut.
    cut = codes.codes == 2**bits - 1
    kept = float(E[~cut].sum() / np.square(W).sum())
    assert kept == pytest.approx(rounding_error(levels, group), rel=0.03)
    assert float(E.sum() / np.square(W).sum()) < 1.35 * kept


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 0.5, 0.8, 1.0])
def test_masking_loses_what_is_said(density: float) -> None:
    count = round(density * W.size)
    squares = np.sort(np.square(W, dtype=np.float64).reshape(-1))
    lost = squares[: W.size - count].sum() / squares.sum()
    assert masking_error(density) == pytest.approx(lost, rel=0.02, abs=1e-12)


def span(source: Source, context: int) -> tuple[int, int]:
    """The smallest session and one that loses nothing."""
    options = BudgetOptions(context=context, mem_bytes=1)
    with pytest.raises(BudgetError) as error:
        plan(source, TARGET, options)
    wide = plan(source, TARGET, dataclasses.replace(options, mem_bytes=1 << 40))
    return error.value.smallest_bytes, wide.memory.total_bytes


def test_a_dense_model_gets_what_is_best_in_general() -> None:
    """Where all fits nothing is lost; then 8 bits, 4 bits, and S below what these take."""
    source = mlp((512, 1024, 1024, 512))
    found = []
    low, high = span(source, 8)
    for part in (1.0, 0.3, 0.1, 0.0):
        mem = int(low + part * (high - low))
        result = plan(source, TARGET, BudgetOptions(context=8, mem_bytes=mem))
        assert result.memory.total_bytes <= mem
        assert any("--calibrate FILE" in note for note in result.notes)
        found.append({(choice.encoding, choice.value_type) for choice in result.choices})
    assert found[0] == {("dense", "f32")}
    assert found[1] & {("int8", "i8"), ("full", "i8")}
    assert found[2] & {("int4", "i4"), ("full", "i4")}
    assert {encoding for encoding, _ in found[3]} & {"bitmap", "delta"}


def test_a_checkpoint_is_priced_by_its_own_figures(tmp_path: Path) -> None:
    source = dataclasses.replace(mlp((128, 256, 128)), workdir=tmp_path)
    checkpoint = decompose(source, tmp_path / "m.slr", method="salr", density=0.6, rank=8)
    menu = typical_menu(dataclasses.replace(source, checkpoint=checkpoint))
    for name in checkpoint.names:
        entry = checkpoint.entry(name)
        slices = {
            (o.nnz, o.rank): o.error
            for o in menu.linears[name].options if (o.encoding, o.value_type) == ("bitmap", "f16")
        }  # fmt: skip
        lost = checkpoint.error(name) / entry.scaled.weight
        assert slices[entry.nnz, entry.rank] == pytest.approx(lost / (1 - lost))
        assert slices[entry.nnz, 0] > slices[entry.nnz, entry.rank]
        assert slices[0, 0] > 100


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("context", [8, 64])
def test_tables_and_heads_are_chosen_too_and_the_json_keeps_its_schema(
    tied: bool, context: int
) -> None:
    source = table_source(3000, 256, tied=tied)
    text = resources.files("slc.compiler.budget").joinpath("plan.schema.json").read_text()
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    kinds = set()
    low, high = span(source, context)
    for part in (1.0, 0.4, 0.2, 0.0):
        options = BudgetOptions(context=context, mem_bytes=int(low + part * (high - low)))
        result = plan(source, TARGET, options, compare=True)
        table, _, head = result.choices
        kinds.add(table.encoding)
        assert head.shared_with == ("embed" if tied and head.encoding != "dense" else None)
        document = json.loads(json.dumps({"device": "x", **to_json(result)}, allow_nan=False))
        jsonschema.validate(document, schema)
    # Tied, the smallest session is not that of the smallest table: a packed head is a transient.
    assert kinds >= {"dense", "int8"} if tied else kinds == {"dense", "int8", "int4"}


def test_an_unknown_allocation_is_named() -> None:
    with pytest.raises(RequestError, match="'biggest', wanted one of auto"):
        plan(mlp((64, 64)), TARGET, BudgetOptions(mem_bytes=1 << 30, allocation="biggest"))


@pytest.mark.parametrize("kind", ["dense_int8", "dense_int4"])
def test_dense_allocations_store_all_alike(kind: str) -> None:
    source = mlp((256, 512, 256))
    options = BudgetOptions(context=8, mem_bytes=1 << 30, allocation=kind)
    result = plan(source, TARGET, options)
    assert {choice.encoding for choice in result.choices} == {kind.removeprefix("dense_")}
    assert result.allocation == kind
