"""The numpy format: round trips, exact sizes, refusals, golden bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_models import BLOB_KINDS, FULL_KINDS, TILE_KINDS, sparse

from slc.ops import bitmap

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VALUE_TYPES = ["f16", "i8"]
every_kind = pytest.mark.parametrize(
    "kind", BLOB_KINDS + TILE_KINDS, ids=lambda kind: "_".join(kind.values())
)


def rounding_error(S: np.ndarray, blob: np.ndarray) -> np.ndarray:
    """The most that encode may have changed each value."""
    header = bitmap.read_header(blob)
    size = np.abs(S.astype(np.float64))
    if header.value_type == "f16":
        return 2.0**-11 * size + 2.0**-39 * size.max()
    n, k = S.shape
    if header.value_type == "i4":
        scale = header.scales(blob).astype(np.float64) * 2.0**header.exponent
        step = np.repeat(scale, header.group, axis=1)[:, :k]
        entries = header.codebook(blob).astype(np.float64) * step[..., None]
        # The nearest entry. Twice 2^-16 of a step, if float32 took the border between two for
        # another: x * 2 / scale in two roundings, 128 added in a third. A scale that vanishes is
        # below 2^-25, so its group's values are below 63 times that.
        nearest = np.abs(entries - S[..., None]).min(axis=2)
        return nearest + 2.0**-15 * step + 63 * 2.0**-25 * 2.0**header.exponent
    padded = np.zeros((n, header.groups * header.group))
    padded[:, :k] = size
    peak = padded.reshape(n, -1, header.group).max(axis=2).repeat(header.group, axis=1)[:, :k]
    # Half a step of the rounded scale; clipping adds what the scale lost in rounding.
    return peak / 127 * 0.5 + peak * 2.0**-11 + 127 * 2.0**-38 * size.max()


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(1, 130),
    k=st.one_of(st.integers(1, 257), st.integers(258, 1500)),
    density=st.sampled_from([0, 0.001, 0.01, 0.05, 0.5, 1]),
    kind=st.sampled_from(BLOB_KINDS + FULL_KINDS + TILE_KINDS),
    group=st.sampled_from([64, 128, 320]),
    spread=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip(n, k, density, kind, group, spread, seed) -> None:
    S = sparse(n, k, density, seed, spread)
    blob = bitmap.encode(S, group=group, **kind)
    bitmap.check(blob)
    header = bitmap.read_header(blob)
    assert (header.n, header.k, header.value_type) == (n, k, kind["value_type"])
    assert header.encoding == kind.get("encoding", "bitmap")
    assert header.layout == kind.get("layout", "rows")
    full = header.encoding == "full"
    fillers = header.nnz - (S.size if full else np.count_nonzero(S))
    assert fillers >= 0 if header.encoding == "delta" else fillers == 0
    D = bitmap.decode(blob)
    assert D.dtype == np.float32
    assert full or np.all(D[S == 0] == 0)
    assert np.all(np.abs(D.astype(np.float64) - S) <= rounding_error(S, blob))


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 130),
    k=st.integers(1, 400),
    density=st.sampled_from([0, 0.01, 0.5, 1]),
    kind=st.sampled_from(BLOB_KINDS),
    group=st.sampled_from([64, 128]),
    spread=st.sampled_from([1e-30, 1.0, 1e30]),
    given_mask=st.booleans(),
    on_grid=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_rounded_is_what_is_read_back(
    n, k, density, kind, group, spread, given_mask, on_grid, seed
) -> None:
    if kind.get("encoding") == "delta":
        return
    S = sparse(n, k, density, seed, spread)
    mask = np.random.default_rng(seed).random(S.shape) < 0.7 if given_mask else None
    value_type, layout = kind["value_type"], kind.get("layout", "rows")
    grid = None
    if on_grid and value_type != "f16":
        codebook = None
        if value_type == "i4":
            codebook = bitmap.read_header(b := bitmap.encode(S, **kind)).codebook(b)
        scales = np.full((n, -(-k // group)), spread / 100, np.float32)
        grid = bitmap.Grid(scales, codebook)
    blob = bitmap.encode(S, value_type, group, mask, layout=layout, grid=grid)
    found = bitmap.rounded(S, value_type, group, mask, layout=layout, grid=grid)
    np.testing.assert_array_equal(found, bitmap.decode(blob))


@every_kind
def test_all_mask_bytes(kind) -> None:
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    S = bits.astype(np.float32) * np.arange(1, 9, dtype=np.float32)
    blob = bitmap.encode(S, **kind)
    header = bitmap.read_header(blob)
    if header.encoding == "bitmap":
        assert np.array_equal(header.masks(blob)[:, 0], np.arange(256))
    np.testing.assert_array_less(np.abs(bitmap.decode(blob) - S), rounding_error(S, blob) + 1e-30)


@every_kind
@pytest.mark.parametrize("extreme", [1.4e-45, 1e-38, 1.7e38])
def test_extreme_values_neither_vanish_nor_overflow(kind, extreme: float) -> None:
    S = np.zeros((3, 70), np.float32)
    S[1, 3], S[2, 69] = extreme, -extreme
    D = bitmap.decode(bitmap.encode(S, **kind))
    assert np.isfinite(D).all()
    if extreme > 1e-40:
        np.testing.assert_allclose(D, S, rtol=2.0**-9)


def test_encode_is_deterministic_and_ignores_memory_order() -> None:
    S = sparse(100, 200, 0.5)
    first = bitmap.encode(S)
    assert np.array_equal(first, bitmap.encode(np.asfortranarray(S)))
    assert np.array_equal(first, bitmap.encode(np.repeat(S, 2, axis=1)[:, ::2]))


@every_kind
@pytest.mark.parametrize("density", [0.002, 0.3])
def test_mask_says_what_is_stored(kind, density: float) -> None:
    S = sparse(33, 700, 0.5)
    S[0] = 0
    mask = np.random.default_rng(1).random(S.shape) < density
    blob = bitmap.encode(S, mask=mask, **kind)
    header = bitmap.read_header(blob)
    assert header.nnz == mask.sum() or header.encoding == "delta"
    kept = np.where(mask, S, np.float32(0))
    D = bitmap.decode(blob)
    assert np.all(D[~mask] == 0)
    assert np.all(np.abs(D - kept) <= rounding_error(kept, blob))


@every_kind
def test_values_outside_the_mask_do_not_set_the_exponent(kind) -> None:
    S = np.full((2, 64), 1e-3, np.float32)
    S[0, 0] = 1e30
    mask = np.ones(S.shape, bool)
    mask[0, 0] = False
    D = bitmap.decode(bitmap.encode(S, mask=mask, **kind))
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
        ({"value_type": "i2"}, "got 'i2', wanted 'f16', 'i8' or 'i4'"),
        ({"value_type": "i4", "encoding": "delta"}, "'i4' with encoding 'delta', wanted 'f16' or"),
        ({"encoding": "csr"}, "got 'csr', wanted 'bitmap', 'delta' or 'full'"),
        ({"layout": "columns"}, "got 'columns', wanted 'rows', 'planes' or 'tiles'"),
        ({"layout": "tiles", "encoding": "full"}, "'tiles' with encoding 'full', wanted 'bitmap'"),
        ({"layout": "planes"}, "'planes' with value_type 'f16', wanted 'rows'"),
        (
            {"value_type": "i4", "encoding": "full", "layout": "planes"},
            "'planes' with encoding",
        ),
        ({"encoding": "full", "mask": np.ones((2, 3), bool)}, "mask: got one with encoding 'full'"),
        ({"value_type": "i8", "group": 32}, "got 32, wanted a positive multiple of 64"),
        ({"value_type": "i4", "group": 96}, "got 96, wanted a positive multiple of 64"),
        ({"mask": np.ones((2, 2), bool)}, r"mask: got bool \[2, 2\]"),
        ({"mask": np.ones((2, 3))}, "mask: got float64"),
    ],
)
def test_encode_refuses(change, message) -> None:
    arguments = {"S": np.ones((2, 3), np.float32), **change}
    with pytest.raises(ValueError, match=message):
        bitmap.encode(**arguments)


def golden_matrix() -> np.ndarray:
    """The same on every machine and numpy version: no random generator."""
    n, k = 19, 150
    index = np.arange(n * k, dtype=np.int64).reshape(n, k)
    S = ((index * 7919) % 1009 - 504).astype(np.float32) / np.float32(256)
    return np.where(index * 31 % 7 < 3, S, np.float32(0))


def wide_golden_matrix() -> np.ndarray:
    """With gaps of more than 255 columns before, between and after values, and an empty row."""
    n, k = 7, 1300
    index = np.arange(n * k, dtype=np.int64).reshape(n, k)
    S = ((index * 7919) % 1009 - 504).astype(np.float32) / np.float32(256)
    S = np.where(index * 31 % 977 < 5, S, np.float32(0))
    S[2], S[4, :600] = 0, 0
    return S


@pytest.mark.parametrize(
    ("name", "matrix", "kind"),
    [
        ("bitmap_v1_f16", golden_matrix, BLOB_KINDS[0]),
        ("bitmap_v1_i8", golden_matrix, BLOB_KINDS[1]),
        ("bitmap_v1_i4_rows", golden_matrix, BLOB_KINDS[2]),
        ("bitmap_v1_i4_planes", golden_matrix, BLOB_KINDS[3]),
        ("delta_v1_f16", wide_golden_matrix, BLOB_KINDS[4]),
        ("delta_v1_i8", wide_golden_matrix, BLOB_KINDS[5]),
        ("full_v1_f16", golden_matrix, FULL_KINDS[0]),
        ("full_v1_i8", golden_matrix, FULL_KINDS[1]),
        ("full_v1_i4", golden_matrix, FULL_KINDS[2]),
        ("tiles_v1_f16", golden_matrix, TILE_KINDS[0]),
        ("tiles_v1_i8", golden_matrix, TILE_KINDS[1]),
        ("tiles_v1_i4", golden_matrix, TILE_KINDS[2]),
    ],
)
def test_golden_bytes(name, matrix, kind) -> None:
    golden = np.fromfile(GOLDEN / f"{name}.bin", np.uint8)
    assert np.array_equal(bitmap.encode(matrix(), **kind), golden)
    expected = np.load(GOLDEN / f"{name}_expected.npy")
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
