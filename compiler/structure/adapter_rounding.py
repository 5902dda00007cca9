"""The adapter B·A in int8, one scale per row of A and of B, as the concatenated operators read it.

    B·A ≈ diag(t)·B̂·diag(s)·Â        s: one per component, t: one per output row

Only the product counts, so each component is free to divide its size σᵢ = ‖Aᵢ‖·‖Bᵢ‖ between its
two factors. A has a scale for every component and takes any size; a row of B holds all components
under one scale, where the largest sets the step of all. Were B's columns of equal norm, components
that hardly count would be as exact there as those that do; were they to hold σᵢ, weak ones would
vanish. Norms of σᵢ^¼ lose least: with equal σᵢ it makes no difference, with σᵢ ∝ 1/i B's part of
the error falls to 0.63 (rank 64) and 0.78 (rank 8) of that at equal norms, and every exponent from
1/4 to 3/8 is as good.

Measured on the 36 matrices of all-MiniLM-L6-v2, at ranks 8 to 64, by salr and by hessian: B·A is
off by 0.90 to 0.98 % of its Frobenius norm, most of it from A's long rows. Rotating the components
(-1 % of that) and least squares on B against the rounded A (-1 to -5 %) were tried and left out:
what S and L do not hold of W is some 30 times larger by hessian and 100 times and more by salr.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]

LEVEL_MAX = 127  # symmetric: -128 is not used
_B_EXPONENT = 0.25


@dataclasses.dataclass(frozen=True)
class RoundedAdapter:
    """B·A as integers and scales.

    Attributes:
      A: int8 [r, K].
      A_scale: f32 [r]; 0 of a row of zeros, infinite where the product is beyond f32.
      B: int8 [N, r].
      B_scale: f32 [N], likewise.
    """

    A: I8
    A_scale: F32
    B: I8
    B_scale: F32


def round_adapter(A: F32, B: F32) -> RoundedAdapter:
    """Rounds A: [r, K] and B: [N, r], finite, to the nearest levels once their sizes are divided.

    With A', B' the divided factors (B'·A' = B·A) the result is within half a step of each:
    |B̂·Â - B·A| <= |B'|·(s/2) + (t/2)·|Â|, Â and B̂ with their scales applied.
    """
    divided_a, divided_b = _divided(A.astype(np.float64), B.astype(np.float64))
    a, a_scale = round_rows(divided_a)
    b, b_scale = round_rows(divided_b)
    return RoundedAdapter(a, a_scale, b, b_scale)


def round_rows(rows: F64) -> tuple[I8, F32]:
    """Each row as int8 times its scale, which takes its largest magnitude to 127.

    Returns:
      (int8 of the shape of `rows`, f32 [number of rows]); every value is within half a scale.
    """
    largest = np.abs(rows).max(axis=1, initial=0.0)
    with np.errstate(over="ignore"):
        scale = (largest / LEVEL_MAX).astype(np.float32)
    # Rounded down to a subnormal, a scale could leave the largest value beyond 127 and a half.
    short = scale.astype(np.float64) * LEVEL_MAX < largest
    scale[short] = np.nextafter(scale[short], np.float32(np.inf))
    wide = np.where(scale > 0, scale, 1).astype(np.float64)
    return np.rint(rows / wide[:, None]).astype(np.int8), scale


def _divided(A: F64, B: F64) -> tuple[F64, F64]:
    """The same product, with columns of B of norm (σᵢ / max σ)^¼; a component of 0 is all zeros."""
    norm_b = np.linalg.norm(B, axis=0)
    sigma = np.linalg.norm(A, axis=1) * norm_b
    share = (sigma / max(float(sigma.max(initial=0.0)), np.finfo(np.float64).tiny)) ** _B_EXPONENT
    factor = np.divide(share, norm_b, out=np.zeros_like(share), where=sigma > 0)
    back = np.divide(norm_b, share, out=np.zeros_like(share), where=sigma > 0)
    return A * back[:, None], B * factor
