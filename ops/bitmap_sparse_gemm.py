"""BitmapSparseGemm: a Linear whose weights are a packed bitmap blob. Contract and numpy reference.

``BitmapSparseGemm(X, packed, bias?) -> Y``, domain ``ai.slc``, version 1:
Y = X · decode(packed)ᵀ + bias, accumulated in float32.

Inputs:
    X: float32 or float16 [..., K], any number of leading dimensions, which may be empty. Finite:
        with infinities or NaN the affected rows of Y are not specified.
    packed: uint8 [bytes], a blob of FORMAT.md. A constant initializer: it is checked once, when
        the session is made.
    bias: float32 [N], optional.

Output:
    Y: [..., N], the type of X.

Attributes:
    N, K: int, required; must equal the blob's.
    accuracy_level: int, default 0. 0 and 1 mean float32 activations; no other value exists yet.

Native errors: a blob that FORMAT.md refuses, a `packed` that is not constant, another N, K, type or
shape than the above. Each says what was got and what was wanted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

from . import DOMAIN, bitmap

__all__ = ["BitmapSparseGemm", "bitmap_sparse_gemm"]


def bitmap_sparse_gemm(
    X: npt.NDArray[Any],
    packed: npt.NDArray[np.uint8],
    bias: npt.NDArray[np.float32] | None = None,
    *,
    N: int,
    K: int,
    accuracy_level: int = 0,
) -> npt.NDArray[Any]:
    """Y of the contract above.

    Raises:
        ValueError: an input that breaks the contract.
    """
    if accuracy_level not in (0, 1):
        raise ValueError(f"accuracy_level: got {accuracy_level}, wanted 0 or 1")
    if X.dtype not in (np.float32, np.float16) or X.ndim == 0 or X.shape[-1] != K:
        raise ValueError(f"X: got {X.dtype} {list(X.shape)}, wanted float32 or float16 [..., {K}]")
    header = bitmap.read_header(packed)
    if (header.n, header.k) != (N, K):
        raise ValueError(f"packed: got N {header.n}, K {header.k}, wanted N {N}, K {K}")
    if bias is not None and (bias.dtype != np.float32 or bias.shape != (N,)):
        raise ValueError(f"bias: got {bias.dtype} {list(bias.shape)}, wanted float32 [{N}]")
    Y = X.astype(np.float32) @ bitmap.decode(packed).T
    if bias is not None:
        Y += bias
    return Y.astype(X.dtype)


class BitmapSparseGemm(OpRun):
    """The operator for onnx's ReferenceEvaluator."""

    op_domain = DOMAIN

    def _run(
        self,
        X: npt.NDArray[Any],
        packed: npt.NDArray[np.uint8],
        bias: npt.NDArray[np.float32] | None = None,
        N: int | None = None,
        K: int | None = None,
        accuracy_level: int | None = None,
    ) -> tuple[npt.NDArray[Any]]:
        if N is None or K is None:
            raise ValueError("BitmapSparseGemm: the attributes N and K are required")
        return (bitmap_sparse_gemm(X, packed, bias, N=N, K=K, accuracy_level=accuracy_level or 0),)
