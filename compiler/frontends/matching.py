"""Which rows of a Linear came from which parameter of the source model, found by content.

Exporters rename, fuse and transpose weights, but keep their values. So the first eight elements
of a parameter's first row are looked up among the Linear's rows, its last and a middle row are
compared the same way, and then these three in full. A fused QKV projection gives three ranges;
names only break ties. What matches nothing (a changed weight) is left without sources.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import onnx_ir as ir

from slc.compiler.frontends.parameter_tensor import ParameterTensor
from slc.compiler.frontends.weights import read_rows, row_blocks, weight_tensor
from slc.compiler.linear import Linear, SourceRows

_KEY_ELEMS = 8


class Rows(Protocol):
    """A source parameter: what safetensors on disk and a module's state_dict both give."""

    @property
    def name(self) -> str:
        """As in the source."""

    @property
    def shape(self) -> tuple[int, ...]:
        """E.g. (N, K)."""

    def mapped(self) -> np.ndarray:
        """The values, without reading them all."""


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A parameter as rows of length K: as stored, or transposed (GPT-2's Conv1D keeps [K, N])."""

    name: str
    rows: int
    values: np.ndarray  # [rows, K], mapped


def match_sources(
    model: ir.Model, linears: list[Linear], parameters: Mapping[str, Rows]
) -> list[Linear]:
    """Fills `sources` of each Linear that it can.

    Args:
      model: the graph with the Linears' weights.
      linears: as found.
      parameters: the source's parameters by name.

    Returns:
      The Linears in the same order; a Linear with just one whole source gets its name.
    """
    index = _index(parameters)
    matched = [
        dataclasses.replace(linear, sources=_sources(model, linear, index)) for linear in linears
    ]
    return _renamed(matched)


def _index(parameters: Mapping[str, Rows]) -> dict[tuple[int, bytes], list[_Candidate]]:
    """Indexes 2-D parameters by row length and the first elements of their first row."""
    index: dict[tuple[int, bytes], list[_Candidate]] = {}
    for parameter in parameters.values():
        if len(parameter.shape) != 2 or 0 in parameter.shape:
            continue
        stored = parameter.mapped()
        for values in (stored, stored.T):
            candidate = _Candidate(parameter.name, values.shape[0], values)
            index.setdefault((values.shape[1], _key(values[0])), []).append(candidate)
    return index


def _sources(
    model: ir.Model, linear: Linear, index: dict[tuple[int, bytes], list[_Candidate]]
) -> tuple[SourceRows, ...]:
    """Cuts one Linear's rows into the ranges that came from parameters, in order."""
    tensor = weight_tensor(model, linear.weight)
    if isinstance(tensor, ir.LazyTensor) and not isinstance(tensor, ParameterTensor):
        return ()
    heads = _heads(tensor, linear)
    keys = [row.tobytes() for row in heads]
    found = []
    start = 0
    while start < linear.N:
        choices = [
            c
            for c in index.get((linear.K, keys[start]), ())
            if start + c.rows <= linear.N and _same(tensor, linear, heads, start, c)
        ]
        if not choices:
            start += 1
            continue
        best = max(choices, key=lambda c: (_likeness(linear, c.name), c.rows))
        found.append(SourceRows(best.name, start, start + best.rows))
        start += best.rows
    return tuple(found)


def _heads(tensor: ir.TensorProtocol, linear: Linear) -> np.ndarray:
    """Reads the first eight elements of every row: float32 [N, min(8, K)], contiguous."""
    width = min(_KEY_ELEMS, linear.K)
    if linear.transposed:
        return np.ascontiguousarray(read_rows(tensor, 0, width).T, np.float32)
    blocks = [read_rows(tensor, a, b)[:, :width].astype(np.float32) for a, b in row_blocks(tensor)]
    return np.concatenate(blocks)


def _same(
    tensor: ir.TensorProtocol,
    linear: Linear,
    heads: np.ndarray,
    start: int,
    candidate: _Candidate,
) -> bool:
    """Compares the ends and the middle of a range with a parameter's rows."""
    width = heads.shape[1]
    places = sorted({0, candidate.rows // 2, candidate.rows - 1})
    for place in places:
        head = np.asarray(candidate.values[place, :width], np.float32)
        if not np.array_equal(head, heads[start + place]):
            return False
    return all(
        np.array_equal(
            _row(tensor, linear, start + place), np.asarray(candidate.values[place], np.float32)
        )
        for place in places
    )


def _row(tensor: ir.TensorProtocol, linear: Linear, row: int) -> np.ndarray:
    """Reads one full row of W as float32 [K]."""
    if isinstance(tensor, ParameterTensor) and tensor.transposed == linear.transposed:
        return np.asarray(tensor.source_rows(row, row + 1)[0], np.float32)
    if not linear.transposed:
        return np.asarray(read_rows(tensor, row, row + 1)[0], np.float32)
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy()[:, row], np.float32)
    shape = tuple(int(d) for d in tensor.shape.numpy())
    dtype = np.dtype(tensor.dtype.numpy())
    # A column of the file: a short-lived map touches only its pages, and gives them back.
    mapped = np.memmap(tensor.path, dtype, mode="r", offset=tensor.offset or 0, shape=shape)
    return np.asarray(mapped[:, row], np.float32)


def _key(row: np.ndarray) -> bytes:
    return np.asarray(row[:_KEY_ELEMS], np.float32).tobytes()


def _likeness(linear: Linear, parameter: str) -> float:
    return difflib.SequenceMatcher(None, linear.name, parameter, autojunk=False).ratio()


def _renamed(linears: list[Linear]) -> list[Linear]:
    """Names a Linear after its parameter where it is the first and only one of that name."""
    taken = {linear.name for linear in linears}
    renamed = []
    for linear in linears:
        whole = [s for s in linear.sources if (s.start, s.stop) == (0, linear.N)]
        name = whole[0].parameter.removesuffix(".weight") if whole else linear.name
        if name != linear.name and name in taken:
            name = linear.name
        taken.add(name)
        renamed.append(dataclasses.replace(linear, name=name))
    return renamed
