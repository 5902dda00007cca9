"""The fit of i4's sixteen values."""

from __future__ import annotations

import numpy as np
import pytest
from ops_models import sparse

from slc.ops import bitmap, codebook


def relative_error(S: np.ndarray, layout: str) -> float:
    D = bitmap.decode(bitmap.encode(S, "i4", layout=layout)).astype(np.float64)
    return float(np.sqrt(((D - S) ** 2).sum() / (S.astype(np.float64) ** 2).sum()))


def pruned(n: int = 512, k: int = 1024) -> np.ndarray:
    S = np.random.default_rng(0).standard_normal((n, k)).astype(np.float32)
    return np.where(np.abs(S) > 0.6745, S, np.float32(0))


@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_sixteen_even_levels_are_the_yardstick(layout: str) -> None:
    """A fitted codebook beats evenly spaced values between those that occur."""
    S = pruned()
    blob = bitmap.encode(S, "i4", layout=layout)
    header = bitmap.read_header(blob)
    scale = np.repeat(header.scales(blob).astype(np.float64) * 2.0**header.exponent, 64, axis=1)
    even = np.concatenate([np.linspace(-63, -15, 8), np.linspace(15, 63, 8)])
    nearest = np.abs(S[..., None] / scale[..., None] - even).argmin(axis=2)
    error = np.where(S != 0, even[nearest] * scale - S, 0)
    yardstick = np.sqrt((error**2).sum() / (S.astype(np.float64) ** 2).sum())
    limit = yardstick if layout == "rows" else yardstick * 16 / 15
    assert relative_error(S, layout) < limit


def test_a_code_that_zero_takes_costs_some_error() -> None:
    rows, planes = (relative_error(pruned(), layout) for layout in ("rows", "planes"))
    assert rows < planes < rows * 16 / 14


@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_few_distinct_values_are_kept(layout: str) -> None:
    levels = np.array([-63, -41, -20, -7, 11, 30, 52, 63], np.float32)
    S = levels[np.random.default_rng(0).integers(0, 8, (64, 256))]
    S[:, ::64] = 63  # so that every scale is 1
    assert np.array_equal(bitmap.decode(bitmap.encode(S, "i4", layout=layout)), S)


def test_planes_have_zero_first_and_stored_zeros_take_it() -> None:
    S = sparse(40, 200, 0.5)
    blob = bitmap.encode(S, "i4", mask=np.ones(S.shape, bool), layout="planes")
    header = bitmap.read_header(blob)
    assert header.codebook(blob)[0] == 0
    assert np.count_nonzero(header.codebook(blob)) == 15
    assert header.nnz == S.size
    assert np.all(bitmap.decode(blob)[S == 0] == 0)


@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_values_in_one_row_of_many_are_in_the_sample(layout: str) -> None:
    S = np.zeros((3000, 1024), np.float32)
    S[1234] = np.random.default_rng(0).standard_normal(1024)
    assert relative_error(S, layout) < 0.1


def test_groups_count_by_their_size() -> None:
    """What is large decides, however many small rows there are."""
    rng = np.random.default_rng(0)
    S = np.where(rng.random((257, 512)) < 0.5, 1, -0.03).astype(np.float32)
    S[-1] = rng.standard_normal(512) * 1000
    assert relative_error(S, "rows") < 0.1


@pytest.mark.parametrize("zero_first", [False, True])
@pytest.mark.parametrize("fill", [0.0, 1.0, 1e-30])
def test_flat_and_empty_histograms_spread_the_entries(zero_first: bool, fill: float) -> None:
    entries = codebook.fit(np.full(codebook.HISTOGRAM_BINS, fill), zero_first)
    assert entries.dtype == np.int8
    assert entries.size == 16
    assert np.diff(np.sort(entries)).max() <= 9
    assert np.abs(entries).max() <= 63


def test_the_table_is_exact() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        entries = rng.integers(-63, 64, 16).astype(np.int8)
        table = codebook.code_table(entries)
        values = rng.uniform(-63.9, 63.9, 1000)
        cells = np.floor(values * codebook.CELLS_A_UNIT).astype(int) + codebook.CELL_OF_ZERO
        distance = np.abs(values[:, None] - entries)
        assert np.array_equal(distance[np.arange(1000), table[cells]], distance.min(axis=1))
