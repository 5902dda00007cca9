"""A reader in plain Python that knows FORMAT.md and nothing of slc.ops, against encode."""

from __future__ import annotations

import itertools
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_models import BLOB_KINDS, FULL_KINDS, sparse

from slc.ops import bitmap

HEADER = ("encoding", "value_type", "n", "k", "nnz", "group", "tile_rows", "layout", "reserved")


def read(blob: bytes) -> tuple[list[list[float]], list[list[int]]]:
    """(the matrix, how many values landed on each position), one value after the other."""
    fields = struct.unpack("<BBQQQIHBB", blob[6:40])
    h = dict(zip(HEADER, fields, strict=True))
    exponent = struct.unpack("<i", blob[56:60])[0]
    n, k, words, f16 = h["n"], h["k"], -(-h["k"] // 64), h["value_type"] == 1
    groups = -(-k // h["group"]) if h["group"] else 0
    where_bytes = {1: 8 * n * words, 2: h["nnz"], 3: 0}[h["encoding"]]
    lengths = (
        8 * (-(-n // h["tile_rows"]) + 1),
        where_bytes,
        2 * n * groups,
        16 if h["value_type"] == 3 else 0,
    )
    offset, parts = 64, []
    for length in lengths:
        parts.append(blob[offset : offset + length])
        offset = (offset + length + 63) // 64 * 64
    starts = [entry for (entry,) in struct.iter_unpack("<Q", parts[0])]
    scales = [entry for (entry,) in struct.iter_unpack("<e", parts[2])]
    book = struct.unpack("16b", parts[3]) if parts[3] else ()
    values = offset

    def scaled(row: int, column: int, value: float) -> float:
        scale = scales[row * groups + column // h["group"]] if groups else 1.0
        return math.ldexp(value * scale, exponent)

    S, landed = [[0.0] * k for _ in range(n)], [[0] * k for _ in range(n)]
    position = 0  # in units of starts
    for row in range(n):
        if row % h["tile_rows"] == 0:
            assert starts[row // h["tile_rows"]] == position
        if h["encoding"] == 2:
            column = 0
            for at in range(starts[row], starts[row + 1]):
                column += parts[1][at]
                value = one(blob, values, at, f16)
                S[row][column] += scaled(row, column, value)
                landed[row][column] += 1
            position = starts[row + 1]
            continue
        for word in range(words):
            mask = int.from_bytes(parts[1][8 * (row * words + word) :][:8], "little")
            if h["encoding"] == 3:
                mask = 2 ** min(64, k - 64 * word) - 1
            columns = [64 * word + j for j in range(64) if mask >> j & 1]
            if book:
                run = codes(blob[values + position :], len(columns), h["layout"])
                read_values = [book[code] for code in run]
                step = -(-len(columns) // 2) if h["layout"] == 0 else 4 * -(-len(columns) // 8)
            else:
                step = len(columns)
                read_values = [one(blob, values, position + i, f16) for i in range(step)]
            for column, value in zip(columns, read_values, strict=True):
                S[row][column] = scaled(row, column, value)
                landed[row][column] += 1
            position += step
    assert starts[-1] == position
    end = (values + position * (2 if f16 else 1) + 63) // 64 * 64 + 64
    assert len(blob) == end
    return S, landed


def one(blob: bytes, values: int, index: int, f16: bool) -> float:
    size, code = (2, "<e") if f16 else (1, "b")
    return struct.unpack_from(code, blob, values + size * index)[0]


def codes(run: bytes, count: int, layout: int) -> list[int]:
    if layout == 0:
        return [run[j // 2] >> 4 * (j % 2) & 15 for j in range(count)]
    plane = -(-count // 8)
    return [
        sum((run[plane * bit + j // 8] >> j % 8 & 1) << bit for bit in range(4))
        for j in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    k=st.one_of(st.integers(1, 200), st.integers(500, 1100)),
    density=st.sampled_from([0, 0.003, 0.05, 0.5, 1]),
    kind=st.sampled_from(BLOB_KINDS + FULL_KINDS),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_definition_reads_what_encode_writes(n, k, density, kind, seed) -> None:
    S = sparse(n, k, density, seed)
    blob = bitmap.encode(S, group=128, **kind)
    read_S, landed = read(blob.tobytes())
    assert np.array_equal(np.array(read_S, np.float32), bitmap.decode(blob))
    stored = np.array(landed)
    assert stored.max() <= 1
    assert np.all(stored[S != 0] == 1)
    if kind.get("encoding", "bitmap") == "bitmap":
        assert np.all(stored[S == 0] == 0)
    if kind.get("encoding") == "full":
        assert np.all(stored == 1)


@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_runs_of_every_length(layout: str) -> None:
    """Words with 0 ... 64 values, and every code in every place of a run."""
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random((65, 64)), axis=1)
    mask = order < np.arange(65)[:, None]
    levels = np.array([*range(-63, 0, 8), *range(7, 64, 8)], np.float32)
    S = np.where(mask, levels[(np.arange(64) + np.arange(65)[:, None]) % 16], np.float32(0))
    S[:, 0] = np.where(mask[:, 0], np.float32(63), 0)
    blob = bitmap.encode(S, "i4", layout=layout)
    S_read, _ = read(blob.tobytes())
    assert np.array_equal(np.array(S_read, np.float32), bitmap.decode(blob))


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 257, 509, 510, 511, 512, 765, 766])
def test_fillers_bridge_gaps(gap: int) -> None:
    columns = [gap, gap + 1, 2 * gap + 2]
    S = np.zeros((3, 2 * gap + 3), np.float32)
    S[0, columns], S[2, columns[1:]] = [1, 2, 3], [4, 5]
    blob = bitmap.encode(S, encoding="delta")
    header = bitmap.read_header(blob)
    wanted = []
    for row in (columns, columns[1:]):
        for before, column in itertools.pairwise([0, *row]):
            fillers = max(column - before - 1, 0) // 255
            wanted += [255] * fillers + [column - before - 255 * fillers]
    assert header.gaps(blob).tolist() == wanted
    assert np.array_equal(bitmap.decode(blob), S)


def test_values_that_land_on_one_position_add_up() -> None:
    """Legal in a delta blob though the writer makes none: a byte of 0 stays on its column."""
    blob = bitmap.encode(np.array([[0, 1, 2, 4]], np.float32), encoding="delta")
    header = bitmap.read_header(blob)
    header.gaps(blob)[:] = [2, 0, 1]
    from slc.ops.blob_header import write_header

    write_header(blob, header)
    assert bitmap.decode(blob).tolist() == [[0, 0, 3, 4]]
