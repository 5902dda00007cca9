from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slc.compiler.budget import operation as op
from slc.compiler.budget.calibrate import calibrate, decoder
from slc.compiler.budget.calibrate.calibrate import TURNS, Effort, Turn
from slc.compiler.budget.calibrate.fit import Sample, fit, modelled
from slc.compiler.budget.calibrate.timing import interleave, median_and_fastest
from slc.compiler.budget.operation import Machine, Operation
from slc.targets import load
from slc.targets.kernel_figures import KERNELS
from slc.targets.toml_writer import to_toml

MACHINE = Machine(bytes_per_us=40_000.0, cores=2)
ROUNDED = 2e-3  # figures have four digits


def sparse_operations(kernel: str, bytes_per_value: float) -> list[Operation]:
    found = []
    for turn in TURNS:
        nnz = int(turn.density * turn.N * turn.K)
        size = int(turn.N * turn.K / 8 + bytes_per_value * nnz)
        found.append(op.sparse(kernel, turn.N, turn.K, nnz, size))
    return found


def timed(operations: list[Operation], figures: dict[str, dict[str, float]]) -> list[Sample]:
    return exact([Sample(((o, 1),), 0.0, 0.0) for o in operations], figures)


def exact(empty: list[Sample], figures: dict[str, dict[str, float]]) -> list[Sample]:
    """The samples with the times that the model gives."""
    pairs = zip(empty, modelled(figures, empty, MACHINE), strict=True)
    return [dataclasses.replace(sample, us=us, fastest_us=us) for sample, us in pairs]


@pytest.mark.parametrize(
    ("bytes_per_value", "bound_by_memory"), [(1.0, 0), (4.0, 7)], ids=["compute", "both"]
)
def test_fit_recovers_planted_figures(bytes_per_value: float, bound_by_memory: int) -> None:
    planted = {
        "bitmap_f16": {
            "ns_per_position": 0.06, "ns_per_value": 0.05, "ns_per_row": 9.0, "us_per_call": 4.0,
        }
    }  # fmt: skip
    operations = sparse_operations("bitmap_f16", bytes_per_value)
    samples = timed(operations, planted)
    waits = [s.operations[0][0].bytes / MACHINE.bytes_per_us + 4.0 >= s.us for s in samples]
    assert sum(waits) == bound_by_memory
    found = fit(samples, MACHINE)["bitmap_f16"]
    for figure, value in planted["bitmap_f16"].items():
        assert found[figure] == pytest.approx(value, rel=ROUNDED), figure
    assert found["ratio_low"] == pytest.approx(1, rel=ROUNDED)
    assert found["ratio_high"] == pytest.approx(1, rel=ROUNDED)


def test_fit_recovers_what_one_thread_and_scales_cost() -> None:
    planted = {"int4": {"ns_per_position": 0.05, "ns_per_group": 0.9, "us_per_call": 3.0}}
    quantized = [op.quantized("int4", t.N, t.K, 4, t.group) for t in TURNS]
    found = fit(timed(quantized, planted), MACHINE)["int4"]
    for figure, value in planted["int4"].items():
        assert found[figure] == pytest.approx(value, rel=ROUNDED), figure
    planted = {"adapter_f16": {"ns_per_position": 0.2, "ns_per_row": 7.0, "us_per_call": 2.0}}
    adapters = [
        made
        for t in TURNS
        for made in (op.down("adapter_f16", t.rank, t.K, 2), op.up("adapter_f16", t.N, t.rank, 2))
    ]
    assert {o.tasks for o in adapters} > {1, op.MANY}
    found = fit(timed(adapters, planted), MACHINE)["adapter_f16"]
    for figure, value in planted["adapter_f16"].items():
        assert found[figure] == pytest.approx(value, rel=ROUNDED), figure


def test_fit_takes_whole_tokens_apart() -> None:
    planted = {
        "attention": {"ns_per_position": 0.3, "us_per_call": 6.0},
        "node": {"ns_per_value": 0.4, "us_per_call": 1.5},
        "runtime": {"ns_per_value": 0.2, "us_per_token": 70.0},
    }
    empty = [Sample(shape.operations(), 0.0, 0.0) for shape in decoder.SHAPES]
    found = fit(exact(empty, planted), MACHINE)
    for kernel, figure in itertools.product(planted, ("ns_per_position", "us_per_call")):
        if figure in planted[kernel]:
            assert found[kernel][figure] == pytest.approx(planted[kernel][figure], rel=ROUNDED)
    assert found["runtime"]["us_per_token"] == pytest.approx(70, rel=ROUNDED)
    assert "us_per_call" not in found["runtime"]


def test_residuals_are_what_noise_there_was() -> None:
    planted = {"bitmap_i8": {"ns_per_position": 0.08, "us_per_call": 4.0}}
    rng = np.random.default_rng(0)
    samples = [
        dataclasses.replace(s, us=s.us * noise, fastest_us=s.us * noise * 0.9)
        for s in timed(sparse_operations("bitmap_i8", 1.0), planted)
        for noise in rng.uniform(0.95, 1.05, 8)
    ]
    found = fit(samples, MACHINE)["bitmap_i8"]
    assert found["ns_per_position"] == pytest.approx(0.08, rel=0.05)
    # 5th of a hundred of 0.9 times the noise, and 95th of the noise.
    assert 0.9 * 0.95 < found["ratio_low"] < 0.9 * 0.98
    assert 1.02 < found["ratio_high"] < 1.07


def test_steps_take_turns() -> None:
    order: list[int] = []
    times = interleave([lambda: order.append(0), lambda: order.append(1)], seconds=0.0)
    assert [len(one) for one in times] == [3, 3]  # at least three rounds
    assert sorted(order[2:4]) == sorted(order[4:6]) == [0, 1]
    assert median_and_fastest([3.0, 1.0, 2.0]) == (2.0, 1.0)


TINY = Effort(
    turns=(Turn(64, 64, 0.5, 32, 8), Turn(128, 64, 0.3, 32, 16), Turn(128, 128, 0.8, 64, 4)),
    seconds=0.02,
    decoders=(decoder.Shape(1, 1, 512, 8), decoder.Shape(2, 1, 1024, 16)),
    rounds=1,
    cold_bytes=1 << 13,
)


def test_calibrate_makes_a_profile_that_loads(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    done: list[tuple[int, int]] = []
    profile = calibrate(TINY, lambda i, total, _: done.append((i, total)))
    assert set(profile.kernels) == set(KERNELS)
    assert done == [(i, 4) for i in range(1, 5)]
    assert "measured" in profile.sources["kernels"]
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(profile), encoding="utf-8")
    loaded = load(path)
    assert loaded.kernels == profile.kernels
    assert loaded.sources["kernels"] == profile.sources["kernels"]


def test_without_decoders_the_rest_is_left_to_the_class(tmp_path: Path) -> None:
    profile = calibrate(dataclasses.replace(TINY, turns=TINY.turns[:1], decoders=()))
    assert {"bitmap_f16", "int4", "adapter_i8"} <= set(profile.kernels)
    assert not {"attention", "node", "runtime"} & set(profile.kernels)


def test_calibrating_another_machine_is_refused() -> None:
    command = [sys.executable, "-m", "slc.compiler.cli", "devices", "jetson", "--calibrate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--calibrate is about this machine, got 'jetson' too" in done.stderr
