"""The C++ encoder: the bytes and the errors of bitmap.py, which is the definition."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_models import BLOB_KINDS, sparse

from slc.compiler.cli.console import report_error
from slc.ops import LibraryNotFoundError, bitmap, encoder

BITMAPS = [kind for kind in BLOB_KINDS if kind.get("encoding", "bitmap") == "bitmap"]
SPREADS = [0.0, 1e-45, 1e-41, 1e-30, 1e-20, 1e-3, 1.0, 1e30, 1e37]
shapes = {
    "n": st.integers(1, 40),
    "k": st.one_of(st.integers(1, 200), st.sampled_from([256, 512, 513, 1088])),
    "density": st.sampled_from([0, 0.01, 0.3, 0.9, 1]),
    "seed": st.integers(0, 2**32 - 1),
}


def matrix(n: int, k: int, density: float, seed: int, spread: float) -> np.ndarray:
    """Some negative zeros among its values, and groups that differ by many powers of two."""
    S = sparse(n, k, density, seed, spread)
    rng = np.random.default_rng(seed)
    S *= np.ldexp(np.float32(1), -rng.integers(0, 30, (n, 1)).astype(np.int32))
    S[rng.random((n, k)) < 0.05] = -0.0
    return S


@settings(max_examples=400, deadline=None)
@given(
    **shapes,
    kind=st.sampled_from(BITMAPS),
    group=st.sampled_from([64, 128, 320]),
    spread=st.sampled_from(SPREADS),
    masked=st.sampled_from(["no", "what is not 0", "zeros too", "not all", "fortran"]),
)
def test_the_bytes_of_the_definition(n, k, density, seed, kind, group, spread, masked) -> None:
    S = matrix(n, k, density, seed, spread)
    rng = np.random.default_rng(seed)
    mask = {
        "no": None,
        "what is not 0": S != 0,
        "zeros too": (S != 0) | (rng.random((n, k)) < 0.2),
        "not all": (S != 0) & (rng.random((n, k)) < 0.7),
        "fortran": np.asfortranarray(rng.random((n, k)) < 0.5),
    }[masked]
    if masked == "fortran":
        S = np.asfortranarray(S)
    wanted = bitmap.encode(S, group=group, mask=mask, **kind)
    np.testing.assert_array_equal(encoder.encode(S, group=group, mask=mask, **kind), wanted)


@settings(max_examples=200, deadline=None)
@given(
    **shapes,
    kind=st.sampled_from([kind for kind in BITMAPS if kind["value_type"] != "f16"]),
    spread=st.sampled_from([1e-38, 1e-20, 1.0, 1e30]),
    off=st.sampled_from([1.0, 1e-6, 1e6, 1e-30]),
)
def test_on_a_grid_that_is_given(n, k, density, seed, kind, spread, off) -> None:
    """On it and far off it, with scales of either sign and of 0."""
    rng = np.random.default_rng(seed)
    S = matrix(n, k, density, seed, spread)
    scales = rng.standard_normal((n, -(-k // 64))).astype(np.float32) * np.float32(spread * off)
    scales[rng.random(scales.shape) < 0.1] = 0
    book = None
    if kind["value_type"] == "i4":
        book = rng.permutation(np.arange(-63, 64))[:16].astype(np.int8)
        book[0] = 0
    grid = bitmap.Grid(scales, book)
    wanted = bitmap.encode(S, grid=grid, **kind)
    np.testing.assert_array_equal(encoder.encode(S, grid=grid, **kind), wanted)


@pytest.mark.parametrize("kind", [{"encoding": "delta"}, {"encoding": "full"}, {"layout": "tiles"}])
def test_other_kinds_are_the_definitions(kind) -> None:
    S = sparse(33, 130, 0.3, 0, 1.0)
    wanted = bitmap.encode(S, "i8", **kind)
    np.testing.assert_array_equal(encoder.encode(S, "i8", **kind), wanted)


def put(S: np.ndarray, at: tuple[int, int], value: float) -> np.ndarray:
    S[at] = value
    return S


WRONG = {
    "NaN": ((put(np.ones((20, 100), np.float32), (17, 99), np.nan),), {}),
    "infinite, not stored": (
        (put(np.ones((3, 100), np.float32), (2, 0), -np.inf), "i8", 64, np.zeros((3, 100), bool)),
        {},
    ),
    "too large": ((np.full((2, 2), 2.0**127, np.float32),), {}),
    "f64": ((np.zeros((2, 2)),), {}),
    "a vector": ((np.zeros(2, np.float32),), {}),
    "no rows": ((np.zeros((0, 2), np.float32),), {}),
    "a group of 63": ((np.zeros((2, 2), np.float32), "i8", 63), {}),
    "a mask of another shape": (
        (np.zeros((2, 2), np.float32), "i8", 64, np.ones((2, 3), bool)),
        {},
    ),
    "planes of i8": ((np.zeros((2, 2), np.float32), "i8"), {"layout": "planes"}),
    "a grid for f16": (
        (np.zeros((2, 2), np.float32), "f16"),
        {"grid": bitmap.Grid(np.ones((2, 1), np.float32))},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_errors_of_the_definition(name) -> None:
    args, named = WRONG[name]
    with pytest.raises(ValueError, match=r"got|wanted") as wanted:
        bitmap.encode(*args, **named)
    with pytest.raises(ValueError, match=f"^{re.escape(str(wanted.value))}$"):
        encoder.encode(*args, **named)


def test_an_installation_without_it_is_told_what_to_do(monkeypatch, capsys) -> None:
    monkeypatch.setattr(encoder, "_LIBRARY", "libslc_no_encoder.so")
    monkeypatch.setattr(encoder, "_library", encoder._library.__wrapped__)
    with pytest.raises(LibraryNotFoundError) as error:
        encoder.encode(np.ones((2, 2), np.float32))
    assert report_error(error.value) == 2
    assert "install slc-compiler from a wheel" in capsys.readouterr().err


@settings(max_examples=100, deadline=None)
@given(
    words=st.integers(1, 30),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0, 0.1, 1]),
    dtype=st.sampled_from([np.uint32, np.uint64]),
)
def test_scattered_and_counted(words, seed, share, dtype) -> None:
    rng = np.random.default_rng(seed)
    index = rng.permutation(64 * words)[: round(64 * words * share)].astype(dtype)
    value = rng.standard_normal(index.size).astype(np.float32)
    S, wanted = (np.zeros((4, 16 * words), np.float32) for _ in range(2))
    wanted.reshape(-1)[index] = value
    encoder.scatter(index, value, S)
    np.testing.assert_array_equal(S, wanted)
    counts = (wanted.reshape(-1, 64) != 0).sum(axis=1)
    np.testing.assert_array_equal(encoder.count_words(index, S.size), counts)


def test_a_scale_of_zero_beside_values_that_it_cannot_hold() -> None:
    S = np.full((1, 128), 1e30, np.float32)
    for kind in BITMAPS:
        if kind["value_type"] == "f16":
            continue
        book = np.arange(16, dtype=np.int8) if kind["value_type"] == "i4" else None
        grid = bitmap.Grid(np.array([[1e-38, 0]], np.float32), book)
        wanted = bitmap.encode(S, grid=grid, **kind)
        np.testing.assert_array_equal(encoder.encode(S, grid=grid, **kind), wanted)


def test_masks_and_matrices_as_numpy_may_have_them() -> None:
    S = np.frombuffer(b"x" + np.arange(192, dtype=np.float32).tobytes(), np.float32, offset=1)
    S = S.reshape(1, -1)
    mask = np.full((1, 192), 2, np.uint8).view(np.bool_)
    wanted = bitmap.encode(S, "i8", 64, mask)
    np.testing.assert_array_equal(encoder.encode(S, "i8", 64, mask), wanted)


def test_what_has_no_room_is_refused() -> None:
    index, value = np.arange(3, dtype=np.uint32), np.ones(3, np.float32)
    S = np.zeros((2, 64), np.float32)
    for arguments in [(index, value[:2], S), (index, value, S[::-1]), (index, value, S > 0)]:
        with pytest.raises(ValueError, match="wanted as many values and contiguous float32"):
            encoder.scatter(*arguments)
    with pytest.raises(ValueError, match="numel: got 100, wanted a multiple of 64"):
        encoder.count_words(index, 100)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_what_cannot_be_scattered_or_counted(dtype) -> None:
    S, ones = np.zeros((2, 64), np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match="an index beyond its end"):
        encoder.scatter(np.array([0, 5, 128], dtype), ones, S)
    with pytest.raises(ValueError, match="a value that is not finite"):
        encoder.scatter(np.array([0, 5, 127], dtype), put(ones[None], (0, 1), np.inf)[0], S)
    with pytest.raises(ValueError, match="an index beyond its end"):
        encoder.count_words(np.array([0, 128], dtype), 128)
    with pytest.raises(ValueError, match="an index twice"):
        encoder.count_words(np.zeros(65, dtype), 128)
