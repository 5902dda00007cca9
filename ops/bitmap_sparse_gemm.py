"""BitmapSparseGemm: a Linear whose weights are a packed blob. Contract and numpy reference.

``BitmapSparseGemm(X, packed, bias?) -> Y``, domain ``ai.slc``, version 1:
Y = X · decode(packed)ᵀ + bias, accumulated in float32.

Inputs:
    X: float32 or float16 [..., K], any number of leading dimensions, which may be empty. Finite and
        below 2^80 (1e24) in magnitude: kernels sum before they apply the blob's exponent, so with
        larger numbers, infinities or NaN the affected rows of Y are not specified.
    packed: uint8 [bytes], a blob of FORMAT.md. A constant initializer: it is checked once, when
        the session is made.
    bias: float32 [N], optional.

Output:
    Y: [..., N], the type of X.

Attributes:
    N, K: int, required; must equal the blob's.
    accuracy_level: int, default 0. The precision of the activations, with the codes of
        onnxruntime's MatMulNBits: 0 unset, 1 float32, 4 int8 (its 2 and 3, float16 and bfloat16,
        do not exist here). 0 and 1 both mean float32. 4 is legal for bitmap and full blobs of i8
        and i4 values.

At accuracy_level 4 the activations are rounded to int8, 64 columns at a time. X is taken to
float32; each row is cut into blocks of 64 columns, the last of which may be short. For a block:

    m = max |x|;  step = m / 127;  inverse = 127 / m           (each one float32 operation)
    q = clip(rint(x * inverse), -127, 127)                     (one float32 product, half to even)

    where m = 0, or so small that inverse overflows, step = 0 and every q = 0.

Then Y[m, n] is the sum over blocks of step[m, block] * scale[n, group of the block] * 2^exponent *
(sum over the block of q * code), + bias[n], where code is the int8 value of i8 and the codebook's
entry of i4, 0 where nothing is stored. The inner sums are exact in int32, and below 2^24, so exact
in float32 too; the outer one is accumulated in float32.

The CUDA provider takes blobs in the layout "tiles" and accuracy_level 0 or 1. It multiplies on
tensor cores: X in float32 is rounded to float16 first, so its magnitudes must stay below 65520, and
sums are accumulated as those units do, in float32 with truncation.

Native errors: a blob that FORMAT.md refuses, a `packed` that is not constant, another N, K, type or
shape than the above, an accuracy_level that is not legal for the blob. Each says what was got and
what was wanted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

from . import DOMAIN, bitmap

__all__ = ["BitmapSparseGemm", "bitmap_sparse_gemm", "quantize_activations"]

_INT8_ACTIVATIONS = 4
_BLOCK = 64


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
    if accuracy_level not in (0, 1, _INT8_ACTIVATIONS):
        raise ValueError(f"accuracy_level: got {accuracy_level}, wanted 0, 1 or 4")
    if X.dtype not in (np.float32, np.float16) or X.ndim == 0 or X.shape[-1] != K:
        raise ValueError(f"X: got {X.dtype} {list(X.shape)}, wanted float32 or float16 [..., {K}]")
    header = bitmap.read_header(packed)
    if (header.n, header.k) != (N, K):
        raise ValueError(f"packed: got N {header.n}, K {header.k}, wanted N {N}, K {K}")
    if bias is not None and (bias.dtype != np.float32 or bias.shape != (N,)):
        raise ValueError(f"bias: got {bias.dtype} {list(bias.shape)}, wanted float32 [{N}]")
    Y: npt.NDArray[Any]
    if accuracy_level == _INT8_ACTIVATIONS:
        if header.encoding == "delta":
            raise ValueError("accuracy_level: got 4 with a delta blob, wanted 0 or 1")
        if header.value_type == "f16":
            raise ValueError("accuracy_level: got 4 with f16 values, wanted 0 or 1")
        Y = _int8_product(X.astype(np.float32).reshape(-1, K), packed, header)
        Y = Y.reshape(*X.shape[:-1], N)
    else:
        Y = X.astype(np.float32) @ bitmap.decode(packed).T
    if bias is not None:
        Y += bias
    return Y.astype(np.float32).astype(X.dtype)


def quantize_activations(
    X: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Activations [M, K] as accuracy_level 4 sees them: (q [M, blocks * 64], step [M, blocks]).

    q is 0 at the columns that fill up the last block.
    """
    m, k = X.shape
    blocks = -(-k // _BLOCK)
    padded = np.zeros((m, blocks * _BLOCK), np.float32)
    padded[:, :k] = X
    by_block = padded.reshape(m, blocks, _BLOCK)
    peak = np.abs(by_block).max(axis=2)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(127) / peak
    vanishes = np.isinf(inverse)
    step = np.where(vanishes, np.float32(0), peak / np.float32(127))
    inverse[vanishes] = 0
    q = np.clip(np.rint(by_block * inverse[:, :, None]), -127, 127).astype(np.int8)
    return q.reshape(padded.shape), step


def rounded_activations(X: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What is left of activations f32 [M, K] at accuracy_level 4."""
    q, step = quantize_activations(X)
    by_block = q.reshape(len(X), -1, _BLOCK) * step[:, :, None]
    return by_block.reshape(len(X), q.shape[1])[:, : X.shape[1]]


def _int8_product(
    X: npt.NDArray[np.float32], packed: npt.NDArray[np.uint8], header: bitmap.Header
) -> npt.NDArray[np.float64]:
    """Y without the bias at accuracy_level 4, each step exact or in float64."""
    q, step = quantize_activations(X)
    integers, scales = bitmap.decode_integers(packed)
    codes = np.zeros((header.n, q.shape[1]), np.int8)
    codes[:, : header.k] = integers
    Y = np.zeros((X.shape[0], header.n))
    for block in range(step.shape[1]):
        columns = slice(block * _BLOCK, (block + 1) * _BLOCK)
        # Exact: a product is below 2^14, so a sum of 64 stays below float32's 2^24.
        sums = q[:, columns].astype(np.float32) @ codes[:, columns].astype(np.float32).T
        group = columns.start // header.group
        Y += sums * step[:, block, None].astype(np.float64) * scales[:, group]
    return Y


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
