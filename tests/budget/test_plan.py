from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from budget.models import mlp, table_source

from slc.compiler.artifact.writer import PAGE_BYTES
from slc.compiler.budget import BudgetOptions, plan, to_json
from slc.compiler.budget.memory import RUNTIME_BYTES
from slc.compiler.budget.sizes import parse_size
from slc.compiler.errors import BudgetError, RequestError
from slc.compiler.frontends.source import Source
from slc.compiler.structure.decompose import decompose
from slc.targets import load

TARGET = load("x86-64-avx2")
OLD = load("jetson-xavier-nx")


@pytest.fixture
def source() -> Source:
    return mlp((512, 1024, 512, 1000))


def test_without_a_wish_density_and_rank_are_the_defaults_and_said(source: Source) -> None:
    result = plan(source, TARGET, BudgetOptions(context=8))
    assert {(c.encoding, c.value_type, c.rank) for c in result.choices} == {("bitmap", "f16", 32)}
    assert all(abs(c.density - 0.5) < 1e-5 for c in result.choices)
    assert any("density 0.5, rank 32" in note for note in result.notes)
    assert result.budget_bytes is None
    assert result.allowed_bytes == TARGET.usable_bytes


def test_lines_add_up_and_count_each_choice_exactly(source: Source) -> None:
    result = plan(source, TARGET, BudgetOptions(density=0.3, rank=8, context=8))
    lines = {line.name: line.bytes for line in result.memory.lines}
    assert sum(lines.values()) == result.memory.total_bytes
    assert lines["weights of Linears"] == sum(c.weight_bytes for c in result.choices)
    biases = sum(-(-4 * n // 64) * 64 for n in (1024, 512, 1000))
    assert lines["other weights"] == biases
    assert lines["runtime"] > RUNTIME_BYTES
    assert all(line.reckoned for line in result.memory.lines)


@pytest.mark.parametrize("values", ["f16", "i8", "i4"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.2, 0.5, 0.9, 1.0])
def test_mem_is_never_exceeded_and_used_to_99_percent(
    source: Source, values: str, share: float
) -> None:
    options = BudgetOptions(values=values, context=64)
    least = plan(source, TARGET, dataclasses.replace(options, density=0.0, rank=0))
    most = plan(source, TARGET, dataclasses.replace(options, density=1.0, rank=0))
    low, high = least.memory.total_bytes, most.memory.total_bytes
    mem = int(low + share * (high - low))
    result = plan(source, TARGET, dataclasses.replace(options, mem_bytes=mem))
    assert result.memory.total_bytes <= mem
    weights = sum(c.weight_bytes for c in result.choices)
    full = sum(c.weight_bytes for c in most.choices)
    assert weights == full or weights >= 0.99 * (weights + mem - result.memory.total_bytes)


@pytest.mark.parametrize(
    ("values", "asked", "level"),
    [("auto", None, 1), ("f16", 1, 1), ("i8", None, 4), ("i4", None, 4), ("i4", 1, 1)],
)
def test_level_follows_the_values_unless_it_is_given(
    source: Source, values: str, asked: int | None, level: int
) -> None:
    options = BudgetOptions(values=values, accuracy_level=asked, context=8)
    result = plan(source, TARGET, options)
    assert result.accuracy_level == level
    assert {c.accuracy_level for c in result.choices} == {level}
    wanted = ("i4", "planes") if values == "i4" else (values.replace("auto", "f16"), "rows")
    assert {(c.value_type, c.layout) for c in result.choices} == {wanted}


def test_int8_activations_need_less_scratch(source: Source) -> None:
    def scratch(**options: Any) -> int:
        return plan(source, TARGET, BudgetOptions(context=100, **options)).memory.bytes_of(
            "operator scratch"
        )

    # The widest X has 1024 columns: a float each; q and |q|, and 8 bytes for every 64.
    assert scratch(values="f16") == scratch(values="i8", accuracy_level=1) == 100 * 4 * 1024
    assert scratch(values="i8") == scratch(values="i4") == 100 * (2 * 1024 + 8 * 16)
    assert scratch(values="i8", density=0.02, rank=8) == 112 * 4 * 1024  # tiles of 16 rows


def test_too_small_says_what_would_do_and_that_does(source: Source) -> None:
    with pytest.raises(BudgetError) as error:
        plan(source, TARGET, BudgetOptions(mem_bytes=5_000_000, context=64))
    sentence = str(error.value)
    assert "got 5.00 MB" in sentence
    assert "runtime" in sentence
    suggested = parse_size(sentence.split("pass --mem ")[1].split()[0])
    assert error.value.smallest_bytes <= suggested <= error.value.smallest_bytes * 1.01
    for mem in (error.value.smallest_bytes, suggested):
        result = plan(source, TARGET, BudgetOptions(mem_bytes=mem, context=64))
        assert result.memory.total_bytes <= mem
    with pytest.raises(BudgetError):
        plan(source, TARGET, BudgetOptions(mem_bytes=error.value.smallest_bytes - 1, context=64))


def test_by_hand_is_held_against_mem_and_the_device(source: Source) -> None:
    asked = BudgetOptions(density=0.5, rank=8, context=64)
    need = plan(source, TARGET, asked).memory.total_bytes
    assert plan(source, TARGET, dataclasses.replace(asked, mem_bytes=need)).budget_bytes == need
    with pytest.raises(BudgetError, match="lower --density or --rank"):
        plan(source, TARGET, dataclasses.replace(asked, mem_bytes=need - 1))
    by_default = dataclasses.replace(asked, density=None, rank=None)
    small = dataclasses.replace(TARGET, memory_bytes=need, reserve_bytes=1000)
    found = plan(source, small, by_default)
    assert found.memory.total_bytes <= small.usable_bytes < need
    assert found.allocation == "best"
    assert "no --mem was given" in found.notes[0]
    assert not any("what is missing" in note for note in found.notes)
    tiny = dataclasses.replace(TARGET, memory_bytes=2_000_000, reserve_bytes=1000)
    for options in (by_default, asked):
        with pytest.raises(BudgetError, match="usable memory of x86-64-avx2"):
            plan(source, tiny, options)


@pytest.mark.parametrize(
    ("field", "value", "option"),
    [
        ("density", 1.01, "--density"),
        ("density", -0.1, "--density"),
        ("density", float("nan"), "--density"),
        ("rank", -1, "--rank"),
        ("rank", 1.5, "--rank"),
        ("values", "i5", "--values"),
        ("accuracy_level", 2, "--accuracy-level"),
        ("accuracy_level", 4, "--accuracy-level"),  # of f16, the default
        ("batch", 0, "--batch"),
        ("group", 32, "--group"),
        ("group", 100, "--group"),
        ("group", (1 << 20) + 64, "--group"),
        ("context", 0, "--context"),
        ("mem_bytes", 0, "--mem"),
        ("head", "f16", "head"),
    ],
)
def test_a_wrong_option_is_named(source: Source, field: str, value: object, option: str) -> None:
    options = dataclasses.replace(BudgetOptions(), **{field: value})
    with pytest.raises(RequestError, match=f"^{option}: got .*, wanted"):
        plan(source, TARGET, options)


def test_more_than_the_checkpoint_holds_is_said(tmp_path: Path) -> None:
    source = mlp((64, 128, 64))
    made = decompose(source, tmp_path / "m.slr", method="salr", density=0.5, rank=4)
    held = dataclasses.replace(source, checkpoint=made)
    notes = plan(held, TARGET, BudgetOptions(density=1.0, rank=8, context=8)).notes
    assert f"asked for density 1, {len(made.names)} Linears hold 0.5" in notes
    assert f"asked for rank 8, {len(made.names)} Linears hold 4" in notes
    notes = plan(held, TARGET, BudgetOptions(density=0.5, rank=4, context=8)).notes
    assert not any("asked for" in note for note in notes)


def test_context_is_at_most_the_models(tmp_path: Path, source: Source) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 514}))
    source.hf_folder = tmp_path
    assert plan(source, TARGET, BudgetOptions()).context == 512
    assert plan(source, TARGET, BudgetOptions(context=512)).context == 512
    with pytest.raises(RequestError, match=r"--context: got 513, wanted at most the model's 512"):
        plan(source, TARGET, BudgetOptions(context=513))
    source.genai_config = {"model": {"context_length": 300}}
    with pytest.raises(RequestError, match="300 tokens"):
        plan(source, TARGET, BudgetOptions(context=512))


def test_more_batch_or_context_takes_more(source: Source) -> None:
    def total(**more: int) -> int:
        asked = BudgetOptions(density=0.5, rank=8, **more)
        return plan(source, TARGET, asked).memory.total_bytes

    assert total(context=64) < total(context=128) < total(context=128, batch=2)


def test_a_head_of_8_bits_needs_a_recent_runtime() -> None:
    source = table_source(2000, 64)
    asked = BudgetOptions(head="int8", context=8)
    new = {c.linear: c for c in plan(source, TARGET, asked).choices}
    old = {c.linear: c for c in plan(source, OLD, asked).choices}
    assert (new["head"].encoding, old["head"].encoding) == ("int8", "bitmap")
    assert new["embed"].encoding == old["embed"].encoding == "int8"


def test_a_tied_table_is_counted_once() -> None:
    tied, apart = table_source(2000, 64, tied=True), table_source(2000, 64)
    asked = BudgetOptions(head="int8", context=8)
    shared = {c.linear: c for c in plan(tied, TARGET, asked).choices}
    twice = {c.linear: c for c in plan(apart, TARGET, asked).choices}
    assert shared["head"].shared_with == "embed"
    assert shared["head"].weight_bytes == 0
    assert twice["head"].weight_bytes == twice["embed"].weight_bytes > 0


def test_json_is_json(source: Source) -> None:
    result = plan(source, TARGET, BudgetOptions(context=8))
    document = json.loads(json.dumps(to_json(result)))
    assert document["memory"]["total_bytes"] == result.memory.total_bytes
    assert len(document["choices"]) == 3


def test_task_adapters_have_pages_of_their_own(source: Source) -> None:
    """A static adapter joins an f16 residual adapter; else its A and B are two tensors more."""
    extra = {linear.name: 8 for linear in source.linears}
    for rank, kind, more in [(0, "f16", 2), (4, "f16", 0), (4, "i8", 2)]:
        options = BudgetOptions(density=0.3, rank=rank, adapter_values=kind, context=8)
        with_tasks = dataclasses.replace(options, extra_adapter_ranks=extra)
        bare, both = (plan(source, TARGET, one).memory for one in (options, with_tasks))
        added = both.bytes_of("page ends") - bare.bytes_of("page ends")
        assert added == more * PAGE_BYTES * len(extra)
