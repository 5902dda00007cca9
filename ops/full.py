"""Full blobs: every position of W [N, K] is stored, so there is no mask. See FORMAT.md.

For weights that are not sparse, beside onnxruntime's MatMulNBits: that packs its weights again when
a session is made, while a blob is used where it is mapped. Reading is the business of
:mod:`slc.ops.bitmap`: ``decode``, ``decode_integers``, ``check`` and ``read_header`` know the
encoding from the blob.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from . import bitmap
from .blob_grid import Grid
from .blob_header import write_header
from .blob_kinds import LEVELS, Blob, ValueType, checked_kind
from .blob_values import f16_scales, scale_exponent
from .positions import chunks, full_masks

__all__ = ["encode", "encode_codes", "encoded_bytes"]

Codes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]

# The codebook for codes that are their own values.
_INT4 = np.arange(-8, 8, dtype=np.int8)


def encode(
    W: Floats, value_type: ValueType = "i4", group: int = 64, *, grid: Grid | None = None
) -> Blob:
    """Pack W: float32 [N, K] into a full blob: uint8 [bytes].

    Args:
        W: finite values.
        value_type: "f16", "i8" or "i4", with the rounding of :func:`slc.ops.bitmap.encode`.
        group: columns that share a scale, a multiple of 64; ignored for "f16".
        grid: the scales and the codebook, where they have been chosen: each value becomes the
            nearest of its levels.

    Raises:
        ValueError: wrong shape, type, group, or a value that is NaN or infinite.
    """
    return bitmap.encode(W, value_type, group, encoding="full", grid=grid)


def encode_codes(
    codes: Codes,
    scales: Floats,
    value_type: Literal["i8", "i4"] = "i4",
    group: int = 64,
    *,
    codebook: Codes | None = None,
) -> Blob:
    """Pack weights that are integers times a scale; every integer is kept.

    A scale is kept if it is an f16 number times 2^e, e the same for all scales, and rounded to the
    nearest such number otherwise: by 2^-11 of itself at most, more where it is below 2^-28 of the
    largest.

    Args:
        codes: int8 [N, K]; -127 ... 127 for "i8", entries of the codebook for "i4".
        scales: float32 [N, ceil(K / group)], finite, of either sign.
        value_type: "i8" or "i4".
        group: columns that share a scale, a multiple of 64.
        codebook: int8 [16] of -63 ... 63, for "i4"; -8 ... 7 when left out.

    Raises:
        ValueError: wrong shape, type or group, a scale that is not finite, or a code that the value
            type cannot keep.
    """
    if codes.dtype != np.int8 or codes.ndim != 2 or 0 in codes.shape:
        raise ValueError(
            f"codes: got {codes.dtype} {list(codes.shape)}, wanted int8 [N, K], N and K >= 1"
        )
    n, k = codes.shape
    kind = checked_kind(k, value_type, group, "full", "rows")
    if value_type == "i4" and codebook is None:
        codebook = _INT4
    Grid(scales, codebook).check(n, k, kind)
    masks = full_masks(n, k)
    blob, header, section = bitmap.new_blob(masks, k, kind, scale_exponent(scales))
    header.scales(blob)[:] = f16_scales(scales, header.exponent)
    if codebook is None:
        levels = np.arange(-LEVELS["i8"], LEVELS["i8"] + 1, dtype=np.int8)
        _check_codes(codes, levels, f"-{LEVELS['i8']} ... {LEVELS['i8']}")
        section.view(np.int8)[:] = codes.reshape(-1)
    else:
        _check_codes(codes, codebook, f"an entry of the codebook {codebook.tolist()}")
        header.codebook(blob)[:] = codebook
        _fill_runs(section, codes, codebook)
    write_header(blob, header)
    return blob


def _check_codes(codes: Codes, known: Codes, wanted: str) -> None:
    strange = ~np.isin(np.arange(-128, 128), known)
    for rows in chunks(*codes.shape):
        wrong = strange[codes[rows].astype(np.int16) + 128]
        if wrong.any():
            row, column = np.argwhere(wrong)[0] + (rows.start, 0)
            raise ValueError(f"codes[{row}, {column}]: got {codes[row, column]}, wanted {wanted}")


def _fill_runs(section: Blob, codes: Codes, codebook: Codes) -> None:
    """Two codes a byte, each the number of its codebook entry."""
    n, k = codes.shape
    number = np.zeros(256, np.uint8)
    number[codebook.view(np.uint8)] = np.arange(codebook.size)
    # Runs of 64 fill whole bytes, so those of a row are one run of all its codes.
    by_row = section.reshape(n, -1)
    for rows in chunks(n, k):
        numbers = number[codes[rows].view(np.uint8)]
        by_row[rows] = numbers[:, 0::2]
        by_row[rows, : k // 2] |= numbers[:, 1::2] << 4


def encoded_bytes(n: int, k: int, value_type: ValueType = "i4", group: int = 64) -> int:
    """Length in bytes of the full blob of any [n, k] matrix: exact.

    Raises:
        ValueError: impossible counts, or a group that is no multiple of 64.
    """
    return bitmap.encoded_bytes(n, k, n * k, value_type, group, encoding="full")
