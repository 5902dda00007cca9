"""ONNX's protobuf read with its weights left in the file.

The protobuf library can only read a message whole, weights included. Walking the wire format
(https://protobuf.dev/programming-guides/encoding) down to each initializer's `raw_data` instead
tells where the bytes lie; the message is then parsed with these fields replaced by references,
as if the weights had been external data in the ONNX file itself.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx

INLINE_BYTES_MAX = 1024  # smaller tensors are parsed as they are

# Field numbers of onnx.proto3.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def load(path: Path) -> onnx.ModelProto:
    """Parses an ONNX file without its initializers' raw data.

    Returns:
      The model; initializers whose data lies in the file are external tensors whose location is
      the file's own name.

    Raises:
      ValueError: not a protobuf message, or not a model.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        pieces = []
        for number, begin, start, stop in _fields(data, 0, len(data)):
            if number == _MODEL_GRAPH:
                body = _graph(data, start, stop, path.name)
                pieces.append(_tagged(number, body))
            else:
                pieces.append(data[begin:stop])
    model = onnx.ModelProto()
    model.ParseFromString(b"".join(pieces))
    return model


def _graph(data: mmap.mmap, start: int, stop: int, location: str) -> bytes:
    pieces = []
    for number, begin, inner, end in _fields(data, start, stop):
        if number == _GRAPH_INITIALIZER and end - inner > INLINE_BYTES_MAX:
            pieces.append(_tagged(number, _tensor(data, inner, end, location)))
        else:
            pieces.append(data[begin:end])
    return b"".join(pieces)


def _tensor(data: mmap.mmap, start: int, stop: int, location: str) -> bytes:
    """Serialises a TensorProto again with a reference in the place of its raw data."""
    pieces: list[bytes] = []
    reference = onnx.TensorProto()
    for number, begin, inner, end in _fields(data, start, stop):
        if number == _TENSOR_RAW_DATA:
            entries = {"location": location, "offset": inner, "length": end - inner}
            for key, value in entries.items():
                reference.external_data.add(key=key, value=str(value))
            reference.data_location = onnx.TensorProto.EXTERNAL
        else:
            pieces.append(data[begin:end])
    pieces.append(reference.SerializeToString())
    return b"".join(pieces)


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Walks a message's fields.

    Yields:
      (field number, position of its tag, start of its value, end of its value).
    """
    place = start
    while place < stop:
        begin = place
        tag, place = _varint(data, place, stop)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, place = _varint(data, place, stop)
        elif wire == _VARINT:
            length = _varint(data, place, stop)[1] - place
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"not a protobuf message: wire type {wire} at byte {begin}")
        if number == 0 or place + length > stop:
            raise ValueError(f"not a protobuf message, or cut short, at byte {begin}")
        yield number, begin, place, place + length
        place += length


def _varint(data: mmap.mmap, place: int, stop: int) -> tuple[int, int]:
    """Reads a variable-length integer; gives it and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= stop:
            raise ValueError(f"not a protobuf message, or cut short, at byte {place}")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"not a protobuf message: an integer too long at byte {place}")


def _tagged(number: int, body: bytes) -> bytes:
    """Frames bytes as a length-delimited field."""
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(body)) + body


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
