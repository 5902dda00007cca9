"""Full blobs: what only they have. What they share with bitmaps is tested with those."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_models import FULL_KINDS, sparse

from slc.ops import bitmap, full

VALUE_TYPES = [kind["value_type"] for kind in FULL_KINDS]
INT4 = np.arange(-8, 8, dtype=np.int8)


def scales_of(n: int, k: int, group: int, seed: int, exponent: int = 0) -> np.ndarray:
    """f16 numbers of either sign times 2^exponent, as float32."""
    scales = np.random.default_rng(seed).standard_normal((n, -(-k // group)))
    return scales.astype(np.float16).astype(np.float32) * np.float32(2.0**exponent)


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 400),
    value_type=st.sampled_from(VALUE_TYPES),
    group=st.sampled_from([64, 128, 320]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_bitmap_that_stores_everything_without_its_masks(n, k, value_type, group, seed) -> None:
    W = sparse(n, k, 0.9, seed)
    blob = full.encode(W, value_type, group)
    whole = bitmap.encode(W, value_type, group, np.ones(W.shape, bool))
    a, b = bitmap.read_header(blob), bitmap.read_header(whole)
    assert (a.nnz, a.exponent, a.encoding) == (b.nnz, b.exponent, "full")
    assert np.array_equal(a.starts(blob), b.starts(whole))
    assert np.array_equal(blob[a.values_offset :], whole[b.values_offset :])
    assert np.array_equal(bitmap.decode(blob), bitmap.decode(whole))
    assert blob.size == full.encoded_bytes(n, k, value_type, group)


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 400),
    value_type=st.sampled_from(["i8", "i4"]),
    group=st.sampled_from([64, 128, 320]),
    exponent=st.sampled_from([-100, -9, 0, 80]),
    seed=st.integers(0, 2**32 - 1),
)
def test_codes_and_scales_are_kept(n, k, value_type, group, exponent, seed) -> None:
    top = 128 if value_type == "i8" else 8
    codes = np.random.default_rng(seed).integers(1 - top, top, (n, k)).astype(np.int8)
    if value_type == "i4":
        codes[codes == 7] = -8
    scales = scales_of(n, k, group, seed, exponent)
    blob = full.encode_codes(codes, scales, value_type, group)
    assert blob.size == full.encoded_bytes(n, k, value_type, group)
    kept, kept_scales = bitmap.decode_integers(blob)
    assert np.array_equal(kept, codes)
    assert np.array_equal(kept_scales, scales)
    exact = np.repeat(scales, group, axis=1)[:, :k] * codes
    assert np.array_equal(bitmap.decode(blob), exact)


def test_scales_that_f16_has_not_are_rounded() -> None:
    rng = np.random.default_rng(0)
    scales = (rng.standard_normal((50, 3)) * 1e-3).astype(np.float32)
    codes = rng.integers(-8, 8, (50, 130)).astype(np.int8)
    kept, kept_scales = bitmap.decode_integers(full.encode_codes(codes, scales))
    assert np.array_equal(kept, codes)
    assert np.all(np.abs(kept_scales - scales) <= 2.0**-11 * np.abs(scales))
    assert np.any(kept_scales != scales)


@pytest.mark.parametrize(
    "scales", [np.float32([[0, 0], [0, 0]]), np.float32([[1, 0], [0, -1e-30]])]
)
def test_codes_survive_scales_that_vanish(scales) -> None:
    codes = np.random.default_rng(0).integers(-8, 8, (2, 100)).astype(np.int8)
    assert np.array_equal(bitmap.decode_integers(full.encode_codes(codes, scales))[0], codes)


def test_a_codebook_of_ones_own() -> None:
    codebook = np.array([*range(-60, 60, 8), 63], np.int8)
    codes = np.random.default_rng(0).choice(codebook, (5, 70))
    scales = scales_of(5, 70, 64, 0)
    blob = full.encode_codes(codes, scales, codebook=codebook)
    assert np.array_equal(bitmap.read_header(blob).codebook(blob), codebook)
    assert np.array_equal(bitmap.decode_integers(blob)[0], codes)


@pytest.mark.parametrize(("value_type", "codebook"), [("i8", None), ("i4", INT4)])
def test_a_grid_is_rounded_to(value_type: str, codebook) -> None:
    """The nearest level of a scale of either sign; what lies on the grid stays."""
    rng = np.random.default_rng(0)
    levels = np.arange(-127, 128) if codebook is None else codebook
    scales = scales_of(30, 200, 64, 0)
    step = np.repeat(scales, 64, axis=1)[:, :200]
    W = (rng.uniform(-9, 9, (30, 200)) * step).astype(np.float32)
    grid = bitmap.Grid(scales, codebook)
    D = bitmap.decode(full.encode(W, value_type, grid=grid))
    nearest = np.abs(levels * step[..., None].astype(np.float64) - W[..., None]).min(axis=2)
    assert np.all(np.abs(D - W.astype(np.float64)) <= nearest + 2.0**-15 * np.abs(step))
    assert np.array_equal(bitmap.decode(full.encode(D, value_type, grid=grid)), D)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((2, 3), np.int32)}, r"codes: got int32 \[2, 3\], wanted int8"),
        ({"codes": np.zeros((0, 3), np.int8)}, "N and K >= 1"),
        ({"codes": np.int8([[0, 0, 0], [0, 8, 0]])}, r"codes\[1, 1\]: got 8, wanted an entry"),
        (
            {"codes": np.int8([[0, -128, 0], [0, 0, 0]]), "value_type": "i8"},
            r"codes\[0, 1\]: got -128, wanted -127 ... 127",
        ),
        (
            {"scales": np.ones((2, 2), np.float32)},
            r"scales: got .*\[2, 2\], wanted .*\[2, 1\]",
        ),
        ({"scales": np.float32([[1], [np.inf]])}, "scales: wanted finite"),
        ({"group": 32}, "group: got 32, wanted a positive multiple of 64"),
        ({"value_type": "f16"}, "got a full of f16 values"),
        ({"value_type": "i8", "codebook": INT4}, "codebook: got .*, wanted None"),
        ({"codebook": np.full(16, 64, np.int8)}, "codebook: got 64, wanted -63 ... 63"),
    ],
)
def test_encode_codes_refuses(change, message) -> None:
    arguments = {"codes": np.zeros((2, 3), np.int8), "scales": np.ones((2, 1), np.float32)}
    with pytest.raises(ValueError, match=message):
        full.encode_codes(**(arguments | change))
