"""Damaged blobs are refused with a reason, by numpy, by the native parser and by a session."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import native_kernels
import numpy as np
import pytest
from ops_models import BLOB_KINDS, FULL_KINDS, session, sparse, sparse_model

from slc.ops import bitmap

FIELDS = {  # name: offset, struct code, wrong values
    "magic": (0, "4s", [b"SLCA", b"\0\0\0\0"]),
    "version": (4, "H", [0, 2, 65535]),
    "encoding": (6, "B", [0, 2, 3, 4]),
    "value_type": (7, "B", [0, 3, 4]),
    "n": (8, "Q", [0, 1, 2**40, 2**63, 2**64 - 1]),
    "k": (16, "Q", [0, 1, 64, 2**63, 2**64 - 1]),
    "nnz": (24, "Q", [0, 1, 2**62, 2**64 - 1]),
    "group": (32, "I", [1, 63, 2**32 - 64]),
    "tile_rows": (36, "H", [0, 1, 65535]),
    "layout": (38, "B", [1, 2]),
    "reserved": (39, "B", [1]),
    "values_offset": (40, "Q", [0, 64, 2**63, 2**64 - 1]),
    "total_bytes": (48, "Q", [0, 64, 2**63, 2**64 - 1]),
    "exponent": (56, "i", [-150, 128, -(2**31)]),
    "crc32": (60, "I", [0]),
}
CASES = [(name, wrong) for name, (_, _, values) in FIELDS.items() for wrong in values]


def good_blob(value_type: str = "i8") -> np.ndarray:
    return bitmap.encode(sparse(35, 200, 0.5), value_type, 128)


def resign(blob: np.ndarray) -> np.ndarray:
    """With the checksum made right again, so that the checks behind it have to find the fault."""
    end = min(max(int(blob[40:48].view(np.uint64)[0]), 64), blob.size)
    crc = zlib.crc32(blob[64:end].tobytes(), zlib.crc32(blob[:60].tobytes()))
    blob[60:64] = np.frombuffer(struct.pack("<I", crc), np.uint8)
    return blob


def assert_refused(blob: np.ndarray, kernels: native_kernels.NativeKernels, word: str = "") -> None:
    with pytest.raises(bitmap.BlobError, match=re.escape(word) or "wanted|sizes"):
        bitmap.check(blob)
    error = kernels.check(np.ascontiguousarray(blob))
    assert error is not None, "the native parser accepts it"
    assert word in error


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("name", "wrong"), CASES)
def test_every_header_field(name, wrong, signed, kernels) -> None:
    blob = good_blob()
    offset, code, _ = FIELDS[name]
    field = np.frombuffer(struct.pack("<" + code, wrong), np.uint8)
    blob[offset : offset + field.size] = field
    if signed and name != "crc32":
        blob = resign(blob)
    assert_refused(blob, kernels)


@pytest.mark.parametrize("kind", BLOB_KINDS + FULL_KINDS)
def test_truncation_at_every_section_boundary(kind, kernels) -> None:
    blob = bitmap.encode(sparse(35, 200, 0.5), group=128, **kind)
    header = bitmap.read_header(blob)
    sections = header.sections
    for end in (sections.starts, sections.where, sections.scales, sections.values, blob.size):
        for length in {0, 1, 63, end - 1, end - 64, min(end, blob.size - 1)}:
            assert_refused(blob[:length], kernels)
    assert_refused(np.append(blob, np.uint8(0)), kernels, "length")


@pytest.mark.parametrize("entry", [0, 1, 2, 3])
def test_starts(entry, kernels) -> None:
    blob = good_blob()
    blob[64 + 8 * entry] ^= 1
    assert_refused(blob, kernels, "crc32")
    assert_refused(resign(blob), kernels, "starts")


@pytest.mark.parametrize("row", [0, 15, 16, 34])
def test_a_flipped_mask_bit(row, kernels) -> None:
    blob = good_blob()
    header = bitmap.read_header(blob)
    at = header.sections.where + 8 * header.words * row
    blob[at] ^= 16
    assert_refused(blob, kernels, "crc32")
    assert_refused(resign(blob), kernels, "starts")


def test_a_mask_bit_moved_beyond_k(kernels) -> None:
    blob = good_blob()
    header = bitmap.read_header(blob)
    at = header.sections.where + 8 * header.words * 20
    words = blob[at : at + 8 * header.words].view(np.uint64)
    words[0] &= words[0] - np.uint64(1)  # one bit fewer here, one more there: the count stays
    words[-1] |= np.uint64(1 << 8)
    assert_refused(resign(blob), kernels, "at or above K")


def test_a_codebook_entry_out_of_range(kernels) -> None:
    for layout, entry, wrong in (("rows", 3, 64), ("rows", 0, -64), ("planes", 0, 1)):
        blob = bitmap.encode(sparse(35, 200, 0.5), "i4", layout=layout)
        at = bitmap.read_header(blob).sections.codebook + entry
        blob[at] = np.int8(wrong).view(np.uint8)
        assert_refused(resign(blob), kernels, f"codebook[{entry}]")


def test_delta_columns_and_starts(kernels) -> None:
    S = sparse(35, 200, 0.05)
    S[20, 190] = 1
    blob = bitmap.encode(S, "f16", encoding="delta")
    header = bitmap.read_header(blob)
    beyond = blob.copy()
    last = int(header.starts(blob)[21]) - 1  # of row 20
    beyond[header.sections.where + last] += 20
    assert_refused(resign(beyond), kernels, "row 20")
    for entry, wrong in ((0, 1), (3, 2**40), (35, 0)):
        moved = blob.copy()
        at = header.sections.starts + 8 * entry
        moved[at : at + 8] = np.array([wrong], np.uint64).view(np.uint8)
        assert_refused(resign(moved), kernels, "starts")


@pytest.mark.parametrize("kind", FULL_KINDS)
def test_starts_and_nnz_of_full(kind, kernels) -> None:
    good = bitmap.encode(sparse(35, 200, 1.0), group=128, **kind)
    for entry in range(4):
        blob = good.copy()
        blob[64 + 8 * entry] ^= 64
        length = entry == 3 and kind["value_type"] == "i4"  # of its values: may be checked first
        assert_refused(resign(blob), kernels, "" if length else "starts")
    for field in (8, 16, 24):  # N, K, nnz
        for change in (1, 2, 128):
            blob = good.copy()
            blob[field] ^= change
            assert_refused(resign(blob), kernels)


@pytest.mark.parametrize("kind", FULL_KINDS)
def test_a_full_blob_that_says_another_shape(kind, kernels) -> None:
    """As many values in sections of as many bytes: only starts tell."""
    blob = bitmap.encode(sparse(4, 64, 1.0), **kind)
    blob[8:24] = np.array([32, 8], np.uint64).view(np.uint8)
    assert_refused(resign(blob), kernels, "" if kind["value_type"] == "i4" else "starts")


@pytest.mark.parametrize("kind", FULL_KINDS)
def test_planes_of_full(kind, kernels) -> None:
    blob = bitmap.encode(sparse(4, 64, 1.0), **kind)
    blob[38] = 1
    assert_refused(resign(blob), kernels, "layout: got 1, wanted 0")


def test_more_columns_than_indices_can_count(kernels) -> None:
    blob = bitmap.encode(sparse(3, 20, 0.5), "f16", encoding="delta")
    blob[16:24] = np.array([2**62], np.uint64).view(np.uint8)
    assert_refused(resign(blob), kernels, "sizes beyond 62 bits")


@pytest.mark.parametrize(
    "blob", [np.zeros(0, np.uint8), np.zeros((2, 64), np.uint8), np.zeros(64, np.int8)]
)
def test_what_is_no_blob_at_all(blob) -> None:
    with pytest.raises(bitmap.BlobError, match="wanted uint8"):
        bitmap.read_header(blob)


@pytest.mark.parametrize(("name", "wrong"), CASES[::5])
def test_a_session_refuses(name, wrong) -> None:
    blob = good_blob()
    offset, code, _ = FIELDS[name]
    field = np.frombuffer(struct.pack("<" + code, wrong), np.uint8)
    blob[offset : offset + field.size] = field
    with pytest.raises(Exception, match=r"BitmapSparseGemm: packed blob: .*(wanted|make sizes)"):
        session(sparse_model(resign(blob) if name != "crc32" else blob, 35, 200))


def test_damaged_blobs_under_the_address_sanitizer(tmp_path: Path) -> None:
    native_kernels.build(tmp_path / "build", "fuzz_packed_blob", sanitize="address,undefined")
    files = []
    for i, shape in enumerate([(1, 1), (35, 200), (16, 64), (70, 130), (3, 1100)]):
        for j, kind in enumerate(BLOB_KINDS + FULL_KINDS):
            files.append(tmp_path / f"{i}_{j}.bin")
            bitmap.encode(sparse(*shape, 0.4), **kind).tofile(files[-1])
    fuzzer = str(tmp_path / "build" / "fuzz_packed_blob")
    output = native_kernels.run([fuzzer, "600", "1", *map(str, files)])
    _, refused, _, accepted = output.split()
    assert int(refused) > 1_000
    assert int(accepted) > 100  # damage to values and scales is legal, and was run
