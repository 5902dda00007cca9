"""The menu of a small model, and the budgets that are divided by it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from budget.models import mlp

from slc.compiler.budget import BudgetOptions, plan, to_json
from slc.compiler.budget.candidates import Offer
from slc.compiler.budget.encodings import Storage
from slc.compiler.budget.menu_errors import choice_error, predicted_error
from slc.compiler.errors import BudgetError, ModelError, RequestError
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.weights import weight_array
from slc.compiler.structure.calibration import activation_moments
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decompose import decompose
from slc.compiler.structure.dense_codes import round_matrix
from slc.compiler.structure.layer_error import DAMPING, LayerError
from slc.compiler.structure.menu import Menu, MenuOption, open_menu
from slc.compiler.structure.menu_maker import make_menu
from slc.ops.bitmap_sparse_gemm import rounded_activations
from slc.targets import load

TARGET = load("x86-64-avx2")


def options_of(menu: Menu, name: str, encoding: str) -> list[MenuOption]:
    return [o for o in menu.linears[name].options if o.encoding == encoding]


def test_the_menu_is_read_back_as_it_was_made(
    priced: tuple[Source, StructuredCheckpoint, Menu],
) -> None:
    source, checkpoint, menu = priced
    again = open_menu(checkpoint.path)
    assert again is not None
    assert again.linears == menu.linears
    assert menu.calibration == "measured with inputs.npz"
    assert list(menu.linears) == [linear.name for linear in source.linears]


def test_more_bits_values_and_rank_never_lose_more(
    priced: tuple[Source, StructuredCheckpoint, Menu],
) -> None:
    source, checkpoint, menu = priced
    for linear in source.linears:
        (int8,) = options_of(menu, linear.name, "int8")
        int4 = {(o.group, o.rank): o.error for o in options_of(menu, linear.name, "int4")}
        assert int8.error < int4[32, 0] < int4[128, 0]
        assert int4[64, 32] < int4[64, 8] < int4[64, 0]
        full = checkpoint.entry(linear.name)
        slices = {
            (o.nnz, o.rank): o.error
            for o in options_of(menu, linear.name, "bitmap") if o.value_type == "f16"
        }  # fmt: skip
        nnz = sorted({n for n, _ in slices})
        assert nnz[0] == 0
        assert nnz[-1] == full.nnz
        at_full_rank = [slices[n, full.rank] for n in nnz]
        assert at_full_rank == sorted(at_full_rank, reverse=True)
        assert slices[full.nnz, full.rank] < slices[full.nnz, 0]


def test_errors_are_those_of_the_weights_that_are_stored(
    priced: tuple[Source, StructuredCheckpoint, Menu], calibration: Path
) -> None:
    source, _, menu = priced
    linear = source.linears[1]
    H = activation_moments(source, calibration, [linear])[linear.name].judge
    W = weight_array(source, linear)
    codes = menu.codes(linear.name, "int4", 64, linear.K)
    correction = menu.correction(linear.name, 16)
    assert codes is not None
    assert correction is not None
    A, B = correction
    for rank, E in ((0, W - codes.matrix()), (16, W - codes.matrix() - B @ A)):
        (option,) = [
            o for o in options_of(menu, linear.name, "int4") if (o.group, o.rank) == (64, rank)
        ]
        exact = float(np.trace(E @ H @ E.T))
        # Damping adds its part of the diagonal; the correction is stored in int8: under 1 % of it.
        extra = DAMPING * float((np.square(E) @ np.diag(H)).sum())
        slack = 0.0 if rank == 0 else 0.1 * exact
        assert exact * (1 - 1e-3) - slack <= option.error <= (exact + extra) * 1.001 + 2 * slack


def test_activations_in_int8_lose_what_is_said(
    priced: tuple[Source, StructuredCheckpoint, Menu], calibration: Path
) -> None:
    source, _, menu = priced
    linear = source.linears[0]  # reads the calibration inputs themselves
    X = np.load(calibration)["x"].reshape(-1, linear.K)
    W = weight_array(source, linear)
    lost = (X - rounded_activations(X)).astype(np.float64) @ W.T
    measured = float(np.square(lost).sum(axis=1).mean())
    # 256 rows; the cross terms that the sum leaves out are of zero mean. One row's error varies by
    # its 128 columns, of which few dominate: a relative standard deviation below 1, and 1/16 of
    # that for the mean of all rows.
    assert menu.linears[linear.name].activation_error == pytest.approx(measured, rel=4 / 16)


def test_a_sketch_is_as_close_as_its_width_says() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 1500)).astype(np.float32) * rng.lognormal(0, 1, 1500)
    H = (X.T @ X / len(X)).astype(np.float32)
    E = rng.standard_normal((64, 1500)).astype(np.float32)
    exact = float(np.sum((E @ H) * E, dtype=np.float64))
    extra = DAMPING * float((np.square(E) @ np.diag(H)).sum())
    # 4 standard deviations of one row, sqrt(2/512) each: 64 rows are no worse.
    assert LayerError(H).of(E) == pytest.approx(exact + extra, rel=4 * np.sqrt(2 / 512))


def test_sensitivity_predicts_the_output_of_a_linear_model(
    tmp_path: Path, calibration: Path
) -> None:
    """Without Relu between, one Linear: the output's squared error is the layer's, scaled."""
    source = dataclasses.replace(mlp((128, 96), bias=False), workdir=tmp_path)
    checkpoint = decompose(source, tmp_path / "m.slr", method="salr", density=0.5, rank=4)
    menu = make_menu(source, checkpoint, calibration, calibration="x", jobs=1)
    (row,) = menu.linears.values()
    x = np.load(calibration)["x"].reshape(-1, 128)
    linear = source.linears[0]
    W = weight_array(source, linear)
    codes = menu.codes(linear.name, "int4", 64, linear.K)
    assert codes is not None
    y, got = np.maximum(x @ W.T, 0), np.maximum(x @ codes.matrix().T, 0)
    output_error = float(np.square(got - y).sum() / np.square(y).sum())
    (option,) = [o for o in row.options if (o.encoding, o.group, o.rank) == ("int4", 64, 0)]
    # The sum over feeds of relative errors weighs each feed by its rows, not by its norm.
    assert row.sensitivity * option.error == pytest.approx(output_error, rel=0.1)


def sessions(source: Source, menu: Menu) -> tuple[int, int]:
    """Bytes of the smallest plan and of one that loses nothing."""
    options = BudgetOptions(context=32, mem_bytes=1 << 40)
    most = plan(source, TARGET, options, menu).memory.total_bytes
    with pytest.raises(BudgetError) as error:
        plan(source, TARGET, dataclasses.replace(options, mem_bytes=1000), menu)
    return error.value.smallest_bytes, most


def test_budgets_are_kept_used_and_never_worth_less_when_larger(
    priced: tuple[Source, StructuredCheckpoint, Menu],
) -> None:
    source, _, menu = priced
    low, high = sessions(source, menu)
    errors = []
    for mem in np.linspace(low, high, 17).astype(int):
        result = plan(source, TARGET, BudgetOptions(context=32, mem_bytes=int(mem)), menu)
        assert result.allocation == "best"
        assert result.memory.total_bytes <= mem
        assert result.error is not None
        assert result.error_bound is not None
        assert result.error_bound <= result.error
        assert result.error == pytest.approx(predicted_error(menu, result.choices), rel=1e-6)
        errors.append(result.error)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 100 * errors[-2]
    assert errors[-1] == 0


def test_never_worse_than_what_it_is_compared_with(
    priced: tuple[Source, StructuredCheckpoint, Menu],
) -> None:
    source, checkpoint, menu = priced
    sliced = dataclasses.replace(source, checkpoint=checkpoint)
    low, _ = sessions(source, menu)
    int8 = BudgetOptions(context=32, mem_bytes=1 << 40, allocation="dense_int8")
    high = plan(sliced, TARGET, int8, menu).memory.total_bytes  # above it the dense weight is lost
    better = 0
    budgets = np.linspace(low, high, 12).astype(int)[1:-1]
    for mem in budgets:
        result = plan(
            sliced, TARGET, BudgetOptions(context=32, mem_bytes=int(mem)), menu, compare=True
        )
        assert [one.name for one in result.alternatives] == [
            "uniform", "hpa", "dense_int8", "dense_int4",
        ]  # fmt: skip
        fitting = [one for one in result.alternatives if one.fits]
        assert all(one.session_bytes <= mem for one in fitting)
        assert result.error is not None
        least = min((one.error for one in fitting if one.error is not None), default=np.inf)
        # What is compared lies between the sizes that the menu prices: interpolated.
        assert result.error <= least * 1.02
        better += result.error < 0.98 * least
    assert better >= len(budgets) // 2
    document = to_json(result)
    assert set(document["alternatives"]["uniform"]) >= {"session_bytes", "weight_bytes", "error"}


def test_dense_weights_of_a_checkpoint_are_what_it_holds(
    priced: tuple[Source, StructuredCheckpoint, Menu],
) -> None:
    """From the .slr alone f32 gives S + B·A back, not the weight that it was made from."""
    source, checkpoint, menu = priced
    sliced = dataclasses.replace(source, checkpoint=checkpoint)
    wide = BudgetOptions(context=32, mem_bytes=1 << 40)
    assert plan(source, TARGET, wide, menu).error == 0
    result = plan(sliced, TARGET, wide, menu)
    # int8 of the dense weight is in the menu, and better than that.
    kept = {(choice.encoding, choice.value_type) for choice in result.choices}
    assert kept <= {("int8", "i8"), ("full", "i8")}
    assert result.error == pytest.approx(predicted_error(menu, result.choices))
    forced = plan(sliced, TARGET, dataclasses.replace(wide, values="dense"), menu)
    lost = predicted_error(menu, forced.choices, checkpoint.names)
    assert result.error is not None
    assert lost > 10 * result.error


def test_an_old_runtime_gets_no_int8(priced: tuple[Source, StructuredCheckpoint, Menu]) -> None:
    source, _, menu = priced
    for target, wanted in ((load("jetson-xavier-nx"), False), (TARGET, True)):
        items = Offer(source, target, menu, Storage("f16", accuracy_level=4), {}, {}).items()
        found = {ch.encoding for item in items for c in item.candidates for ch in c.choices}
        assert ("int8" in found) is wanted
        assert {"int4", "full"} <= found


def test_interpolated_errors_meet_the_priced_ones(
    priced: tuple[Source, StructuredCheckpoint, Menu],
) -> None:
    source, _, menu = priced
    options = BudgetOptions(context=32, density=0.5, rank=16, values="i8")
    result = plan(source, TARGET, options)
    for choice in result.choices:
        row = menu.linears[choice.linear]
        (option,) = [
            o for o in options_of(menu, choice.linear, "bitmap")
            if (o.nnz, o.rank, o.value_type) == (choice.nnz, choice.rank, "i8")
        ]  # fmt: skip
        lost = option.error + (row.activation_error if choice.accuracy_level == 4 else 0.0)
        assert choice_error(menu, choice) == pytest.approx(row.sensitivity * lost)


@pytest.mark.parametrize(
    "given", [{"density": 0.5}, {"values": "i8"}, {"gamma": 0.5}, {"values": "dense"}]
)
def test_what_leaves_nothing_to_choose_is_refused(given: dict[str, Any]) -> None:
    source = mlp((64, 64))
    for wanted in ({"allocation": "best"}, {"max_latency_ms": 5.0}):
        with pytest.raises(RequestError, match="wanted"):
            plan(source, TARGET, BudgetOptions(mem_bytes=1 << 30, **given, **wanted))


def test_a_damaged_menu_is_a_sentence(
    priced: tuple[Source, StructuredCheckpoint, Menu], tmp_path: Path
) -> None:
    _, checkpoint, menu = priced
    text = (menu.path / "menu.json").read_text()
    good = json.loads(text)
    name = next(iter(menu.linears))
    option = good["linears"][name]["options"][0]
    for where, key, value in (
        (good, "version", 7), (good, "checkpoint_sha256", "0"), (option, "encoding", "int5"),
        (option, "group", 0), (option, "error", float("nan")), (option, "error", "0"),
        (option, "nnz", -1), (good["linears"][name], "sensitivity", None),
    ):  # fmt: skip
        kept, where[key] = where[key], value
        (tmp_path / "menu.json").write_text(json.dumps(good))
        with pytest.raises(ModelError, match="delete the folder"):
            Menu(tmp_path, checkpoint.path)
        where[key] = kept
    (tmp_path / "menu.json").write_text(text)
    with pytest.raises(ModelError, match="delete the folder"):  # no file of codes
        Menu(tmp_path, checkpoint.path).codes(name, "int4", 32, 128)
    with pytest.raises(ModelError, match="correction of rank 99"):
        menu.correction(name, 99)


def test_codes_of_the_menu_are_better_than_rounding(
    priced: tuple[Source, StructuredCheckpoint, Menu], calibration: Path
) -> None:
    source, _, menu = priced
    linear = source.linears[0]
    W = weight_array(source, linear)
    layer = LayerError(activation_moments(source, calibration, [linear])[linear.name].judge)
    codes = menu.codes(linear.name, "int4", 32, linear.K)
    assert codes is not None
    nearest = layer.of(W - round_matrix(W, bits=4, group=32).matrix())
    assert layer.of(W - codes.matrix()) < 0.8 * nearest
