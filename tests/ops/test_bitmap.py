"""The numpy format: round trips, exact sizes, refusals, golden bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_models import sparse

from slc.ops import bitmap

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VALUE_TYPES = ["f16", "i8"]


def rounding_error(S: np.ndarray, value_type: str, group: int) -> np.ndarray:
    """The most that encode may change each value."""
    if value_type == "f16":
        return 2.0**-11 * np.abs(S) + 2.0**-39 * np.abs(S).max()
    n, k = S.shape
    padded = np.zeros((n, -(-k // group) * group))
    padded[:, :k] = np.abs(S)
    peak = padded.reshape(n, -1, group).max(axis=2).repeat(group, axis=1)[:, :k]
    # Half a step of the rounded scale; clipping adds what the scale lost in rounding.
    return peak / 127 * 0.5 + peak * 2.0**-11 + 127 * 2.0**-38 * np.abs(S).max()


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 257),
    k=st.integers(1, 257),
    density=st.sampled_from([0, 0.01, 0.05, 0.5, 1]),
    value_type=st.sampled_from(VALUE_TYPES),
    group=st.sampled_from([64, 128, 320]),
    spread=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip(n, k, density, value_type, group, spread, seed) -> None:
    S = sparse(n, k, density, seed, spread)
    blob = bitmap.encode(S, value_type, group)
    bitmap.check(blob)
    nnz = np.count_nonzero(S)
    assert blob.size == bitmap.encoded_bytes(n, k, nnz, value_type, group)
    header = bitmap.read_header(blob)
    assert (header.n, header.k, header.nnz, header.value_type) == (n, k, nnz, value_type)
    D = bitmap.decode(blob)
    assert D.dtype == np.float32
    assert np.all(D[S == 0] == 0)
    assert np.all(np.abs(D.astype(np.float64) - S) <= rounding_error(S, value_type, group))


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_all_mask_bytes(value_type: str) -> None:
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    S = bits.astype(np.float32) * np.arange(1, 9, dtype=np.float32)
    blob = bitmap.encode(S, value_type)
    masks = bitmap._masks(
        blob, bitmap.read_header(blob), bitmap._header_sections(bitmap.read_header(blob))
    )
    assert np.array_equal(masks[:, 0], np.arange(256))
    np.testing.assert_allclose(bitmap.decode(blob), S, rtol=0, atol=8 / 127)


@pytest.mark.parametrize("value_type", VALUE_TYPES)
@pytest.mark.parametrize("extreme", [1.4e-45, 1e-38, 1.7e38])
def test_extreme_values_neither_vanish_nor_overflow(value_type: str, extreme: float) -> None:
    S = np.zeros((3, 70), np.float32)
    S[1, 3], S[2, 69] = extreme, -extreme
    D = bitmap.decode(bitmap.encode(S, value_type))
    assert np.isfinite(D).all()
    if extreme > 1e-40:
        np.testing.assert_allclose(D, S, rtol=2.0**-9)


def test_encode_is_deterministic_and_ignores_memory_order() -> None:
    S = sparse(100, 200, 0.5)
    first = bitmap.encode(S)
    assert np.array_equal(first, bitmap.encode(np.asfortranarray(S)))
    assert np.array_equal(first, bitmap.encode(np.repeat(S, 2, axis=1)[:, ::2]))


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_mask_says_what_is_stored(value_type: str) -> None:
    S = sparse(33, 100, 0.5)
    S[0] = 0
    mask = np.random.default_rng(1).random(S.shape) < 0.3
    blob = bitmap.encode(S, value_type, mask=mask)
    assert bitmap.read_header(blob).nnz == mask.sum()
    kept = np.where(mask, S, np.float32(0))
    error = np.abs(bitmap.decode(blob) - kept)
    assert np.all(error <= rounding_error(kept, value_type, 64))


def test_values_outside_the_mask_do_not_set_the_exponent() -> None:
    S = np.full((2, 64), 1e-3, np.float32)
    S[0, 0] = 1e30
    mask = np.ones(S.shape, bool)
    mask[0, 0] = False
    for value_type in VALUE_TYPES:
        D = bitmap.decode(bitmap.encode(S, value_type, mask=mask))
        np.testing.assert_allclose(D[mask], 1e-3, rtol=2.0**-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"S": np.zeros((2, 3))}, "got float64 .* wanted float32"),
        ({"S": np.zeros(3, np.float32)}, r"wanted float32 \[N, K\]"),
        ({"S": np.zeros((0, 3), np.float32)}, "N and K >= 1"),
        ({"S": np.array([[1, np.nan]], np.float32)}, r"S\[0, 1\]: got nan"),
        ({"S": np.array([[1], [-np.inf]], np.float32)}, r"S\[1, 0\]: got -inf"),
        ({"S": np.array([[3.4e38]], np.float32)}, r"got a magnitude of 3\S+, wanted less than"),
        ({"value_type": "i4"}, "got 'i4', wanted 'f16' or 'i8'"),
        ({"value_type": "i8", "group": 32}, "got 32, wanted a positive multiple of 64"),
        ({"mask": np.ones((2, 2), bool)}, r"mask: got bool \[2, 2\]"),
        ({"mask": np.ones((2, 3))}, "mask: got float64"),
    ],
)
def test_encode_refuses(change, message) -> None:
    arguments = {"S": np.ones((2, 3), np.float32), **change}
    with pytest.raises(ValueError, match=message):
        bitmap.encode(**arguments)


def test_encoded_bytes_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="nnz 7"):
        bitmap.encoded_bytes(2, 3, 7)


def golden_matrix() -> np.ndarray:
    """The same on every machine and numpy version: no random generator."""
    n, k = 19, 150
    index = np.arange(n * k, dtype=np.int64).reshape(n, k)
    S = ((index * 7919) % 1009 - 504).astype(np.float32) / np.float32(256)
    return np.where(index * 31 % 7 < 3, S, np.float32(0))


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_golden_bytes(value_type: str) -> None:
    golden = np.fromfile(GOLDEN / f"bitmap_v1_{value_type}.bin", np.uint8)
    assert np.array_equal(bitmap.encode(golden_matrix(), value_type), golden)
    expected = np.load(GOLDEN / f"bitmap_v1_{value_type}_expected.npy")
    assert np.array_equal(bitmap.decode(golden), expected)


@pytest.mark.large
@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_more_than_two_to_the_31_positions(value_type: str, kernels) -> None:
    n, k = 2**15 + 16, 2**16
    S = np.zeros((n, k), np.float32)
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, n, 5000), rng.integers(0, k, 5000)
    S[rows, columns] = rng.standard_normal(5000)
    S[-1, -1] = 3
    blob = bitmap.encode(S, value_type)
    exact = S @ np.ones(k, np.float32)
    X = np.ones((1, k), np.float32)
    for name in kernels.names(f"sparse_gemv_{value_type}"):
        np.testing.assert_allclose(kernels.sparse(name, blob, X)[0], exact, atol=0.05)
    D = bitmap.decode(blob)
    del blob
    assert D[-1, -1] == pytest.approx(3, rel=1e-2)
    assert np.count_nonzero(D[: 2**14]) <= np.count_nonzero(S[: 2**14])
