"""Holds each operator of ours against f64 on the very inputs that it got in a run of the artifact.

The bound is rigorous, not statistical: |y − ŷ| ≤ γₙ·(|x|·|W|ᵀ + |b|) for a row of n stored weights
(`dense.py`, rule 5), plus half a unit in the last place of an f16 result. An error can't hide in it
by cancellation elsewhere in the graph, and a node that fails is named.

An int8 adapter is held in the same bound: its weights are q·scale rounded to f32 (1), the kernel
sums q·x (n), applies the scale (1) and the gate or what is added (1), one below the n + 4 of rule
5. Where an Up adds several pairs, y is rounded once more for each; its own weights count in n.

At accuracy_level 4 x is what the operator's contract rounds it to, the very same numbers here and
there; the bound holds for the sum that follows: within 64 columns it is exact, so no weight is
touched by more roundings than in f32.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from slc.compiler.artifact.dense import (
    UNIT_ROUNDOFF_F16,
    F32Array,
    adapter_rows,
    decode_packed,
    gamma,
    split_scale,
    terms,
)
from slc.compiler.budget.encodings import FLOAT_LEVEL, INT8_LEVEL
from slc.ops import DOMAIN

_ROWS = 512  # of W at a time: bounds the f64 copies
_SMALLEST_F16 = 2.0**-25  # half the least subnormal
_SMALLEST_F32 = 2.0**-149

F64Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class LinearCheck:
    """One node of ours against f64; the cell is the one that uses most of its bound."""

    node: str
    op: str
    max_error: float
    cell: tuple[int, int]  # (row of X, row of W)
    got: float
    wanted: float
    bound: float  # of that cell
    used: float  # |error| / bound of that cell
    passed: bool
    accuracy_level: int = 1


def our_nodes(model: ir.Model) -> list[ir.Node]:
    """Nodes of our domain in graph order."""
    return [node for node in model.graph if node.domain == DOMAIN]


def level_of(node: ir.Node) -> int:
    """4 where the operator rounds activations to int8, else 1."""
    level = node.attributes.get("accuracy_level")
    return INT8_LEVEL if level is not None and level.as_int() == INT8_LEVEL else FLOAT_LEVEL


def values_to_expose(node: ir.Node) -> list[ir.Value]:
    """What must be an output of the run for `check_node`."""
    data = [node.inputs[0], node.outputs[0]]
    if node.op_type == "ConcatAdapterUp":
        data.append(node.inputs[1])
    return [value for value in data if value is not None]


@np.errstate(invalid="ignore", over="ignore")
def check_node(node: ir.Node, values: Mapping[str, npt.NDArray[Any]]) -> LinearCheck:
    """Checks one node on the values of one run, by name; NaN and infinity anywhere fail."""
    got = values[str(node.outputs[0].name)]
    half_ulp = got.dtype == np.float16
    worst = LinearCheck(
        str(node.name), node.op_type, 0.0, (0, 0), 0.0, 0.0, 0.0, 0.0, passed=True,
        accuracy_level=level_of(node),
    )  # fmt: skip
    flat = _as_rows(got)
    for first, wanted, bound in _expected(node, values):
        part = flat[:, first : first + wanted.shape[1]]
        if part.size == 0:
            continue
        if half_ulp:
            bound = bound + UNIT_ROUNDOFF_F16 * np.abs(wanted) + _SMALLEST_F16
        finite = np.isfinite(part) & np.isfinite(wanted) & np.isfinite(bound)
        error = np.where(finite, np.abs(part - wanted), np.inf)
        used = np.where(error > 0, error / np.maximum(bound, _SMALLEST_F32), 0.0)
        used[~finite] = np.inf  # a bound of NaN or infinity would hold nothing
        row, column = np.unravel_index(int(used.argmax()), used.shape)
        largest = max(worst.max_error, float(error.max()))
        worst = dataclasses.replace(worst, max_error=largest)
        if used[row, column] > worst.used:
            worst = dataclasses.replace(
                worst,
                cell=(int(row), first + int(column)),
                got=float(part[row, column]),
                wanted=float(wanted[row, column]),
                bound=float(bound[row, column]),
                used=float(used[row, column]),
                passed=bool(used[row, column] <= 1.0),
            )
    return worst


def _expected(
    node: ir.Node, values: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[int, F64Array, F64Array]]:
    """(first column, y in f64, its bound) for consecutive columns of Y: [M, N]."""
    if node.op_type == "BitmapSparseGemm":
        return _sparse(node, values)
    if node.op_type == "ConcatAdapterDown":
        return _down(node, values)
    return _up(node, values)


def _rows_of(values: Mapping[str, npt.NDArray[Any]], value: ir.Value | None) -> F64Array:
    assert value is not None
    return _as_rows(values[str(value.name)])


def _as_rows(array: npt.NDArray[Any]) -> F64Array:
    """[..., N] as [M, N]; numpy can't infer M where N is 0, as of slots that nothing fills."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1]).astype(np.float64)


def _sparse(
    node: ir.Node, values: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[int, F64Array, F64Array]]:
    x = _rows_of(values, node.inputs[0])
    if level_of(node) == INT8_LEVEL:
        x = _as_int8(x)
    packed = node.inputs[1]
    assert packed is not None
    assert packed.const_value is not None
    weight = decode_packed(packed.const_value)
    bias = np.zeros(weight.shape[0])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _constant(node.inputs[2], values).reshape(-1).astype(np.float64)
    for first in range(0, weight.shape[0], _ROWS):
        rows = slice(first, first + _ROWS)
        yield first, *_product(x, weight[rows], bias[rows])


def _as_int8(x: F64Array) -> F64Array:
    """X: [M, K] as accuracy_level 4 rounds it: q · step in blocks of 64 columns."""
    from slc.ops.bitmap_sparse_gemm import quantize_activations

    q, step = quantize_activations(x.astype(np.float32))
    by_block = q.reshape(*step.shape, -1).astype(np.float64) * step[:, :, None]
    rounded: F64Array = by_block.reshape(len(x), -1)[:, : x.shape[1]]
    return rounded


def _product(x: F64Array, weight: F32Array, addend: F64Array) -> tuple[F64Array, F64Array]:
    """x·Wᵀ + addend in f64 and the bound of an f32 kernel's error, both [M, rows of W]."""
    wide = weight.astype(np.float64)
    wanted = x @ wide.T + addend
    size = np.abs(x) @ np.abs(wide).T + np.abs(addend)
    return wanted, gamma(terms(weight)).T * size


def _down(
    node: ir.Node, values: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[int, F64Array, F64Array]]:
    x = _rows_of(values, node.inputs[0])
    gate = node.inputs[2]
    factors = None if gate is None else _constant(gate, values).reshape(-1).astype(np.float64)
    first = 0
    for rows in _adapters(node, values):
        wanted, bound = _product(x, rows, np.zeros(rows.shape[0]))
        if factors is not None:
            factor = factors[first : first + rows.shape[0]]
            wanted, bound = wanted * factor, bound * np.abs(factor)
        yield first, wanted, bound
        first += rows.shape[0]


def _up(
    node: ir.Node, values: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[int, F64Array, F64Array]]:
    y0, h = _rows_of(values, node.inputs[0]), _rows_of(values, node.inputs[1])
    offset = node.attributes["offset"].as_int() if "offset" in node.attributes else 0
    weight = np.concatenate(_adapters(node, values), axis=1)  # [N, Σr]
    x = h[:, offset : offset + weight.shape[1]]
    for first in range(0, weight.shape[0], _ROWS):
        rows = slice(first, first + _ROWS)
        yield first, *_product(x, weight[rows], y0[:, rows])


def _adapters(node: ir.Node, values: Mapping[str, npt.NDArray[Any]]) -> list[F32Array]:
    """Each A: [r, K] or B: [N, r] of the node in f32, as it was in the run."""
    parts = [part for part in node.inputs[3:] if part is not None]
    scale = node.inputs[1] if node.op_type == "ConcatAdapterDown" else node.inputs[2]
    scales = split_scale(parts, scale)
    return [
        adapter_rows(ir.tensor(_constant(part, values)), rows)
        for part, rows in zip(parts, scales, strict=True)
    ]


def _constant(value: ir.Value, values: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """What the run fed for an overridable initializer, else its value in the graph."""
    if str(value.name) in values:
        return values[str(value.name)]
    assert value.const_value is not None, f"{value.name} is neither constant nor fed"
    return np.asarray(value.const_value.numpy())
