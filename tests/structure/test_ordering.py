from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slc.compiler.structure import ordering

# Few distinct values, so that ties are common; -0 and subnormals among them.
IMPORTANCE = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.sampled_from([0.0, -0.0, 1e-42, -1e-40, 0.5, -0.50000006, -1.0, 3e38]),
)


def brute_force(flat: np.ndarray) -> list[int]:
    return sorted(range(flat.size), key=lambda i: (-abs(float(flat[i])), i))


@given(IMPORTANCE, st.floats(0, 1))
def test_global_order_is_by_value_then_position(importance: np.ndarray, density: float) -> None:
    count = ordering.global_count(importance.size, density)
    index = ordering.global_order(importance, count)
    assert index.dtype == np.uint32
    assert index.tolist() == brute_force(importance.reshape(-1))[:count]


@given(IMPORTANCE, st.floats(0, 1))
def test_row_order_interleaves_the_rows(importance: np.ndarray, density: float) -> None:
    N, K = importance.shape
    per_row = ordering.row_count(K, density)
    index = ordering.row_order(importance, per_row)
    rows = [brute_force(row)[:per_row] for row in importance]
    assert index.tolist() == [r * K + rows[r][j] for j in range(per_row) for r in range(N)]


def test_row_order_crosses_its_blocks() -> None:
    importance = np.random.default_rng(0).random((2100, 1024), dtype=np.float32)
    index = ordering.row_order(importance, 3)
    wanted = np.argsort(-importance, axis=1, kind="stable")[:, :3] + np.arange(2100)[:, None] * 1024
    np.testing.assert_array_equal(index, wanted.T.reshape(-1))


@given(IMPORTANCE, st.floats(0, 1))
def test_the_order_for_long_indices_is_the_same(importance: np.ndarray, density: float) -> None:
    flat = importance.reshape(-1)
    count = ordering.global_count(flat.size, density)
    long = ordering._order_by_argsort(flat, count)
    assert long.dtype == np.uint64
    assert long.tolist() == ordering.global_order(importance, count).tolist()


def test_index_type_changes_at_32_bits() -> None:
    assert ordering.index_dtype(65536, 65535) == np.uint32
    assert ordering.index_dtype(65536, 65536) == np.uint64
