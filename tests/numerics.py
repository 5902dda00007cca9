"""How far a float32 kernel may be from the exact result: derived bounds, never guessed ones.

A dot product of K terms in float32, in whatever order, with or without fused multiply-add, obeys
|computed - exact| <= gamma(K) * sum |x_k * w_k| with gamma(n) = n*u / (1 - n*u), u = 2^-24 (Higham,
Accuracy and Stability of Numerical Algorithms, section 3.1). Our kernels keep at least eight
partial sums, by column modulo 8, so no value passes through more than K/8 additions and a few: that
is the bound they are held to, since gamma(4096) would let a whole lost term through. What a kernel
does beside the sum (adding up the lanes, scaling, bias) counts as a few more terms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slc.ops.bitmap_sparse_gemm import quantize_activations

Array = npt.NDArray[Any]
Float64s = npt.NDArray[np.float64]

UNIT_F32 = 2.0**-24
UNIT_F16 = 2.0**-11
SUBNORMAL_F16 = 2.0**-25  # half the distance of f16's smallest numbers
LANES = 8
# Operations on a value beside those of its lane: adding up lanes and blocks, a scale, 2^exponent, a
# gate, the bias, Y0.
EXTRA_TERMS = 16


def gamma(n: int) -> float:
    """Relative error bound of n float32 operations in a row."""
    return n * UNIT_F32 / (1 - n * UNIT_F32)


def matmul_bound(X: Array, W: Array, added: Array | None = None, lanes: int = LANES) -> Float64s:
    """Bound for every element of X · Wᵀ + added: [..., N], X: [..., K], W: [N, K]."""
    magnitude = np.abs(X.astype(np.float64)) @ np.abs(W.astype(np.float64)).T
    if added is not None:
        magnitude = magnitude + np.abs(added.astype(np.float64))
    return gamma(-(-X.shape[-1] // lanes) + EXTRA_TERMS) * magnitude


def level4_bound(X: Array, W: Array, added: Array | None = None) -> Float64s:
    """Bound at accuracy_level 4 for every element of its exact result: [..., N].

    What the kernel rounds once the activations are int8: integer sums are exact, so a value passes
    through one addition for each block of 64 columns, and the extra operations. Partial sums of a
    block may be scaled one by one, so magnitudes are those of single products.

    Args:
        X: float32 or float16 [..., K], not yet rounded to int8.
        W: the decoded blob [N, K].
        added: the bias.
    """
    rows = X.reshape(-1, X.shape[-1]).astype(np.float32)
    q, step = quantize_activations(rows)
    rounded = q.astype(np.float64) * np.repeat(step, 64, axis=1)
    magnitude = np.abs(rounded[:, : W.shape[1]]) @ np.abs(W.astype(np.float64)).T
    if added is not None:
        magnitude += np.abs(added.astype(np.float64))
    bound: Float64s = gamma(step.shape[1] + EXTRA_TERMS) * magnitude
    return bound.reshape(*X.shape[:-1], W.shape[0])


def with_f16_output(bound: Float64s, exact: Array) -> Float64s:
    """A float32 bound after the result is rounded to float16."""
    return bound + UNIT_F16 * (np.abs(exact) + bound) + SUBNORMAL_F16


def assert_within(actual: Array, exact: Array, bound: Float64s, context: str = "") -> None:
    """Every |actual - exact| <= bound; else an AssertionError that names the worst cell."""
    assert actual.shape == exact.shape, f"{context}: shape {actual.shape}, wanted {exact.shape}"
    if actual.size == 0:
        return
    error = np.abs(actual.astype(np.float64) - exact)
    excess = np.where(np.isfinite(error), error - bound, np.inf)
    worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
    assert excess[worst] <= 0, (
        f"{context}: worst at {tuple(int(i) for i in worst)}: got {actual[worst]!r}, wanted "
        f"{exact[worst]!r} within {bound[worst]:.3g}, off by {error[worst]:.3g}; "
        f"{int((excess > 0).sum())} of {excess.size} cells are out"
    )
