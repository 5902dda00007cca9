"""What decompose accepts and refuses, and its edges on whole models."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from structure.models import chain, statistics, weight

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.structure.decompose import decompose


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "magic"}, "'magic' is unknown"),
        ({"density": 1.5}, "density 1.5"),
        ({"density": float("nan")}, "density nan"),
        ({"rank": -1}, "rank -1"),
        ({"method": "oats"}, "needs activation statistics"),
        ({"method": "hessian"}, "needs activation statistics"),
        ({"method": "oats", "statistics": {}, "iterations": 0}, "0 iterations"),
    ],
)
def test_bad_requests(tmp_path: Path, options: dict, said: str) -> None:
    given = {"method": "salr", "density": 0.5, "rank": 2, **options}
    with pytest.raises(RequestError, match=said):
        decompose(chain(tmp_path), tmp_path / "m.slr", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("jobs", [1, 3])
def test_weights_that_are_not_finite(tmp_path: Path, bad: float, jobs: int) -> None:
    source = chain(tmp_path)

    def read(linear):
        W = weight(source, linear)
        if linear.name == "layer.2":
            W[3, 1] = bad
        return W

    with pytest.raises(ModelError, match=r"layer\.2"):
        decompose(
            source, tmp_path / "m.slr", method="salr", density=0.5, rank=2, read=read, jobs=jobs
        )
    assert not (tmp_path / "m.slr").exists()


@pytest.mark.parametrize("broken", [{}, {"layer.1": np.ones(3)}, {"layer.1": np.full(40, np.nan)}])
def test_statistics_that_do_not_fit(tmp_path: Path, broken: dict) -> None:
    source = chain(tmp_path)
    moments = {k: v for k, v in statistics(source).items() if k != "layer.1"} | broken
    with pytest.raises(ModelError, match=r"layer\.1"):
        decompose(
            source, tmp_path / "m.slr", method="oats", density=0.5, rank=2, statistics=moments
        )


def test_a_weight_of_another_shape(tmp_path: Path) -> None:
    source = chain(tmp_path)
    with pytest.raises(ModelError, match=r"has shape \[1, 2\]"):
        decompose(
            source, tmp_path / "m.slr", method="salr", density=0.5, rank=2,
            read=lambda linear: np.zeros((1, 2), np.float32),
        )  # fmt: skip


@pytest.mark.parametrize(("density", "rank"), [(0.0, 0), (1.0, 0), (0.0, 4), (1.0, 500)])
def test_edges(tmp_path: Path, density: float, rank: int) -> None:
    source = chain(tmp_path, widths=(1, 9, 1, 12, 70))
    made = decompose(source, tmp_path / "m.slr", method="salr", density=density, rank=rank)
    for linear in source.linears:
        entry = made.entry(linear.name)
        assert entry.nnz == density * linear.numel
        assert entry.rank == min(rank, linear.N, linear.K)
        if density == 1.0:
            np.testing.assert_array_equal(made.sparse_matrix(linear.name), weight(source, linear))


def test_a_zero_matrix(tmp_path: Path) -> None:
    source = chain(tmp_path)
    made = decompose(
        source, tmp_path / "m.slr", method="oats", density=0.5, rank=3, iterations=2,
        statistics=statistics(source), read=lambda x: np.zeros((x.N, x.K), np.float32),
    )  # fmt: skip
    assert all(not made.dense(name).any() for name in made.names)
    assert made.error(made.names[0]) == 0.0


def test_only_linears_are_structured(tmp_path: Path) -> None:
    source = chain(tmp_path)
    source.linears[1] = dataclasses.replace(source.linears[1], kind="lm_head")
    seen: list[tuple[int, int]] = []
    made = decompose(
        source, tmp_path / "m.slr", method="salr", density=0.5, rank=2,
        progress=lambda done, total, what: seen.append((done, total)),
    )  # fmt: skip
    assert list(made.names) == ["layer.0", "layer.2", "layer.3"]
    assert made.linears[1].kind == "lm_head"
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("method", "factor"), [("salr", 6.0), ("oats", 6.0)])
def test_memory_is_a_small_multiple_of_the_largest_matrix(
    tmp_path: Path, method: str, factor: float
) -> None:
    source = chain(tmp_path, widths=(700, 900, 800, 900))
    moments = statistics(source)
    largest = 4 * max(linear.numel for linear in source.linears)
    tracemalloc.start()
    try:
        decompose(
            source, tmp_path / "m.slr", method=method, density=0.5, rank=8, iterations=2, jobs=1,
            statistics=moments,
        )  # fmt: skip
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < factor * largest
