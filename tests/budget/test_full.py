"""Blobs of every weight: offered beside MatMulNBits, and what they hold is what the menu has."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from budget.models import mlp, table_source

from slc.compiler import export, verify
from slc.compiler import plan as plan_model
from slc.compiler.artifact.writer import PAGE_BYTES, write_model
from slc.compiler.budget import BudgetOptions, plan
from slc.compiler.budget.candidates import Offer
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.encodings import FLOAT_LEVEL, INT8_LEVEL, Storage, full_choice
from slc.compiler.budget.memory import resident_bytes
from slc.compiler.budget.menu_errors import F16_PART, choice_error
from slc.compiler.budget.typical import typical_menu
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.weights import weight_array
from slc.compiler.passes.lower_linear import LowerLinear
from slc.compiler.passes.lowering import Lowering
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.menu import Menu
from slc.ops import bitmap
from slc.targets import load

TARGET = load("x86-64-avx2")
Priced = tuple[Source, StructuredCheckpoint, Menu]


def full_choices(source: Source, menu: Menu, level: int = INT8_LEVEL) -> list[Choice]:
    """All that are offered, of all Linears."""
    items = Offer(source, TARGET, menu, Storage("f16", accuracy_level=level), {}, {}).items()
    return [
        choice for item in items for candidate in item.candidates
        for choice in candidate.choices if choice.encoding == "full"
    ]  # fmt: skip


def decoded(source: Source, menu: Menu, choice: Choice) -> np.ndarray:
    """The weight that an export stores."""
    model = source.graph.clone()
    LowerLinear(
        Lowering(
            linears=source.linears, choices={choice.linear: choice}, checkpoint=None,
            weight=lambda linear: weight_array(source, linear), menu=menu,
        )
    )(model)  # fmt: skip
    tensor = model.graph.initializers[f"{choice.linear}.packed"].const_value
    assert tensor is not None
    blob = tensor.numpy()
    assert blob.nbytes == tensor.nbytes  # promised before it was made
    return np.asarray(bitmap.decode(blob))


def test_what_is_stored_is_what_the_menu_has(priced: Priced) -> None:
    source, _, menu = priced
    linear = source.linears[1]
    choices = [c for c in full_choices(source, menu) if c.linear == linear.name and not c.rank]
    assert {(c.value_type, c.group) for c in choices} == {
        ("f16", 0), ("i8", 128), ("i4", 64), ("i4", 128),
    }  # fmt: skip
    W = weight_array(source, linear)
    for choice in choices:
        got = decoded(source, menu, choice)
        if choice.value_type == "f16":
            np.testing.assert_array_equal(got, W.astype(np.float16).astype(np.float32))
            continue
        encoding = "int8" if choice.value_type == "i8" else "int4"
        codes = menu.codes(linear.name, encoding, choice.group, linear.K)
        assert codes is not None
        # The same integers; scales are rounded to f16.
        np.testing.assert_allclose(got, codes.matrix(), rtol=2**-11)


def test_errors_are_those_of_the_same_codes(priced: Priced) -> None:
    source, _, menu = priced
    for choice in full_choices(source, menu):
        row = menu.linears[choice.linear]
        like = {"i8": "int8", "i4": "int4", "f16": "int8"}[choice.value_type]
        part = F16_PART if choice.value_type == "f16" else 1.0
        errors = [
            o.error for o in row.options if o.encoding == like
            and (choice.value_type != "i4" or (o.group, o.rank) == (choice.group, choice.rank))
        ]  # fmt: skip
        lost = part * errors[0] + (row.activation_error if choice.accuracy_level == 4 else 0.0)
        assert choice_error(menu, choice) == pytest.approx(row.sensitivity * lost)


def test_f16_loses_no_more_than_it_is_said_to(priced: Priced) -> None:
    source, _, menu = priced
    for linear in source.linears:
        W = weight_array(source, linear)
        codes = menu.codes(linear.name, "int8", 128 if linear.K % 128 == 0 else 64, linear.K)
        assert codes is not None
        lost = np.square(W - W.astype(np.float16).astype(np.float32)).sum()
        assert lost <= F16_PART * np.square(W - codes.matrix()).sum()


def test_a_blob_takes_in_memory_what_it_takes_in_the_file(priced: Priced) -> None:
    source, _, menu = priced
    by_name = {linear.name: linear for linear in source.linears}
    for choice in full_choices(source, menu):
        beyond = resident_bytes(by_name[choice.linear], choice) - choice.weight_bytes
        assert choice.rank < 64  # the scales of A lie in model.onnx
        adapter = {"f16": 2, "i8": 3}[choice.adapter_type] if choice.rank else 0
        assert beyond == (1 + adapter) * PAGE_BYTES  # each tensor ends within one


def test_with_float_activations_too(priced: Priced) -> None:
    """Where MatMulNBits is not offered, because it may decode whole matrices."""
    source, _, menu = priced
    assert {c.accuracy_level for c in full_choices(source, menu, FLOAT_LEVEL)} == {FLOAT_LEVEL}
    wide = BudgetOptions(context=32, mem_bytes=1 << 40, accuracy_level=1)
    most = plan(source, TARGET, wide, menu)
    tight = dataclasses.replace(wide, mem_bytes=most.memory.total_bytes - 200_000)
    found = {choice.encoding for choice in plan(source, TARGET, tight, menu).choices}
    assert "full" in found


def test_tables_and_what_is_tied_to_them_have_none() -> None:
    source = table_source(300, 128, tied=True)
    items = Offer(
        source, TARGET, typical_menu(source), Storage("f16", accuracy_level=INT8_LEVEL), {},
        {li.name: t.name for li in source.linears for t in source.linears
         if li.kind == "lm_head" and t.kind == "embedding"},
    ).items()  # fmt: skip
    encodings = {
        linear.kind: {c.choices[i].encoding for c in item.candidates}
        for item in items for i, linear in enumerate(item.linears)
    }  # fmt: skip
    assert "full" not in encodings["embedding"] | encodings["lm_head"]
    assert "full" in encodings["linear"]


def test_an_artifact_with_them_verifies(tmp_path: Path) -> None:
    write_model(mlp((128, 512, 384, 128)).graph, tmp_path)
    model = tmp_path / "model.onnx"
    wide, _ = plan_model(model, mem="1GB", context=32, device="x86-64-avx2")
    mem = wide.memory.total_bytes - 1_000_000
    out = export(model, tmp_path / "out", mem=mem, context=32)
    linears = json.loads((out / "manifest.json").read_text())["linears"]
    assert "full" in {row["choice"]["encoding"] for row in linears}
    assert verify(out, memory=False).passed


def test_bytes_are_exact() -> None:
    linear = mlp((200, 64)).linears[0]
    # 200 columns: four runs of 64, 64, 64 and 8 codes; header, starts and scales, guard.
    i4, i8 = full_choice(linear, "i4", 64), full_choice(linear, "i8", 64)
    assert i8.weight_bytes - i4.weight_bytes == pytest.approx(64 * 100, abs=192)
    assert i4.density == 1.0
    assert not i4.sparse
    assert i4.packed
