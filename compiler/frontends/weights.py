"""Weights read one piece at a time: from mapped ONNX data without keeping its pages.

A memory map that stays open counts every page it ever touched as ours. So rows are read with
plain reads at an offset, and a matrix is put together in its final orientation block by block:
one matrix is the most that is ever held.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from slc.compiler.block_tensor import Piece
from slc.compiler.errors import ModelError
from slc.compiler.frontends.parameter_tensor import ParameterTensor
from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear

_BLOCK_BYTES = 8 << 20  # read at once: large enough for the disk, small beside any matrix
_TRANSPOSED_ROWS = 16  # at a time: a cache line of the transpose
_MATRIX_BLOCK_BYTES = 32 << 20  # of W in f32, where it is worked on in pieces

FLOAT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def read_rows(tensor: ir.TensorProtocol, start: int, stop: int) -> np.ndarray:
    """Reads rows [start, stop) of a tensor whose first axis counts the rows.

    Args:
      tensor: what lies in a file costs the rows' bytes, others what their `numpy()` costs.
      start: the first row.
      stop: one past the last row.

    Returns:
      Array of the tensor's own type, shape [stop - start, ...].
    """
    if isinstance(tensor, ParameterTensor):
        return tensor.rows(start, stop)
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy()[start:stop])
    shape = tensor.shape.numpy()
    row_elems = int(np.prod(shape[1:], dtype=np.int64))
    dtype = np.dtype(tensor.dtype.numpy())
    # Not tensor.numpy(): that maps the whole file, and refuses data behind a symbolic link, which
    # is how Hugging Face's download cache stores every file.
    flat = np.fromfile(
        tensor.path,
        dtype=dtype,
        count=(stop - start) * row_elems,
        offset=(tensor.offset or 0) + start * row_elems * dtype.itemsize,
    )
    return flat.reshape(stop - start, *shape[1:])


def row_blocks(tensor: ir.TensorProtocol) -> Iterable[tuple[int, int]]:
    """Cuts a tensor's rows into ranges that are best read at once, in order."""
    if isinstance(tensor, ParameterTensor):
        return tensor.row_blocks()
    rows = int(tensor.shape.numpy()[0])
    step = max(1, _BLOCK_BYTES * rows // max(1, tensor.nbytes))
    return ((start, min(rows, start + step)) for start in range(0, rows, step))


def matrix(tensor: ir.TensorProtocol, transposed: bool) -> np.ndarray:
    """Reads a 2-D tensor as float32.

    Args:
      tensor: of shape [N, K], or [K, N] when `transposed`.
      transposed: whether to return the transpose of what is stored.

    Returns:
      float32 [N, K], contiguous.
    """
    rows, columns = (int(d) for d in tensor.shape.numpy())
    if isinstance(tensor, ParameterTensor) and tensor.transposed == transposed:
        W = tensor.source_rows(0, columns if transposed else rows)
        return np.asarray(W, np.float32)
    out = np.empty((columns, rows) if transposed else (rows, columns), np.float32)
    target = out.T if transposed else out
    if not isinstance(tensor, (ir.ExternalTensor, ParameterTensor)):
        target[...] = tensor.numpy()
        return out
    for start, stop in row_blocks(tensor):
        target[start:stop] = read_rows(tensor, start, stop)
    return out


def matrix_pieces(tensor: ir.TensorProtocol, transposed: bool) -> Iterator[Piece]:
    """Each reads some rows of what `matrix` does: float32 [rows, K], rows below rows.

    What is computed when it is read comes in one piece.
    """
    rows, columns = (int(d) for d in tensor.shape.numpy())
    N, K = (columns, rows) if transposed else (rows, columns)
    if not isinstance(tensor, (ir.ExternalTensor, ParameterTensor)):
        yield partial(matrix, tensor, transposed)
        return
    step = max(1, _MATRIX_BLOCK_BYTES // (4 * K))
    for start in range(0, N, step):
        yield partial(_source_rows, tensor, transposed, start, min(N, start + step))


def _source_rows(
    tensor: ir.ExternalTensor | ParameterTensor, transposed: bool, start: int, stop: int
) -> np.ndarray:
    """Rows [start, stop) of W [N, K] as float32, contiguous."""
    if isinstance(tensor, ParameterTensor):
        same = tensor.transposed == transposed
        rows = tensor.source_rows(start, stop) if same else tensor.source_columns(start, stop)
        return np.ascontiguousarray(rows, np.float32)
    if not transposed:
        return np.ascontiguousarray(read_rows(tensor, start, stop), np.float32)
    shape = tuple(int(d) for d in tensor.shape.numpy())
    dtype = np.dtype(tensor.dtype.numpy())
    # Columns of the file: a short-lived map touches only their pages, and gives them back.
    mapped = np.memmap(tensor.path, dtype, mode="r", offset=tensor.offset or 0, shape=shape)
    out = np.empty((stop - start, shape[0]), np.float32)
    for row in range(0, shape[0], _TRANSPOSED_ROWS):
        out.T[row : row + _TRANSPOSED_ROWS] = mapped[row : row + _TRANSPOSED_ROWS, start:stop]
    return out


def weight_array(source: Source, linear: Linear) -> np.ndarray:
    """Reads one Linear's weight.

    Returns:
      float32 [N, K], contiguous; an embedding as [V, H].

    Raises:
      ModelError: the weight's data can't be read.
    """
    try:
        return matrix(weight_tensor(source.graph, linear.weight), linear.transposed)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the data of weight {linear.weight!r} can't be read ({error}): "
            "check that the model's files are complete"
        ) from error


def weight_tensor(model: ir.Model, name: str) -> ir.TensorProtocol:
    """Finds an initializer's tensor by name."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


def first_non_finite(values: np.ndarray) -> int | None:
    """Gives the flat index of the first NaN or infinity of an f16, bf16, f32 or f64 array.

    An exponent of all ones is what makes a NaN or an infinity, in each of these formats.
    """
    mask = _EXPONENT.get(values.dtype.name)
    if mask is None or values.size == 0:
        return None
    bits = values.reshape(-1).view(mask.dtype) & mask
    if bits.max() != mask:
        return None
    return int(np.argmax(bits == mask))


_EXPONENT: dict[str, np.uint16 | np.uint32 | np.uint64] = {
    "float16": np.uint16(0x7C00),
    "bfloat16": np.uint16(0x7F80),
    "float32": np.uint32(0x7F800000),
    "float64": np.uint64(0x7FF0000000000000),
}


def check_finite(model: ir.Model, linears: Iterable[Linear]) -> None:
    """Refuses a NaN or an infinity in any Linear's weight.

    Only in those: other constants, such as a causal mask, may well hold −inf.

    Raises:
      ModelError: names the weight and the place.
    """
    for name in dict.fromkeys(linear.weight for linear in linears):
        tensor = weight_tensor(model, name)
        if isinstance(tensor, ir.LazyTensor):  # made by us, from values that were checked
            continue
        for start, stop in row_blocks(tensor):
            rows = read_rows(tensor, start, stop)
            bad = first_non_finite(rows)
            if bad is not None:
                row, column = divmod(bad, rows.shape[1])
                raise ModelError(
                    f"weight {name!r} holds {rows.reshape(-1)[bad]} at "
                    f"[{start + row}, {column}], where finite numbers are wanted: "
                    "repair or retrain the model"
                )


def hashing(files: Iterable[Path]) -> Callable[[], str]:
    """Begins to hash files in a thread of its own: what it returns waits for the sha256.

    That hashes names and contents, in name order, streamed. A file that can't be read is a
    ModelError of the call that waits.
    """
    found: Future[str] = Future()
    in_order = sorted(files, key=lambda p: p.name)

    def run() -> None:
        try:
            found.set_result(_files_sha256(in_order))
        except BaseException as error:  # whatever it is: someone waits
            found.set_exception(error)

    # Gigabytes take seconds. A daemon, so that an error elsewhere need not wait for it.
    threading.Thread(target=run, name="hashing", daemon=True).start()
    return found.result


def _files_sha256(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        try:
            total.update(os.fsencode(path.name) + f"\0{os.path.getsize(path)}\0".encode())
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    total.update(block)
        except OSError as error:
            raise ModelError(
                f"{str(path)!r} can't be read ({error.strerror}): give the right to, or put it back"
            ) from error
    return total.hexdigest()
