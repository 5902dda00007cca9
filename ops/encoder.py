"""The encoder of :mod:`slc.ops.bitmap` in C++: its bytes, many times faster.

For whoever makes artifacts: ``libslc_encoder.so`` lies beside this file and goes to no device. Its
functions let go of the interpreter, so several matrices can be encoded at a time.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import LibraryNotFoundError, bitmap, codebook
from .blob_grid import Grid
from .blob_header import write_header
from .blob_kinds import Blob, Encoding, Kind, Layout, ValueType, checked_kind
from .blob_values import exponent_of, sample_rows, scale_exponent

__all__ = ["count_words", "encode", "scatter"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.unsignedinteger]

_T = TypeVar("_T", bound=np.generic)

_LIBRARY = "libslc_encoder.so"
_VALUE_TYPES: dict[ValueType, int] = {"f16": 1, "i8": 2, "i4": 3}
_LAYOUTS: dict[Layout, int] = {"rows": 0, "planes": 1}


class _Rows(ctypes.Structure):
    """SlcRows of csrc/encoder/encoder.h."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("stored", ctypes.c_void_p),
        ("masks", ctypes.c_void_p),
        ("given_scales", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("exponent", ctypes.c_int32),
        ("value_type", ctypes.c_int32),
        ("layout", ctypes.c_int32),
    )


def encode(
    S: Floats,
    value_type: ValueType = "f16",
    group: int = 64,
    mask: Bools | None = None,
    *,
    encoding: Encoding = "bitmap",
    layout: Layout = "rows",
    grid: Grid | None = None,
) -> Blob:
    """As :func:`slc.ops.bitmap.encode`: the same arguments, bytes and errors.

    What is no bitmap in rows or planes is left to that.
    """
    if encoding != "bitmap" or layout == "tiles":
        return bitmap.encode(
            S, value_type, group, mask, encoding=encoding, layout=layout, grid=grid
        )
    bitmap.check_matrix(S, mask)
    n, k = S.shape
    kind = checked_kind(k, value_type, group, encoding, layout)
    if grid is not None:
        grid.check(n, k, kind)
    S, mask = _plain(S), None if mask is None else _plain(mask.view(np.uint8) != 0)
    masks, largest = np.empty((n, -(-k // 64)), "<u8"), ctypes.c_float()
    at = _library().slc_encoder_survey(_at(S), _at(mask), n, k, _at(masks), ctypes.byref(largest))
    if at >= 0:
        raise bitmap.not_finite(S, *divmod(at, k))
    scales = None if grid is None else _plain(grid.scales)
    exponent = exponent_of(largest.value, kind) if scales is None else scale_exponent(scales)
    matrix = _Matrix(S, mask, masks, scales, kind, exponent)
    blob, header, section = bitmap.new_blob(masks.view(np.uint8), k, kind, exponent)
    table = None
    if value_type == "i4":
        given = None if grid is None else grid.codebook
        header.codebook(blob)[:] = matrix.fitted_codebook() if given is None else given
        table = codebook.code_table(header.codebook(blob))
    matrix.fill(section, header.scales(blob), table)
    write_header(blob, header)
    return blob


@dataclass(frozen=True)
class _Matrix:
    """S on its way into a blob; arrays are contiguous."""

    S: Floats
    mask: Bools | None
    masks: npt.NDArray[np.uint64]
    scales: Floats | None
    kind: Kind
    exponent: int

    def fitted_codebook(self) -> npt.NDArray[np.int8]:
        counts = np.zeros(codebook.HISTOGRAM_BINS)
        for sample in sample_rows(self.masks, self.S.shape[1]):
            mask = None if self.mask is None else self.mask[sample]
            scales = None if self.scales is None else self.scales[sample]
            part = replace(
                self, S=self.S[sample], mask=mask, masks=self.masks[sample], scales=scales
            )
            own = np.zeros_like(counts)
            _library().slc_encoder_histogram(ctypes.byref(part.rows(None)), _at(own))
            counts += own
        return codebook.fit(counts, zero_first=self.kind.layout == "planes")

    def fill(self, section: Blob, scales: npt.NDArray[np.float16], table: Blob | None) -> None:
        """Writes values and scales; ``scales`` is a view of the blob."""
        rows = self.rows(table)
        length = _library().slc_encoder_values(ctypes.byref(rows), _at(scales), _at(section))
        assert length == section.size, (length, section.size)

    def rows(self, table: Blob | None) -> _Rows:
        n, k = self.S.shape
        kind = self.kind
        return _Rows(
            _at(self.S), _at(self.mask), _at(self.masks), _at(self.scales), _at(table), n, k,
            kind.group, self.exponent, _VALUE_TYPES[kind.value_type], _LAYOUTS[kind.layout],
        )  # fmt: skip


def scatter(index: Index, value: Floats, S: Floats) -> None:
    """``S.reshape(-1)[index] = value``.

    Args:
        index: u32 or u64 [count], each below S.size.
        value: float32 [count], finite.
        S: contiguous float32.

    Raises:
        ValueError: an index is out of range, or a value is not finite: S may be half filled then;
            or there are not as many values, or S is of another kind.
    """
    plain = S.dtype == np.float32 and S.flags.c_contiguous and S.flags.aligned and S.flags.writeable
    if not plain or value.shape != index.shape:
        got = f"{index.size} indices and {value.size} values for {S.dtype} {list(S.shape)}"
        raise ValueError(f"got {got}, wanted as many values and contiguous float32")
    if index.dtype == np.uint32:
        index, value = _plain(index), _plain(value.astype(np.float32, copy=False))
        found = _library().slc_encoder_scatter(_at(index), _at(value), index.size, S.size, _at(S))
    else:  # of matrices with 2^32 elements or more
        found = -1 if index.max(initial=0) >= S.size else 0 if np.isfinite(value).all() else -2
        if found == 0:
            S.reshape(-1)[index] = value
    if found != 0:
        what = "an index beyond its end" if found == -1 else "a value that is not finite"
        raise ValueError(f"S of {S.size} elements: got {what}")


def count_words(index: Index, numel: int) -> npt.NDArray[np.uint8]:
    """How many indices lie in each 64 positions: u8 [numel / 64].

    Args:
        index: u32 or u64 [count].
        numel: a multiple of 64.

    Raises:
        ValueError: numel is none, an index is out of range, or more than 64 lie in one word.
    """
    if numel % 64:
        raise ValueError(f"numel: got {numel}, wanted a multiple of 64")
    if index.dtype == np.uint32:
        index, counts = _plain(index), np.zeros(numel // 64, np.uint8)
        found = _library().slc_encoder_count(_at(index), index.size, numel, _at(counts))
    else:
        found, counts = -1, np.zeros(0, np.uint8)
        if index.max(initial=0) < numel:
            many = np.bincount((index // 64).astype(np.int64), minlength=numel // 64)
            found, counts = 0 if many.max(initial=0) <= 64 else -2, many.astype(np.uint8)
    if found != 0:
        what = "an index beyond its end" if found == -1 else "an index twice"
        raise ValueError(f"S of {numel} elements: got {what}")
    return counts


def _plain(array: npt.NDArray[_T]) -> npt.NDArray[_T]:
    """The same as C++ takes it: contiguous and aligned."""
    return np.require(array, requirements=["C", "A"])


def _at(array: npt.NDArray[Any] | None) -> int | None:
    """Where its elements lie; whoever asks keeps the array alive."""
    return None if array is None else array.ctypes.data


@functools.cache
def _library() -> Any:
    path = importlib.resources.files(__package__).joinpath(_LIBRARY)
    if not path.is_file():
        raise LibraryNotFoundError(
            f"this installation of slc has no {_LIBRARY} at {path}; install slc-compiler from a "
            "wheel, or with a C++ compiler from its source"
        )
    library = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    signatures = {
        "survey": (number, [pointer, pointer, number, number, pointer, pointer]),
        "values": (number, [pointer, pointer, pointer]),
        "histogram": (None, [pointer, pointer]),
        "scatter": (ctypes.c_int32, [pointer, pointer, number, number, pointer]),
        "count": (ctypes.c_int32, [pointer, number, number, pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"slc_encoder_{name}")
        function.restype, function.argtypes = result, arguments
    return library
