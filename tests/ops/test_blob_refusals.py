"""What numpy refuses in i4 and delta blobs, past the checksum. See also test_corrupt_blobs.py."""

from __future__ import annotations

import numpy as np
import pytest
from ops_models import BLOB_KINDS, FULL_KINDS, sparse

from slc.ops import bitmap
from slc.ops.blob_header import write_header

F16, I8, ROWS, PLANES, DELTA_F16, DELTA_I8 = BLOB_KINDS


def good(kind: dict[str, str]) -> tuple[np.ndarray, bitmap.Header]:
    blob = bitmap.encode(sparse(35, 600, 0.1), group=128, **kind)
    return blob, bitmap.read_header(blob)


def assert_refused(blob: np.ndarray, message: str) -> None:
    """Also with a checksum that fits."""
    with pytest.raises(bitmap.BlobError, match="wanted"):
        bitmap.check(blob)
    header = bitmap.read_header(blob)
    write_header(blob, header)
    with pytest.raises(bitmap.BlobError, match=message):
        bitmap.check(blob)


@pytest.mark.parametrize(
    ("kind", "offset", "byte", "message"),
    [
        (F16, 6, 4, "encoding: got 4, wanted 1 or 2 or 3"),
        (F16, 7, 4, "value_type: got 4, wanted 1 or 2 or 3"),
        (DELTA_I8, 7, 3, "value_type: got 3, wanted 1 or 2"),
        (I8, 38, 1, "layout: got 1, wanted 0"),
        (FULL_KINDS[2], 38, 1, "layout: got 1, wanted 0"),
        (FULL_KINDS[2], 32, 32, "group: got 32, wanted a positive multiple of 64 for i4"),
        (DELTA_F16, 38, 1, "layout: got 1, wanted 0"),
        (ROWS, 38, 3, "layout: got 3, wanted 0 or 1 or 2"),
        (I8, 38, 3, "layout: got 3, wanted 0 or 2"),
        (DELTA_F16, 36, 16, "tile_rows: got 16, wanted 1 for delta"),
        (I8, 6, 2, "tile_rows: got 16, wanted 1 for delta"),
        (ROWS, 32, 65, "group: got 65, wanted a positive multiple of 64 for i4"),
        (DELTA_F16, 32, 64, "group: got 64, wanted 0 for f16"),
    ],
)
def test_header_fields(kind, offset: int, byte: int, message: str) -> None:
    blob, _ = good(kind)
    blob[offset] = byte
    with pytest.raises(bitmap.BlobError, match=message):
        bitmap.read_header(blob)


def test_a_delta_group_below_k() -> None:
    blob, _ = good(DELTA_I8)
    blob[32:36] = np.array([576], "<u4").view(np.uint8)
    with pytest.raises(bitmap.BlobError, match="group: got 576, wanted K = 600 or more for delta"):
        bitmap.read_header(blob)


@pytest.mark.parametrize("kind", [ROWS, PLANES])
@pytest.mark.parametrize("entry", [0, 1, 3])
def test_starts_of_i4(kind, entry: int) -> None:
    blob, header = good(kind)
    header.starts(blob)[entry] += 1
    assert_refused(blob, rf"starts\[{entry}\]")


@pytest.mark.parametrize("kind", [ROWS, PLANES])
def test_nnz_of_i4_counts_values_not_bytes(kind) -> None:
    blob, header = good(kind)
    blob[24:32] = np.array([header.nnz + 1], "<u8").view(np.uint8)
    assert_refused(blob, f"mask bits: got {header.nnz}, wanted nnz = {header.nnz + 1}")


@pytest.mark.parametrize("kind", [ROWS, PLANES])
@pytest.mark.parametrize("value", [-128, -64, 64, 127])
def test_codebook_entries_out_of_range(kind, value: int) -> None:
    blob, header = good(kind)
    header.codebook(blob)[15] = value
    assert_refused(blob, rf"codebook\[15\]: got {value}, wanted -63 ... 63")


def test_codebook_of_planes_without_zero() -> None:
    blob, header = good(PLANES)
    header.codebook(blob)[0] = 1
    assert_refused(blob, r"codebook\[0\]: got 1, wanted 0 for planes")
    blob[38] = 0
    write_header(blob, bitmap.read_header(blob))
    with pytest.raises(bitmap.BlobError, match="starts"):  # rows has other run lengths
        bitmap.check(blob)


@pytest.mark.parametrize("kind", [DELTA_F16, DELTA_I8])
def test_starts_of_delta(kind) -> None:
    for entry, change, message in (
        (0, 1, r"starts\[0\]: got 1, wanted 0"),
        (7, 2**40, r"starts\[8\]: got \d+, wanted \d+ or more"),
        (35, 1, r"starts\[35\]: got \d+, wanted nnz"),
        (35, 2**63, r"starts\[35\]: got \d+, wanted nnz"),
    ):
        blob, header = good(kind)
        header.starts(blob)[entry] += np.uint64(change)
        assert_refused(blob, message)


@pytest.mark.parametrize("kind", [DELTA_F16, DELTA_I8])
@pytest.mark.parametrize("row", [0, 20, 34])
def test_a_column_at_or_above_k(kind, row: int) -> None:
    blob, header = good(kind)
    begin, end = header.starts(blob)[row : row + 2]
    gaps = header.gaps(blob)[int(begin) : int(end)]
    gaps[:] = 0
    gaps[:3] = [255, 255, 89]
    write_header(blob, header)
    bitmap.check(blob)  # column 599, the last
    gaps[4] += 1
    assert_refused(blob, f"row {row}: got column 600, wanted less than K = 600")


@pytest.mark.parametrize("kind", BLOB_KINDS + FULL_KINDS, ids=lambda kind: "_".join(kind.values()))
def test_lengths(kind) -> None:
    blob, header = good(kind)
    at = header.sections
    for end in (64, at.where, at.scales, at.codebook, at.values, blob.size):
        for length in (end - 1, end - 64, min(end, blob.size - 1)):
            with pytest.raises(bitmap.BlobError, match="wanted"):
                bitmap.check(blob[:length])
    with pytest.raises(bitmap.BlobError, match="length: got"):
        bitmap.check(np.append(blob, np.uint8(0)))
    blob[48] ^= 64
    assert_refused(blob, "total_bytes: got")


@pytest.mark.parametrize("kind", BLOB_KINDS + FULL_KINDS, ids=lambda kind: "_".join(kind.values()))
@pytest.mark.parametrize("field", [8, 16])
def test_sizes_beyond_62_bits(kind, field: int) -> None:
    blob, _ = good(kind)
    blob[field : field + 8] = 255
    with pytest.raises(bitmap.BlobError, match=r"sizes beyond 62 bits|wanted K = 1844"):
        bitmap.check(blob)


@pytest.mark.parametrize("kind", BLOB_KINDS + FULL_KINDS, ids=lambda kind: "_".join(kind.values()))
def test_random_damage_is_refused_or_harmless(kind) -> None:
    rng = np.random.default_rng(0)
    original, _ = good(kind)
    for _ in range(300):
        blob = original.copy()
        blob[rng.integers(0, blob.size, 3)] = rng.integers(0, 256, 3)
        try:
            header = bitmap.read_header(blob)
            write_header(blob, header)
            bitmap.check(blob)
        except bitmap.BlobError:
            continue
        if header.n * header.k < 2**20:  # a delta blob may say that it has any number of columns
            with np.errstate(invalid="ignore", over="ignore"):  # f16 values may become infinite
                assert bitmap.decode(blob).shape == (header.n, header.k)
