"""What a kernel's name promises: the blobs it reads, and the result it owes within a bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numerics import Float64s, level4_bound, matmul_bound

from slc.ops import bitmap
from slc.ops.bitmap_sparse_gemm import quantize_activations

Array = npt.NDArray[Any]

# What a kernel's name calls stored -> how encode makes it.
STORED: dict[str, dict[str, str]] = {
    "f16": {"value_type": "f16"},
    "i8": {"value_type": "i8"},
    "i4rows": {"value_type": "i4", "layout": "rows"},
    "i4planes": {"value_type": "i4", "layout": "planes"},
    "deltaf16": {"value_type": "f16", "encoding": "delta"},
    "deltai8": {"value_type": "i8", "encoding": "delta"},
    "fullf16": {"value_type": "f16", "encoding": "full"},
    "fulli8": {"value_type": "i8", "encoding": "full"},
    "fulli4": {"value_type": "i4", "encoding": "full"},
}


def exact_product(
    X: Array, blob: Array, bias: Array | None, level: str
) -> tuple[Float64s, Float64s]:
    """(X · decode(blob)ᵀ + bias in float64, the bound of a kernel) at an activation level."""
    W = bitmap.decode(blob).astype(np.float64)
    added = 0 if bias is None else bias
    if level == "f32":
        return X @ W.T + added, matmul_bound(X, W, bias)
    q, step = quantize_activations(X)
    Xq = (q.reshape(*step.shape, 64) * step[..., None].astype(np.float64)).reshape(q.shape)
    return Xq[:, : X.shape[1]] @ W.T + added, level4_bound(X, W, bias)
