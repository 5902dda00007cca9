"""Sizes that are known before a blob is made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_models import BLOB_KINDS, FULL_KINDS, TILE_KINDS, sparse

from slc.ops import bitmap, full


def checked_size(stored: np.ndarray, group: int, kind: dict[str, str]) -> tuple[int, int]:
    """(blob_bytes, encoded_bytes), the first of which is exact and the second no less."""
    n, k = stored.shape
    exact = bitmap.blob_bytes(stored, group=group, **kind)
    bound = bitmap.encoded_bytes(n, k, int(stored.sum()), group=group, **kind)
    assert exact <= bound
    if kind["value_type"] != "i4" and set(kind) == {"value_type"}:
        assert exact == bound
    return exact, bound


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(1, 80),
    k=st.one_of(st.integers(1, 257), st.integers(258, 1500)),
    density=st.sampled_from([0, 0.001, 0.01, 0.05, 0.5, 0.98, 1]),
    kind=st.sampled_from(BLOB_KINDS + TILE_KINDS),
    group=st.sampled_from([64, 128, 320]),
    seed=st.integers(0, 2**32 - 1),
)
def test_sizes_of_random_masks(n, k, density, kind, group, seed) -> None:
    S = sparse(n, k, density, seed)
    exact, _ = checked_size(S != 0, group, kind)
    assert exact == bitmap.encode(S, group=group, **kind).size
    mask = np.random.default_rng(seed).random(S.shape) < density
    if not {"encoding"} & set(kind) and kind.get("layout") != "tiles":
        counts = np.add.reduceat(mask, np.arange(0, k, 64), axis=1, dtype=np.uint8)
        assert bitmap.counted_bytes(counts, k, kind["value_type"], group,
                                    layout=kind.get("layout", "rows")) == (
            bitmap.blob_bytes(mask, group=group, **kind)
        )  # fmt: skip
    assert bitmap.encode(S, group=group, mask=mask, **kind).size == (
        bitmap.blob_bytes(mask, group=group, **kind)
    )


@pytest.mark.parametrize("per_word", [1, 3, 7, 9, 63, 64])
def test_the_bounds_of_i4_are_reached(per_word: int) -> None:
    """One code over a whole byte in every word is the worst case, a full word the other limit."""
    stored = np.tile(np.arange(64) < per_word, (64, 3))
    if per_word % 2 or per_word == 64:
        assert len(set(checked_size(stored, 64, BLOB_KINDS[2]))) == 1
    if per_word % 8 == 1 or per_word == 64:
        assert len(set(checked_size(stored, 64, BLOB_KINDS[3]))) == 1


@pytest.mark.parametrize("value_type", ["f16", "i8"])
@pytest.mark.parametrize("k", [1, 256, 257, 511, 512, 4096])
def test_the_bound_of_delta_is_reached(value_type: str, k: int) -> None:
    """One value at the end of each row needs as many fillers as a row can have."""
    stored = np.zeros((100, k), bool)
    stored[:, -1] = True
    kind = {"value_type": value_type, "encoding": "delta"}
    assert len(set(checked_size(stored, 64, kind))) == 1
    assert len(set(checked_size(np.zeros_like(stored), 64, kind))) == 1
    assert len(set(checked_size(np.ones_like(stored), 64, kind))) == 1


@pytest.mark.parametrize("value_type", ["f16", "i8"])
def test_delta_is_smaller_below_the_density_that_the_module_names(value_type: str) -> None:
    for density in (bitmap.DELTA_BELOW - 0.02, bitmap.DELTA_BELOW + 0.02):
        stored = np.random.default_rng(0).random((512, 2048)) < density
        delta = bitmap.blob_bytes(stored, value_type, 2048, encoding="delta")
        smaller = delta < bitmap.blob_bytes(stored, value_type, 2048)
        assert smaller == (density < bitmap.DELTA_BELOW)


@pytest.mark.parametrize("kind", FULL_KINDS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (17, 63), (16, 64), (33, 65), (5, 1000)])
def test_the_size_of_full_follows_from_its_shape(kind, n: int, k: int) -> None:
    stored = np.ones((n, k), bool)
    size = bitmap.encoded_bytes(n, k, n * k, group=128, **kind)
    assert size == bitmap.blob_bytes(stored, group=128, **kind)
    assert size == full.encoded_bytes(n, k, kind["value_type"], 128)
    row = {"f16": 2 * k, "i8": k, "i4": k // 64 * 32 + (k % 64 + 1) // 2}[kind["value_type"]]
    parts = [64, 8 * (-(-n // 16) + 1), n * row]
    if kind["value_type"] != "f16":
        parts.append(2 * n * -(-k // 128))
    if kind["value_type"] == "i4":
        parts.append(16)
    assert size == sum(-(-part // 64) * 64 for part in parts) + 64
    with pytest.raises(ValueError, match=r"nnz: got \d+ with encoding 'full', wanted N\*K"):
        bitmap.blob_bytes(~stored, group=128, **kind)


def test_impossible_counts_and_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="nnz 7"):
        bitmap.encoded_bytes(2, 3, 7)
    with pytest.raises(ValueError, match="got 'i4' with encoding 'delta'"):
        bitmap.encoded_bytes(2, 3, 6, "i4", encoding="delta")
    with pytest.raises(ValueError, match="got 'i4' with encoding 'delta'"):
        bitmap.blob_bytes(np.ones((2, 3), bool), "i4", encoding="delta")
    with pytest.raises(ValueError, match=r"got float32 \[2, 3\], wanted bool"):
        bitmap.blob_bytes(np.ones((2, 3), np.float32))
