"""Which line of gpu_table.h a GPU's timings ask for, and the table of a run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bench.gpu_library import stacked
from bench.gpu_plans import TILED, Gpu, cost, kind, row_for, splits, stream, wide
from bench.gpu_report import table, tuned_row
from ops_models import sparse

from slc.ops import bitmap

H100 = Gpu(90, 132, 227 * 1024, clusters=True)
SHAPES = [(4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336)]


@pytest.mark.parametrize(
    ("busy", "rounds", "limit", "last"), [(24, 4, 32, 128), (8, 1, 128, 512), (16, 2, 64, 64)]
)
def test_the_line_that_made_the_times_is_found(
    busy: int, rounds: int, limit: int, last: int
) -> None:
    """Times as that line predicts them; tiled kernels are the faster ones above `limit` rows, wide
    ones above `last`."""
    true = row_for(90)._replace(busy_warps=busy, split_rounds=rounds)
    timed = []
    for (n, k), m in itertools.product(SHAPES, (1, 8, 16, 32, 64, 128, 512)):
        of = {"stream": stream(m), "tiled": TILED, "wide": wide("f16")}
        times = {
            plan: cost(true, H100.sms, plan, n, k, m)
            for kernel in of.values()
            for plan in splits(kernel, H100)
        }
        least = {one: min(us for p, us in times.items() if kind(p) == one) for one in of}
        slower = {
            "stream": 1.5 if m > limit else 1.0,
            "tiled": 1.0 if m > limit else 1.5,
            "wide": 0.8 if m > last else 2.0,
        }
        for plan, us in times.items():
            us = us / least[kind(plan)] * slower[kind(plan)]
            timed.append({"n": n, "k": k, "m": m, "values": "f16", "plan": plan, "us": us})
    found = tuned_row(row_for(90), H100.sms, timed)
    assert found["loss"] == pytest.approx(1.0)
    assert found["row"].stream_rows_max == limit
    assert found["row"].wide_rows_min == last + 1
    assert found["loss_of_present"] >= 1.0
    if (busy, rounds) == (16, 2):
        assert found["loss_of_present"] == pytest.approx(1.0)
    else:
        assert found["loss_of_present"] > 1.01


def test_a_table_says_what_was_not_run() -> None:
    text = table({})
    assert "no GPU" in text
    for what in (
        "Correctness: not run",
        "memcheck: not run",
        "Timing: not run",
        "onnxruntime: not",
    ):
        assert what in text
    assert "no alternatives timed" in text
    text = table({"correct": {"stopped": "a fault", "left_out": 0}, "time": {"left_out": 3}})
    assert "STOPPED: a fault" in text


@pytest.mark.parametrize("value_type", ["f16", "i8", "i4"])
def test_a_stacked_blob_is_whole(value_type: str) -> None:
    blob = bitmap.encode(sparse(32, 200, 0.5), value_type, layout="tiles")
    made = stacked(blob, 3)
    bitmap.check(made)
    np.testing.assert_array_equal(bitmap.decode(made), np.tile(bitmap.decode(blob), (3, 1)))
