from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from budget.models import mlp, table_source

from slc.compiler.budget import operation as op
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.cost import CostModel, decode_cost, linear_us, not_modelled
from slc.compiler.budget.encodings import Storage, dense_choice, int8_choice, sparse_choice
from slc.compiler.budget.memory import Workload
from slc.compiler.budget.operation import KernelCost, Machine, Operation
from slc.compiler.linear import Linear
from slc.targets import Target, TargetError, load
from slc.targets.kernel_figures import (
    FOLDER,
    KERNELS,
    class_figures,
    isa_class,
    kernels_source,
    problem,
)

CLASSES = sorted(path.stem for path in FOLDER.glob("*.toml"))
FIGURES = {"ns_per_position": 0.1, "ns_per_value": 0.2, "ns_per_row": 5.0, "us_per_call": 3.0}
TARGET = Target(
    name="plain", arch="x86_64", memory_bytes=1 << 33, reserve_bytes=0, cores=2,
    bandwidth_bytes_per_s=10_000_000_000, isa=("avx2", "fma", "f16c", "bmi2"),
    kernels={name: dict(FIGURES) for name in KERNELS if name != "runtime"}
    | {"runtime": {"us_per_token": 100.0}},
)  # fmt: skip
BIG = Linear("big", 4096, 1024, "w", True, ("node",))


def config(vocabulary: int = 64) -> dict[str, Any]:
    decoder = {
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_size": 32,
        "num_hidden_layers": 3, "inputs": {}, "outputs": {},
    }  # fmt: skip
    return {"model": {"vocab_size": vocabulary, "decoder": decoder}}


def test_a_call_takes_as_long_as_the_slower_of_bytes_and_instructions() -> None:
    kernel = KernelCost(FIGURES, Machine(bytes_per_us=1000.0, cores=2))
    # (1000·0.1 + 500·0.2 + 10·5) ns = 250 ns on one core, 0.125 µs on two
    work = Operation("x", 1000, 500, 10)
    assert kernel.us(work._replace(bytes=100)) == pytest.approx(3 + 0.125)
    assert kernel.us(work._replace(bytes=125)) == pytest.approx(3 + 0.125)
    assert kernel.us(work._replace(bytes=500)) == pytest.approx(3 + 0.5)
    assert kernel.us(work._replace(tasks=1)) == pytest.approx(3 + 0.25)
    assert kernel.us(work._replace(tasks=1.5)) == pytest.approx(3 + 0.25 / 1.5)
    assert kernel.us(work._replace(tasks=3)) == pytest.approx(3 + 0.25 / 1.5)  # two, then one
    assert kernel.us(Operation("x", 0, groups=7)) == pytest.approx(3)


@pytest.mark.parametrize("isa", CLASSES)
def test_more_is_never_cheaper(isa: str) -> None:
    target = dataclasses.replace(TARGET, kernels=class_figures(isa))
    for values in ("f16", "i8", "i4"):
        for level in (1, 4):
            storage = Storage(values, accuracy_level=level if values != "f16" else 1)
            found = [
                linear_us(BIG, sparse_choice(BIG, int(BIG.numel * d), 0, storage), target)
                for d in (0.2, 0.3, 0.5, 0.7, 0.9)
            ]
            assert found == sorted(found)
    choice = sparse_choice(BIG, BIG.numel // 2, 0, Storage("i8"))
    ranked = [sparse_choice(BIG, BIG.numel // 2, r, Storage("i8")) for r in (0, 1, 8, 9, 64, 128)]
    by_rank = [linear_us(BIG, c, target) for c in ranked]
    assert by_rank == sorted(by_rank)
    assert by_rank[1] > by_rank[0]
    sizes = [dataclasses.replace(choice, weight_bytes=n) for n in (1 << 20, 1 << 24, 1 << 28)]
    by_bytes = [linear_us(BIG, c, target) for c in sizes]
    assert by_bytes == sorted(by_bytes)
    assert by_bytes[-1] >= (1 << 28) / (target.bandwidth_bytes_per_s / 1e6)


def test_every_encoding_is_priced_by_its_own_kernel() -> None:
    numel = BIG.numel
    for choice, kernel in (
        (dense_choice(BIG, ""), "dense_f32"),
        (Choice("big", "int4", "i4", group=32, accuracy_level=4), "int4"),
        (Choice("big", "int4", "i4", group=32, accuracy_level=1), "int4_level1"),
        (Choice("big", "int8", "i8", group=64, accuracy_level=4), "int8"),
        (Choice("big", "int8", "i8", group=64, accuracy_level=1), "int8_level1"),
        (Choice("big", "bitmap", "f16", nnz=numel, accuracy_level=1), "bitmap_f16"),
        (Choice("big", "bitmap", "i8", nnz=numel, accuracy_level=4), "bitmap_i8"),
        (Choice("big", "bitmap", "i4", nnz=numel, accuracy_level=1), "bitmap_i4_level1"),
        (Choice("big", "delta", "f16", nnz=9), "delta_f16"),
        (Choice("big", "delta", "i8", nnz=9, accuracy_level=4), "delta_i8"),
    ):
        kernels = {**TARGET.kernels, kernel: {"us_per_call": 12345.0}}
        target = dataclasses.replace(TARGET, kernels=kernels)
        assert linear_us(BIG, choice, target) >= 12345, kernel
        assert linear_us(BIG, choice, TARGET) < 12345


def test_adapters_cost_two_calls_and_their_own_type() -> None:
    base = Choice("big", "bitmap", "f16", nnz=BIG.numel // 2, weight_bytes=1)
    bare = linear_us(BIG, base, TARGET)
    model = CostModel(TARGET)
    for adapter_type, itemsize in (("f16", 2), ("i8", 1)):
        kernel = f"adapter_{adapter_type}"
        both = model.us(op.down(kernel, 16, 1024, itemsize)) + model.us(
            op.up(kernel, 4096, 16, itemsize)
        )
        adapted = dataclasses.replace(base, rank=16, adapter_type=adapter_type)
        assert linear_us(BIG, adapted, TARGET) == pytest.approx(bare + both)
        alone = dataclasses.replace(base, adapter_type=adapter_type)
        assert linear_us(BIG, alone, TARGET, extra_rank=16) == pytest.approx(bare + both)


def test_a_weight_that_two_nodes_read_costs_twice_and_a_table_hardly_anything() -> None:
    choice = dense_choice(BIG, "")
    twice = dataclasses.replace(BIG, nodes=("a", "b"))
    assert linear_us(twice, choice, TARGET) == pytest.approx(2 * linear_us(BIG, choice, TARGET))
    table = dataclasses.replace(BIG, kind="embedding")
    assert linear_us(table, choice, TARGET) < linear_us(BIG, choice, TARGET) / 10
    assert linear_us(table, int8_choice(table), TARGET) < linear_us(BIG, choice, TARGET)


def test_the_lines_of_a_token_add_up() -> None:
    source = table_source(64, 64)
    choices = [dense_choice(linear, "") for linear in source.linears]
    workload = Workload(1, 512, config())
    plan = decode_cost(source.graph, source.linears, choices, workload, TARGET)
    assert plan is not None
    assert plan.context == 256
    assert plan.source == TARGET.sources.get("kernels", "")
    each = sum(linear_us(li, ch, TARGET) for li, ch in zip(source.linears, choices, strict=True))
    assert plan.us_of("Linears") == pytest.approx(each)
    assert plan.us_of("runtime") == 100
    # The graph spells no attention out: one for each of three layers.
    one = CostModel(TARGET).us(op.attention(4, 2, 32, 256, 4))
    assert plan.us_of("attention") == pytest.approx(3 * one)
    assert plan.us_per_token == pytest.approx(sum(line.us for line in plan.lines))
    assert plan.tokens_per_s == pytest.approx(1e6 / plan.us_per_token)
    assert plan.tokens_per_s_range is None  # no residuals in the profile


def test_the_range_comes_from_the_residuals() -> None:
    source = table_source(64, 64)
    choices = [dense_choice(linear, "") for linear in source.linears]
    wide = {k: {**v, "ratio_low": 0.8, "ratio_high": 1.25} for k, v in TARGET.kernels.items()}
    target = dataclasses.replace(TARGET, kernels=wide)
    plan = decode_cost(source.graph, source.linears, choices, Workload(1, 512, config()), target)
    assert plan is not None
    assert plan.tokens_per_s_range == pytest.approx(
        (plan.tokens_per_s * 0.8, plan.tokens_per_s * 1.25)
    )


def two_that_read_one_x() -> tuple[ir.Model, list[Linear]]:
    source = mlp((64, 64, 64), bias=True)
    second = next(node for node in source.graph.graph if node.name == "matmul1")
    second.replace_input_with(0, source.graph.graph.inputs[0])
    return source.graph, source.linears


def test_siblings_share_a_down_and_a_sparse_bias_is_no_node() -> None:
    model, linears = two_that_read_one_x()
    workload = Workload(1, 16, config())
    dense = [dense_choice(linear, "") for linear in linears]
    sparse = [
        Choice(li.name, "bitmap", "f16", nnz=2048, rank=8, weight_bytes=9999) for li in linears
    ]
    cheap = decode_cost(model, linears, dense, workload, TARGET)
    plan = decode_cost(model, linears, sparse, workload, TARGET, {"layer0": 4})
    assert plan is not None
    assert cheap is not None
    us = CostModel(TARGET).us
    wanted = us(op.down("adapter_f16", 8 + 8 + 4, 64, 2))
    wanted += us(op.up("adapter_f16", 64, 12, 2)) + us(op.up("adapter_f16", 64, 8, 2))
    assert plan.us_of("adapters") == pytest.approx(wanted)
    assert cheap.us_of("adapters") == 0
    gone = cheap.us_of("other nodes") - plan.us_of("other nodes")
    assert gone == pytest.approx(2 * us(op.node(64)))


def test_what_is_no_decoder_has_a_reason_instead() -> None:
    source = mlp((64, 64))
    choices = [dense_choice(linear, "") for linear in source.linears]
    for workload, reason in (
        (Workload(1, 128), "only decoders"),
        (Workload(4, 128, config()), "batch of 4"),
    ):
        assert decode_cost(source.graph, source.linears, choices, workload, TARGET) is None
        assert reason in str(not_modelled(workload))
    assert not_modelled(Workload(1, 128, config())) is None


@pytest.mark.parametrize(
    ("kernels", "named"),
    [
        ({"bitmap_f61": {}}, "'bitmap_f61'; did you mean bitmap_f16"),
        ({"gpu": {}}, "'gpu'; known are bitmap_f16"),
        ({"int8": {"ns_per_positon": 1.0}}, "int8.ns_per_positon; did you mean ns_per_position"),
        ({"int8": {"us_per_call": 0}}, "int8.us_per_call = 0, wanted a positive number"),
        ({"int8": {"us_per_call": -1.0}}, "int8.us_per_call"),
        ({"int8": {"us_per_call": float("inf")}}, "int8.us_per_call"),
        ({"int8": {"us_per_call": float("nan")}}, "int8.us_per_call"),
        ({"int8": {"us_per_call": True}}, "int8.us_per_call"),
        ({"int8": {"us_per_call": "3"}}, "int8.us_per_call"),
        ({"int8": {"ratio_low": 1.2, "ratio_high": 1.1}}, "int8.ratio_low above"),
        ({"int8": 3}, "int8 = 3"),
        (3, "must be tables"),
    ],
)
def test_a_wrong_figure_is_refused_by_name(kernels: Any, named: str) -> None:
    with pytest.raises(TargetError) as error:
        dataclasses.replace(TARGET, kernels=kernels)
    assert "device 'plain': kernels" in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_profile_in_a_file_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('inherits = "x86-64-avx2"\n[kernels.int4]\nus_per_cal = 1\n')
    with pytest.raises(TargetError, match=r"int4\.us_per_cal; did you mean us_per_call"):
        load(path)
    path.write_text('inherits = "x86-64-avx2"\n[kernels.int4]\nus_per_call = 777\n')
    mine = load(path)
    choice = Choice("big", "int4", "i4", group=32, accuracy_level=4)
    assert linear_us(BIG, choice, mine) > linear_us(BIG, choice, load("x86-64-avx2")) + 500
    (tmp_path / "child.toml").write_text(
        'inherits = "./mine.toml"\ncores = 4\n[kernels.int8]\nus_per_call = 88\n'
    )
    child = load(tmp_path / "child.toml")
    assert child.kernels == {"int4": {"us_per_call": 777}, "int8": {"us_per_call": 88}}
    assert child.sources["kernels"] == "given in child.toml"
    other = Choice("big", "int8", "i8", group=32, accuracy_level=4)
    assert linear_us(BIG, other, mine) == linear_us(BIG, other, load("x86-64-avx2"))


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_all_figures_and_says_where_from(name: str) -> None:
    figures = class_figures(name)
    assert set(figures) == set(KERNELS)
    assert problem(figures) is None


def test_the_source_names_the_profile_the_class_or_both() -> None:
    plain = dataclasses.replace(TARGET, kernels={})
    assert kernels_source(plain).startswith("the class avx2")
    some = dataclasses.replace(
        TARGET, kernels={"int4": {"us_per_call": 1.0}}, sources={"kernels": "a stopwatch"}
    )
    assert kernels_source(some).startswith("a stopwatch; the others from the class avx2")
    every = dataclasses.replace(TARGET, sources={"kernels": "a stopwatch"})
    assert kernels_source(every) == "a stopwatch"
    assert "not verified" in kernels_source(load("raspberry-pi-5"))


def test_classes_follow_what_the_library_dispatches_on() -> None:
    assert isa_class(load("x86-64-avx512")) == "avx512"
    assert isa_class(load("x86-64-avx2")) == "avx2"
    assert isa_class(load("raspberry-pi-5")) == "dotprod"
    assert isa_class(load("jetson-xavier-nx")) == "neon"
    assert isa_class(dataclasses.replace(TARGET, isa=())) == "generic"
