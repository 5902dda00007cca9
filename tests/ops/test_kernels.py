"""Every kernel of kernels.inc against the exact product, within derived bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import STORED, exact_product
from native_kernels import DENSE_DTYPES, NativeKernels
from numerics import assert_within, matmul_bound
from ops_models import sparse

from slc.ops import bitmap, full

DENSITIES = [0.0, 0.01, 0.05, 0.3, 0.5, 0.9, 1.0]


def check_sparse(
    kernels: NativeKernels,
    S: np.ndarray,
    m: int,
    seed: int,
    group: int = 64,
    stored: tuple[str, ...] = tuple(STORED),
) -> None:
    """All sparse kernels for these weights, with and without a bias."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((m, S.shape[1])).astype(np.float32)
    bias = rng.standard_normal(S.shape[0]).astype(np.float32) if seed % 2 else None
    for kind in stored:
        blob = bitmap.encode(S, group=group, **STORED[kind])
        for level in ("f32", "int8"):
            exact, bound = exact_product(X, blob, bias, level)
            ops = ["sparse_gemm"] + (["sparse_gemv"] if m <= 3 else [])
            for name in [name for op in ops for name in kernels.names(f"{op}_{kind}_{level}_")]:
                context = f"{name} N {S.shape[0]} K {S.shape[1]} m {m} seed {seed}"
                assert_within(kernels.sparse(name, blob, X, bias), exact, bound, context)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 257),
    k=st.integers(1, 257),
    m=st.integers(1, 17),
    density=st.sampled_from(DENSITIES),
    group=st.sampled_from([64, 128, 320]),
    seed=st.integers(0, 2**32 - 1),
)
def test_sparse_kernels(kernels, n, k, m, density, group, seed) -> None:
    check_sparse(kernels, sparse(n, k, density, seed), m, seed, group)


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_full_rows_of_every_length(kernels, m) -> None:
    """Every K mod 64, and every number of rows that several at a time could leave over."""
    for k in range(64, 128):
        S = sparse(3 + k % 5, k, 1.0, k)
        check_sparse(kernels, S, m, k, stored=("fullf16", "fulli8", "fulli4"))


@pytest.mark.parametrize("group", [64, 128])
@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_scales_of_either_sign(kernels, m, group) -> None:
    rng = np.random.default_rng(m)
    scales = rng.standard_normal((37, -(-330 // group))).astype(np.float16).astype(np.float32)
    X = rng.standard_normal((m, 330)).astype(np.float32)
    for value_type, top in (("i8", 127), ("i4", 7)):
        codes = rng.integers(-top, top + 1, (37, 330)).astype(np.int8)
        blob = full.encode_codes(codes, scales, value_type, group)
        for level in ("f32", "int8"):
            exact, bound = exact_product(X, blob, None, level)
            ops = ["sparse_gemm"] + (["sparse_gemv"] if m <= 3 else [])
            prefixes = [f"{op}_full{value_type}_{level}_" for op in ops]
            for name in [name for prefix in prefixes for name in kernels.names(prefix)]:
                assert_within(kernels.sparse(name, blob, X), exact, bound, f"{name} {group}")


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7])
def test_all_mask_bytes(kernels, m) -> None:
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    S = np.tile(bits, (1, 17)) * np.random.default_rng(0).standard_normal((256, 136))
    check_sparse(kernels, S.astype(np.float32), m, 1)


@pytest.mark.parametrize(("n", "k", "m"), [(5, 4100, 1), (64, 1536, 33), (33, 1023, 130)])
def test_sparse_kernels_over_several_panels(kernels, n, k, m) -> None:
    check_sparse(kernels, sparse(n, k, 0.5), m, 3)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30])
def test_sparse_kernels_with_extreme_weights(kernels, scale) -> None:
    S = np.float32(scale) * sparse(20, 100, 0.5)
    X = np.ones((4, 100), np.float32)
    blob = bitmap.encode(S)
    W = bitmap.decode(blob)
    bound = matmul_bound(X, W) + 2.0**-148
    for name in kernels.names("sparse_gemm_f16"):
        assert_within(kernels.sparse(name, blob, X), X @ W.T.astype(np.float64), bound, name)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 67),
    k=st.integers(1, 257),
    m=st.integers(1, 17),
    seed=st.integers(0, 2**32 - 1),
)
def test_adapter_kernels(kernels, rows, k, m, seed) -> None:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((m, k)).astype(np.float32)
    for name in kernels.names("adapter_dot"):
        dtype = DENSE_DTYPES[name.split("_")[2]]
        W = (
            rng.standard_normal((rows, k))
            if dtype != np.int8
            else rng.integers(-127, 128, (rows, k))
        )
        W = W.astype(dtype)
        exact = X.astype(np.float64) @ W.astype(np.float64).T
        context = f"{name} rows {rows} k {k} m {m} seed {seed}"
        assert_within(kernels.dense(name, W, X), exact, matmul_bound(X, W), context)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("op", ["sparse_gemv", "sparse_gemm"])
def test_a_row_of_the_result_does_not_depend_on_its_neighbours(kernels, op, stored) -> None:
    """Bit for bit: what threads and batch size change must not change the numbers."""
    S = sparse(40, 300, 0.5)
    X = np.random.default_rng(0).standard_normal((3, 300)).astype(np.float32)
    blob = bitmap.encode(S, **STORED[stored])
    for name in kernels.names(f"{op}_{stored}_"):
        whole = kernels.sparse(name, blob, X)
        for m in (1, 2) if "gemm" in op else (3,):
            assert np.array_equal(kernels.sparse(name, blob, X[:m]), whole[:m]), name


def test_every_kernel_name_is_listed_once(kernels) -> None:
    names = [
        name for op in ("sparse_gemv", "sparse_gemm", "adapter_dot") for name in kernels.names(op)
    ]
    assert len(names) == len(set(names)) >= 20


def test_half_conversions_match_numpy(kernels) -> None:
    halves = np.arange(2**16, dtype=np.uint16)
    expected = halves.view(np.float16).astype(np.float32)
    actual = np.array([kernels.half_to_float(int(h)) for h in halves], np.float32)
    np.testing.assert_array_equal(actual, expected)
    finite = expected[np.isfinite(expected)]
    for factor in (1.0, 1 + 2.0**-11, 1 + 2.0**-12, 1 - 2.0**-12, 0.75):
        floats = (finite * np.float32(factor))[::7]
        with np.errstate(over="ignore"):
            wanted = floats.astype(np.float16).view(np.uint16)
        got = np.array([kernels.float_to_half(float(f)) for f in floats], np.uint16)
        np.testing.assert_array_equal(got, wanted)
