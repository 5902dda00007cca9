"""Streams a model into `model.onnx` and `model.onnx.data`, a few tensors in memory at a time.

The graph libraries' own writers do not align offsets, and a kernel that reads a mapped blob
inherits whatever alignment the file has: here every tensor starts at a multiple of 64 bytes (a
cache line), large ones at a multiple of 4096 (a page).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from slc.compiler.block_tensor import BlockTensor, in_order
from slc.compiler.errors import ModelError, PostconditionError
from slc.compiler.frontends.onnx_file import TOLERATED
from slc.compiler.progress import Progress
from slc.targets.detect import usable_cores

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
ALIGNMENT_BYTES = 64
PAGE_BYTES = 4096
LARGE_BYTES = 1 << 20  # from here on a tensor starts on a page of its own
INLINE_BYTES = 256  # smaller tensors stay in model.onnx
SHAPE_CONSTANT_BYTES = 8192  # integer vectors up to here too: shape inference wants to read them
_CHUNK_BYTES = 1 << 22
# Of evaluated tensors that are in memory together; while it is made, a blob takes several times its
# size.
AHEAD_BYTES = 32 << 20
_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})
_PACKED_OP = "BitmapSparseGemm"


@dataclasses.dataclass(frozen=True)
class TensorRecord:
    """Where one initializer went."""

    name: str
    dtype: str  # ONNX's name, e.g. "FLOAT16"
    shape: tuple[int, ...]
    size_bytes: int
    offset: int | None  # in model.onnx.data; None when the tensor is inline


def write_model(
    model: ir.Model, folder: Path, progress: Progress | None = None
) -> list[TensorRecord]:
    """Writes `model` as folder/model.onnx and folder/model.onnx.data; `model` is left unchanged.

    Args:
      model: initializers may be external (copied in chunks), lazy (evaluated when their turn comes,
        dropped afterwards) or plain.
      folder: exists; files of these names are replaced.
      progress: called with (bytes written, bytes in all, name of the tensor).

    Returns:
      One record per initializer, in file order; duplicates share an offset.

    Raises:
      ModelError: a source file is shorter than the graph says, or can't be read.
      PostconditionError: a lazy tensor is not what it declared, or the graph is not valid ONNX.
    """
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    tensors = [value.const_value for value in values]
    try:
        with open(folder / DATA_FILE, "wb") as file:
            records = _write_tensors(model, values, file, progress)
        with _attributes_in_memory(model):
            proto = ir.to_proto(model)
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
    (folder / MODEL_FILE).write_bytes(proto.SerializeToString(deterministic=True))
    if (folder / DATA_FILE).stat().st_size == 0:
        (folder / DATA_FILE).unlink()
    _check(folder / MODEL_FILE)
    return records


def _write_tensors(
    model: ir.Model, values: list[ir.Value], file: BinaryIO, progress: Progress | None
) -> list[TensorRecord]:
    """Writes what is external and points each value at it (undone by the caller)."""
    packed = _packed_values(model)
    total = sum(v.const_value.nbytes for v in values if v.const_value is not None)
    done = 0
    offsets: dict[object, int] = {}
    records = []
    inline = [
        value.const_value is not None
        and _stays_inline(value, value.const_value, is_packed=value in packed)
        for value in values
    ]
    sources = _evaluated(
        [None if here else v.const_value for v, here in zip(values, inline, strict=True)]
    )
    for value, here in zip(values, inline, strict=True):
        source = next(sources)  # not by zip, which would keep it while the next one is made
        tensor, name = value.const_value, value.name
        if tensor is None or name is None:
            continue
        offset = None
        if here:
            value.const_value = _in_memory(tensor, name)
        else:
            key = _identity(tensor)
            if key not in offsets:
                assert source is not None  # only that of what stays inline is
                offsets[key] = _append(file, tensor, source, name)
            offset = offsets[key]
            value.const_value = ir.ExternalTensor(
                DATA_FILE,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=name,
            )
        records.append(
            TensorRecord(
                name, tensor.dtype.name, tuple(tensor.shape.numpy()), tensor.nbytes, offset
            )
        )
        del source
        done += tensor.nbytes
        if progress is not None:
            progress(done, total, name)
    return records


def _packed_values(model: ir.Model) -> set[ir.Value]:
    """Blobs are always external: the kernel reads them where they are mapped."""
    return {
        node.inputs[1]
        for node in model.graph.all_nodes()
        if node.op_type == _PACKED_OP and node.inputs[1] is not None
    }


def _stays_inline(value: ir.Value, tensor: ir.TensorProtocol, *, is_packed: bool) -> bool:
    if is_packed:
        return False
    if value.is_graph_input() or tensor.dtype == ir.DataType.STRING:
        return True  # a default that the caller may override must be readable without the file
    if tensor.nbytes < INLINE_BYTES:
        return True
    is_vector = len(tensor.shape) <= 1 and tensor.dtype in _INTEGERS
    return is_vector and tensor.nbytes <= SHAPE_CONSTANT_BYTES


def _identity(tensor: ir.TensorProtocol) -> object:
    """Equal for tensors that are one object or one range of one file."""
    if isinstance(tensor, ir.ExternalTensor):
        return (str(tensor.path), tensor.offset, tensor.length, tensor.dtype)
    return id(tensor)


def _evaluated(
    tensors: Sequence[ir.TensorProtocol | None],
) -> Iterator[ir.TensorProtocol | None]:
    """The tensors in their order, each lazy one evaluated once.

    Several at a time, of AHEAD_BYTES together at most, and one larger than that beside them. Not at
    all what can be written piece by piece, which has its own threads and comes when its turn is.
    """
    waiting: deque[tuple[int, Future[ir.TensorProtocol]]] = deque()
    distinct: dict[int, ir.LazyTensor] = {}
    for tensor in tensors:
        if isinstance(tensor, ir.LazyTensor) and not isinstance(tensor, BlockTensor):
            distinct.setdefault(id(tensor), tensor)
    queue = deque(distinct.values())
    with ThreadPoolExecutor(usable_cores()) as pool:
        for tensor in tensors:
            if not isinstance(tensor, ir.LazyTensor) or distinct.pop(id(tensor), None) is None:
                yield tensor  # nothing to evaluate, or written before
                continue
            while queue and _fits(queue[0].nbytes, [size for size, _ in waiting]):
                following = queue.popleft()
                waiting.append((following.nbytes, pool.submit(following.raw)))
            _, future = waiting.popleft()
            result: ir.TensorProtocol | None = future.result()
            del future
            yield result
            result = None  # before the next one is begun


def _fits(size: int, waiting: Sequence[int]) -> bool:
    """Whether one more tensor may be made while those of the sizes `waiting` are."""
    if size > AHEAD_BYTES:
        return all(other <= AHEAD_BYTES for other in waiting)
    return size + sum(other for other in waiting if other <= AHEAD_BYTES) <= AHEAD_BYTES


def _append(file: BinaryIO, tensor: ir.TensorProtocol, source: ir.TensorProtocol, name: str) -> int:
    """Writes the bytes of `tensor`, which `source` has, at the next aligned offset; returns it."""
    alignment = PAGE_BYTES if tensor.nbytes >= LARGE_BYTES else ALIGNMENT_BYTES
    file.write(b"\0" * (-file.tell() % alignment))
    offset = file.tell()
    if isinstance(source, ir.ExternalTensor):
        _copy_range(file, source)
    elif isinstance(source, BlockTensor):
        for block in in_order(source.pieces(), usable_cores()):
            file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
    else:
        _write_array(file, source)
    if file.tell() - offset != tensor.nbytes:
        raise PostconditionError(
            f"the initializer {name!r} was declared with {tensor.nbytes} bytes "
            f"and has {file.tell() - offset}"
        )
    return offset


def _copy_range(file: BinaryIO, source: ir.ExternalTensor) -> None:
    """Copies by pread: a mapping's pages would count as this process's memory."""
    start, left = source.offset or 0, source.nbytes
    try:
        descriptor = os.open(source.path, os.O_RDONLY)
    except OSError as error:
        raise ModelError(
            f"The weights of {source.name!r} can't be read from {Path(source.path).name}: "
            f"{error.strerror}; restore the file beside the model."
        ) from error
    try:
        while left > 0:
            chunk = os.pread(descriptor, min(_CHUNK_BYTES, left), start)
            if not chunk:
                raise ModelError(
                    f"{Path(source.path).name} ends {left} bytes before the end of "
                    f"{source.name!r}; it was truncated, fetch it again."
                )
            file.write(chunk)
            start, left = start + len(chunk), left - len(chunk)
    finally:
        os.close(descriptor)


def _write_array(file: BinaryIO, source: ir.TensorProtocol) -> None:
    """Writes a tensor that is in memory, without a second copy where its bytes are plain."""
    array = source.numpy()
    plain = array.dtype.byteorder in "<=|" and array.nbytes == source.nbytes
    if plain and array.flags.c_contiguous and array.size:
        file.write(array.reshape(-1).view(np.uint8).data)
    else:
        file.write(source.tobytes())


def _in_memory(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """A tensor that serialises into model.onnx itself."""
    if not isinstance(tensor, (ir.ExternalTensor, ir.LazyTensor)):
        return tensor
    if tensor.dtype.bitwidth < 8:
        packed = np.frombuffer(tensor.tobytes(), dtype=np.uint8)
        return ir.PackedTensor(packed, tensor.dtype, shape=tensor.shape, name=name)
    return ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=name)


@contextlib.contextmanager
def _attributes_in_memory(model: ir.Model) -> Iterator[None]:
    """Attributes that point at the source's data file carry their bytes along while inside."""
    undo: list[tuple[ir.Node, ir.Attr]] = []
    nodes = list(model.graph.all_nodes())
    for function in model.functions.values():
        nodes.extend(function.all_nodes())
    for node in nodes:
        for attribute in list(node.attributes.values()):
            if attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
                continue
            if isinstance(attribute.value, ir.ExternalTensor):
                undo.append((node, attribute))
                tensor = _in_memory(attribute.value, attribute.value.name)
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, tensor)
    try:
        yield
    finally:
        for node, attribute in undo:
            node.attributes[attribute.name] = attribute


def _check(path: Path) -> None:
    """Runs onnx's own checker; what a source may do (`TOLERATED`), its artifact may too."""
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        if not any(text in str(error) for text in TOLERATED):
            raise PostconditionError(f"the written graph is not valid ONNX: {error}") from error
