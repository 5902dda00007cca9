"""Safetensors read without loading them: the header is checked, rows come by plain reads.

The format (https://github.com/huggingface/safetensors#format): a little-endian uint64 length n,
n bytes of JSON `{name: {dtype, shape, data_offsets}}`, then the data the offsets count from.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from slc.compiler.errors import ModelError
from slc.compiler.frontends.weights import first_non_finite

_BLOCK_ELEMS = 4 << 20
_HEADER_BYTES_MAX = 100_000_000  # the reference implementation's own limit

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "BOOL": np.dtype("?"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One tensor of a safetensors file, on disk.

    Attributes:
      name: as in the file.
      shape: e.g. (N, K).
      dtype: of the elements on disk.
      path: the file.
      offset: of the first element, in bytes from the file's start.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    path: Path
    offset: int

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def flat(self, start: int, stop: int) -> np.ndarray:
        """Reads elements [start, stop) in storage order, in the type on disk."""
        return np.fromfile(
            self.path,
            dtype=self.dtype,
            count=stop - start,
            offset=self.offset + start * self.dtype.itemsize,
        )

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Reads rows [start, stop) of the first axis as float32, shape [stop − start, ...]."""
        row_elems = math.prod(self.shape[1:])
        flat = self.flat(start * row_elems, stop * row_elems)
        return flat.astype(np.float32).reshape(stop - start, *self.shape[1:])

    def mapped(self) -> np.ndarray:
        """Maps the tensor; the pages touched count as ours until the array is dropped."""
        return np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape)


def parameters_of(path: Path) -> dict[str, Parameter]:
    """Lists a safetensors file's tensors after checking that the file is whole.

    Raises:
      ModelError: not a safetensors file, truncated, or its header contradicts itself.
    """
    size = os.path.getsize(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_BYTES_MAX):
            raise _damaged(path, f"{size} bytes long, its header alone needs {length + 8}")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            return {
                name: _parameter(path, name, entry, 8 + length, size)
                for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, f"header: {error}") from error


def _parameter(path: Path, name: str, entry: Any, base: int, size: int) -> Parameter:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise ModelError(
            f"tensor {name!r} in {path.name!r} has type {entry['dtype']!r}, which slc can't read: "
            f"save the model in one of {', '.join(_DTYPES)}"
        )
    shape = tuple(int(d) for d in entry["shape"])
    start, stop = (int(o) for o in entry["data_offsets"])
    if base + stop > size:
        raise _damaged(path, f"tensor {name!r} ends at byte {base + stop} of {size}")
    if stop - start != math.prod(shape) * dtype.itemsize or min(start, *shape, 0) < 0:
        raise _damaged(path, f"tensor {name!r} has {stop - start} bytes for shape {list(shape)}")
    return Parameter(name, shape, dtype, path, base + start)


def _damaged(path: Path, detail: str) -> ModelError:
    return ModelError(
        f"{str(path)!r} is truncated or damaged ({detail}): download or save the file again"
    )


def non_finite(parameters: dict[str, Parameter]) -> Iterator[str]:
    """Names the floating-point tensors that hold a NaN or an infinity, reading block by block."""
    for parameter in parameters.values():
        for start in range(0, parameter.numel, _BLOCK_ELEMS):
            block = parameter.flat(start, min(parameter.numel, start + _BLOCK_ELEMS))
            if first_non_finite(block) is not None:
                yield parameter.name
                break
