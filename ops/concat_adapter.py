"""Concatenated low-rank adapters in two operators. Contracts and numpy references.

Several adapters (A_i: [r_i, K], B_i: [N, r_i]) of one Linear, or of several that read the same X,
run as one down-projection and one up-projection each. Domain ``ai.slc``, version 1, accumulated in
float32. The matrices come last because ONNX wants a variadic input there; an optional input that
is left out is named "" in the node, and may as well be a tensor of shape [0].

``ConcatAdapterDown(X, scale?, gate?, A_0, A_1, ...) -> H``: H = gate * (scale * (X · Aᵀ)), A the
rows of all A_i one below the other, R = sum of r_i.

    X: float32 or float16 [..., K].
    scale: float32 [sum of r_i over the int8 A_i], one for each of their rows, in order; needed only
        where there are such rows.
    gate: float32 [R], optional: the strength of each rank, to mix or switch adapters.
    A_i: float32, float16 or int8 [r_i, K], each of its own type. r_i may be 0 (an empty slot).
        May be known at run time only, so that a LoRA adapter can be loaded into a live session.
    H: [..., R], the type of X.

``ConcatAdapterUp(Y0, H, scale?, B_0, B_1, ...) -> Y``:
Y = Y0 + sum over i of scale_i * (H[..., offset + o_i : offset + o_i + r_i] · B_iᵀ), o_i the sum of
the ranks before i.

    Y0: float32 or float16 [..., N].
    H: [..., R], type and leading dimensions of Y0, R >= offset + sum of r_i.
    scale: float32 [N * number of int8 B_i], one for each of their rows, in order; as above.
    B_i: float32, float16 or int8 [N, r_i].
    offset: attribute, int, default 0: where this Linear's adapters begin in a shared H.
    Y: shape and type of Y0.

A graph gives the type and shape of H and Y as value_info (or as graph outputs): the native
operators infer no shapes, and onnxruntime 1.17 cannot infer the type when an optional input is left
out or there is more than one adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

from . import DOMAIN

__all__ = ["ConcatAdapterDown", "ConcatAdapterUp", "concat_adapter_down", "concat_adapter_up"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def concat_adapter_down(
    X: Array, scale: Floats | None, gate: Floats | None, *adapters: Array
) -> Array:
    """H of the contract above.

    Raises:
        ValueError: an input that breaks the contract.
    """
    _check_activation("X", X)
    _check_adapters(adapters, rank_axis=0, fixed=X.shape[-1])
    A = np.concatenate(_dequantized(adapters, scale))
    H: Array = X.astype(np.float32) @ A.T
    if gate is not None and gate.size:
        _check_floats("gate", gate, A.shape[0])
        H = H * gate
    return H.astype(X.dtype)


def concat_adapter_up(
    Y0: Array, H: Array, scale: Floats | None, *adapters: Array, offset: int = 0
) -> Array:
    """Y of the contract above.

    Raises:
        ValueError: an input that breaks the contract.
    """
    _check_activation("Y0", Y0)
    if H.dtype != Y0.dtype or H.shape[:-1] != Y0.shape[:-1]:
        raise ValueError(
            f"H: got {H.dtype} {list(H.shape)}, wanted the type and leading "
            f"dimensions of Y0, {Y0.dtype} {list(Y0.shape)}"
        )
    _check_adapters(adapters, rank_axis=1, fixed=Y0.shape[-1])
    B = np.concatenate(_dequantized(adapters, scale), axis=1)
    if offset < 0 or offset + B.shape[1] > H.shape[-1]:
        raise ValueError(
            f"offset: got {offset} with ranks {B.shape[1]}, wanted both within H's {H.shape[-1]}"
        )
    Y: Array = Y0 + H[..., offset : offset + B.shape[1]].astype(np.float32) @ B.T
    return Y.astype(Y0.dtype)


def _check_activation(name: str, array: Array) -> None:
    if array.dtype not in (np.float32, np.float16) or array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(
            f"{name}: got {array.dtype} {list(array.shape)}, wanted float32 or "
            "float16 [..., 1 or more]"
        )


def _check_floats(name: str, array: Floats, count: int) -> None:
    if array.dtype != np.float32 or array.shape != (count,):
        raise ValueError(f"{name}: got {array.dtype} {list(array.shape)}, wanted float32 [{count}]")


def _check_adapters(adapters: Sequence[Array], rank_axis: int, fixed: int) -> None:
    if not adapters:
        raise ValueError("adapters: got none, wanted 1 or more")
    for i, adapter in enumerate(adapters):
        legal = adapter.dtype in (np.float32, np.float16, np.int8) and adapter.ndim == 2
        if not legal or adapter.shape[1 - rank_axis] != fixed:
            wanted = f"[rank, {fixed}]" if rank_axis == 0 else f"[{fixed}, rank]"
            raise ValueError(
                f"adapter {i}: got {adapter.dtype} {list(adapter.shape)}, wanted "
                f"float32, float16 or int8 {wanted}"
            )


def _dequantized(adapters: Sequence[Array], scale: Floats | None) -> list[Floats]:
    """Every adapter as float32; the int8 ones take their rows' scales from the front of `scale`."""
    rows = sum(adapter.shape[0] for adapter in adapters if adapter.dtype == np.int8)
    if scale is None and rows:
        raise ValueError(f"scale: got nothing, wanted float32 [{rows}]")
    if scale is not None:
        _check_floats("scale", scale, rows)
    result, begin = [], 0
    for adapter in adapters:
        floats = adapter.astype(np.float32)
        if adapter.dtype == np.int8 and scale is not None:
            floats *= scale[begin : begin + adapter.shape[0], None]
            begin += adapter.shape[0]
        result.append(floats)
    return result


class ConcatAdapterDown(OpRun):
    """The operator for onnx's ReferenceEvaluator."""

    op_domain = DOMAIN

    def _run(
        self, X: Array, scale: Floats | None, gate: Floats | None, *adapters: Array
    ) -> tuple[Array]:
        return (concat_adapter_down(X, scale, gate, *adapters),)


class ConcatAdapterUp(OpRun):
    """The operator for onnx's ReferenceEvaluator."""

    op_domain = DOMAIN

    def _run(
        self, Y0: Array, H: Array, scale: Floats | None, *adapters: Array, offset: int | None = None
    ) -> tuple[Array]:
        return (concat_adapter_up(Y0, H, scale, *adapters, offset=offset or 0),)
