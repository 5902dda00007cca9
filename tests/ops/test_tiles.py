"""The layout of GPUs: a reader that knows FORMAT.md alone, what is refused, what CPUs say to it."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kernels import NativeKernels
from ops_models import TILE_KINDS, session, sparse, sparse_model

from slc.ops import bitmap
from slc.ops.bitmap_sparse_gemm import bitmap_sparse_gemm
from slc.ops.blob_header import write_header

every_kind = pytest.mark.parametrize("kind", TILE_KINDS, ids=lambda kind: kind["value_type"])


def read(blob: bytes) -> tuple[list[list[float]], int]:
    """(the matrix, how many values are stored), one position after the other."""
    value_type, n, k, nnz, group = struct.unpack_from("<BQQQI", blob, 7)
    assert blob[6] == 1
    assert blob[38] == 2
    (exponent,) = struct.unpack_from("<i", blob, 56)
    tiles, across = -(-n // 16), -(-k // 64)
    blocks, groups = tiles * across, -(-k // group) if group else 0
    offsets, end = [], 64
    for size in (4 * (blocks + 1), 128 * blocks, 32 * tiles * groups, 16 * (value_type == 3)):
        offsets.append(end)
        end = (end + size + 63) // 64 * 64
    at_starts, at_masks, at_scales, at_codebook = offsets
    starts = struct.unpack_from(f"<{blocks + 1}I", blob, at_starts)
    S, stored = [[0.0] * k for _ in range(n)], 0
    position = 0
    for block in range(blocks):
        assert starts[block] * 16 == position
        tile, column_block = divmod(block, across)
        count = 0
        for word in range(32):
            (mask,) = struct.unpack_from("<I", blob, at_masks + 128 * block + 4 * word)
            for bit in range(32):
                if not mask >> bit & 1:
                    continue
                row = 16 * tile + word // 4 % 2 * 8 + word % 4 * 2 + bit // 16
                column = 64 * column_block + word // 8 * 16 + bit % 16
                value = float(one(blob, end + position, count, value_type))
                if value_type == 3:
                    (value,) = struct.unpack_from("b", blob, at_codebook + int(value))
                if groups:
                    index = (tile * groups + column // group) * 16 + row % 16
                    value *= struct.unpack_from("<e", blob, at_scales + 2 * index)[0]
                S[row][column] = math.ldexp(value, exponent)
                count += 1
        stored += count
        position += -(-count * (2, 1, 0.5)[value_type - 1] // 16) * 16
    assert starts[-1] * 16 == position
    assert len(blob) == (end + int(position) + 63) // 64 * 64 + 64
    assert stored == nnz
    return S, stored


def one(blob: bytes, values: float, index: int, value_type: int) -> float:
    at = int(values)
    if value_type == 3:
        return blob[at + index // 2] >> 4 * (index % 2) & 15
    size, code = (2, "<e") if value_type == 1 else (1, "b")
    return float(struct.unpack_from(code, blob, at + size * index)[0])


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 50),
    k=st.integers(1, 300),
    density=st.sampled_from([0, 0.003, 0.05, 0.5, 1]),
    kind=st.sampled_from(TILE_KINDS),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_definition_reads_what_encode_writes(n, k, density, kind, seed) -> None:
    S = sparse(n, k, density, seed)
    blob = bitmap.encode(S, group=128, **kind)
    bitmap.check(blob)
    matrix, stored = read(blob.tobytes())
    np.testing.assert_array_equal(np.array(matrix, np.float32), bitmap.decode(blob))
    assert stored == np.count_nonzero(S)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 150),
    k=st.integers(1, 300),
    density=st.sampled_from([0, 0.05, 0.5, 1]),
    kind=st.sampled_from(TILE_KINDS),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_same_matrix_as_in_rows(n, k, density, kind, seed) -> None:
    """Every value, scale and code is that of the blob in rows."""
    S = sparse(n, k, density, seed)
    rows = bitmap.encode(S, kind["value_type"], 128)
    relaid = bitmap.encode(S, group=128, **kind)
    np.testing.assert_array_equal(bitmap.decode(relaid), bitmap.decode(rows))
    before, after = bitmap.read_header(rows), bitmap.read_header(relaid)
    np.testing.assert_array_equal(after.masks(relaid), before.masks(rows))
    if before.group:
        np.testing.assert_array_equal(after.scales(relaid), before.scales(rows))
        for a, b in zip(bitmap.decode_integers(relaid), bitmap.decode_integers(rows), strict=True):
            np.testing.assert_array_equal(a, b)


@every_kind
def test_the_reference_operator_reads_tiles(kind) -> None:
    S, X = sparse(20, 100, 0.5), np.random.default_rng(0).standard_normal((3, 100), np.float32)
    blob = bitmap.encode(S, **kind)
    np.testing.assert_array_equal(
        bitmap_sparse_gemm(X, blob, N=20, K=100), X @ bitmap.decode(blob).T
    )


def _good(kind: dict[str, str]) -> tuple[np.ndarray, bitmap.Header]:
    blob = bitmap.encode(sparse(35, 200, 0.4), group=128, **kind)
    return blob, bitmap.read_header(blob)


def _assert_refused(blob: np.ndarray, message: str) -> None:
    write_header(blob, bitmap.read_header(blob))  # with a checksum that fits
    with pytest.raises(bitmap.BlobError, match=message):
        bitmap.check(blob)


@every_kind
@pytest.mark.parametrize("entry", [0, 1, 5, 12])
def test_wrong_starts(kind, entry: int) -> None:
    blob, header = _good(kind)
    header.starts(blob)[entry] += 1
    _assert_refused(blob, rf"starts\[{entry}\]: got \d+, wanted")


@every_kind
def test_a_bit_beyond_n_or_k(kind) -> None:
    for block, row, column in ((8, 3, 0), (3, 0, 8)):
        blob, header = _good(kind)  # 3 x 4 blocks; the last has 3 rows, the last column block 8
        words = header.block_masks(blob).view("<u4")
        place = 8 * (column // 16) + row // 8 * 4 + row % 8 // 2
        bit = np.uint32(1 << (16 * (row % 2) + column % 16))
        # One fewer elsewhere in the block: the counts stay.
        at = np.flatnonzero(words[block])[0]
        words[block, at] &= words[block, at] - np.uint32(1)
        words[block, place] |= bit
        _assert_refused(blob, f"row {16 * (block // 4) + row}, column {64 * (block % 4) + column} ")


@every_kind
def test_wrong_counts_and_lengths(kind) -> None:
    blob, header = _good(kind)
    blob[24:32] = np.array([header.nnz + 1], "<u8").view(np.uint8)
    _assert_refused(blob, f"mask bits: got {header.nnz}")
    blob, header = _good(kind)
    with pytest.raises(bitmap.BlobError, match=r"length|total"):
        bitmap.check(blob[:-64])
    blob[36] = 8
    with pytest.raises(bitmap.BlobError, match="tile_rows: got 8, wanted 16 for tiles"):
        bitmap.read_header(blob)


@every_kind
def test_cpus_refuse_it_and_say_why(kind, kernels: NativeKernels) -> None:
    blob, _ = _good(kind)
    error = kernels.check(blob)
    assert error is not None
    assert "--provider cpu" in error
    with pytest.raises(Exception, match="--provider cpu"):
        session(sparse_model(blob, 35, 200))
