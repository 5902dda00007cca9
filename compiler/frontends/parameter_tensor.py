"""A graph's weight that is still in the model's own files: read from there, row by row.

Builders store W: [N, K] transposed and in f32, whatever the files have. Nothing but these two
things, and that several parameters may lie below each other (a fused QKV projection), is between
the file and the tensor, so no copy of the weights has to be made.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from slc.compiler.block_tensor import BlockTensor, Piece
from slc.compiler.errors import ModelError

_BLOCK_BYTES = 8 << 20  # of rows, which lie together in the file
_TRANSPOSED_ROWS = 256  # at a time: what is read and what is written both stay in the cache
_COLUMN_BLOCK_BYTES = 64 << 20  # of columns: each block walks the file from its start to its end


@dataclasses.dataclass(frozen=True)
class FileRows:
    """Rows of one parameter: [rows, K] in storage order from `offset` on, in bytes, of `path`."""

    path: Path
    offset: int
    dtype: str  # "float32", "float16" or "bfloat16"
    rows: int

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Of the elements in the file."""
        return np.dtype(ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype)


class ParameterTensor(BlockTensor):
    """W: [N, K], or its transpose, put together of rows in files.

    Attributes:
      parts: one below the other.
      transposed: the tensor is Wᵀ: [K, N].
      columns: K.
    """

    def __init__(
        self,
        parts: Sequence[FileRows],
        columns: int,
        dtype: ir.DataType,
        *,
        transposed: bool,
        name: str | None = None,
    ) -> None:
        rows = sum(part.rows for part in parts)
        shape = (columns, rows) if transposed else (rows, columns)
        super().__init__(self._pieces, dtype, ir.Shape(shape), name=name)
        self.parts = tuple(parts)
        self.transposed = transposed
        self.columns = columns

    def source_rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of W in the tensor's type, whatever way it holds W.

        Raises:
          ModelError: a file is no longer what it was.
        """
        out = np.empty((stop - start, self.columns), self.dtype.numpy())
        for part, first, last, at in self._between(start, stop):
            row_bytes = self.columns * part.numpy_dtype.itemsize
            step = max(1, _BLOCK_BYTES // row_bytes)
            for row in range(first, last, step):
                count = min(step, last - row)
                there = at + row - first
                with _reading(part):
                    flat = np.fromfile(
                        part.path,
                        part.numpy_dtype,
                        count=count * self.columns,
                        offset=part.offset + row * row_bytes,
                    )
                    out[there : there + count] = flat.reshape(count, self.columns)
        return out

    def source_columns(self, start: int, stop: int) -> np.ndarray:
        """Columns [start, stop) of W as [stop − start, N], in the tensor's type.

        Raises:
          ModelError: a file is no longer what it was.
        """
        rows = sum(part.rows for part in self.parts)
        out = np.empty((stop - start, rows), self.dtype.numpy())
        at = 0
        for part in self.parts:
            # A map of its own for every block: the pages it touched are given back with it.
            shape = (part.rows, self.columns)
            with _reading(part):
                mapped = np.memmap(part.path, part.numpy_dtype, "r", part.offset, shape)
            for row in range(0, part.rows, _TRANSPOSED_ROWS):
                some = mapped[row : row + _TRANSPOSED_ROWS, start:stop]
                out[:, at + row : at + row + len(some)] = some.T
            at += part.rows
        return out

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of the tensor, which are columns of W where it is transposed."""
        if self.transposed:
            return self.source_columns(start, stop)
        return self.source_rows(start, stop)

    def row_blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of the tensor's rows that are best read at once."""
        rows = int(self.shape.numpy()[0])
        size = _COLUMN_BLOCK_BYTES if self.transposed else _BLOCK_BYTES
        step = max(1, size * rows // max(1, self.nbytes))
        return ((start, min(rows, start + step)) for start in range(0, rows, step))

    def _pieces(self) -> Iterator[Piece]:
        return (partial(self.rows, start, stop) for start, stop in self.row_blocks())

    def _between(self, start: int, stop: int) -> Iterator[tuple[FileRows, int, int, int]]:
        """(part, its first row, one past its last, where that is) of rows [start, stop)."""
        begin = 0
        for part in self.parts:
            first, last = max(start - begin, 0), min(stop - begin, part.rows)
            if first < last:
                yield part, first, last, begin + first - start
            begin += part.rows


@contextlib.contextmanager
def _reading(part: FileRows) -> Iterator[None]:
    """A file that is gone, or shorter than it was when its header was read, as one sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{str(part.path)!r} can't be read where it held weights when the export began "
            f"({error}): leave the model's files alone meanwhile, or download them again"
        ) from error


def to_json(parts: Sequence[FileRows], columns: int, *, transposed: bool) -> dict[str, Any]:
    """What `from_json` reads."""
    rows = [{**dataclasses.asdict(part), "path": str(part.path)} for part in parts]
    return {"parts": rows, "columns": columns, "transposed": transposed}


def from_json(document: dict[str, Any], dtype: ir.DataType, name: str) -> ParameterTensor:
    """The tensor that was described by `to_json`."""
    parts = [FileRows(**{**part, "path": Path(part["path"])}) for part in document["parts"]]
    columns, transposed = document["columns"], document["transposed"]
    return ParameterTensor(parts, columns, dtype, transposed=transposed, name=name)
