"""How far to trust the second moments of a calibration text: the damping that other text prefers.

H of a few thousand tokens is the truth plus noise, and a fit follows both. Adding a part of H's
diagonal to it shrinks what correlates towards nothing, as covariances are estimated from few
samples (Ledoit & Wolf, 2004). How much is best depends on the Linear: on all-MiniLM-L6-v2 and 3000
tokens from 0.01 to 0.15 for sparse plus low-rank and from 0.03 to 1 for int4, and at the best one a
down-projection lost a third less of S + L, and a sixth less of int4, on text it had not seen. So
each is tried on some rows of the matrix and judged by the text that was held out. Formulas that
need no second text (of the covariance's own error, by tokens or by texts) were 3 to 10 times off
for the widest inputs, whose few large eigenvalues decide them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from slc.compiler.structure.decomposition import F32

ROWS = 48  # of the matrix; those that are tried agree with the whole but for one step of damping


def some_rows(W: F32) -> F32:
    """About `ROWS` rows of W [N, K], evenly spread."""
    return np.ascontiguousarray(W[:: max(1, len(W) // ROWS)])


def best_damping(dampings: Sequence[float], error: Callable[[float], F32], judge: F32) -> float:
    """The damping whose error loses least.

    Args:
      dampings: to choose from, rising; of equals the first.
      error: gives the weight error f32 [n, K] of a fit with that damping.
      judge: E[x·xᵀ] of text the fit did not see, f32 [K, K].
    """
    return min(dampings, key=lambda damping: _lost(error(damping), judge))


def _lost(E: F32, H: F32) -> float:
    return float(np.sum((E @ H) * E, dtype=np.float64))
