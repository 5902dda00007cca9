"""SALR: a static magnitude mask and the truncated SVD of what it removes (arXiv 2601.16991).

    Ŵ = mask ∘ W₀          the k = round(density·N·K) entries of largest magnitude of W₀
    E = W₀ − Ŵ             the residual
    B·A = SVD_r(E)         kept as an adapter, W₀ ≈ Ŵ + B·A

Of the paper's three mask policies the static one on the frozen W₀ has the lowest error (its
theorem 1). Theorem 3: the residual's truncated SVD multiplies the squared error by at most
1 − r/min(N, K), an equality only for a flat spectrum.
"""

from __future__ import annotations

import numpy as np

from slc.compiler.structure.decomposition import F32, Decomposition, measured
from slc.compiler.structure.ordering import global_count, global_order, positions
from slc.compiler.structure.svd import truncated_svd


def decompose_matrix(W: F32, *, density: float, rank: int, seed: int = 0) -> Decomposition:
    """Mask and residual adapter of one matrix.

    Args:
      W: f32 [N, K], finite; overwritten.
      density: of S, 0 to 1.
      rank: of the adapter; more than min(N, K) is min(N, K).
      seed: of the SVD's random start.

    Returns:
      S ordered globally by magnitude, the adapter by singular value of E.
    """
    index = global_order(W, global_count(W.size, density))
    flat = W.reshape(-1)
    value = np.empty(index.size, np.float32)
    for at, places in positions(index):
        value[at] = flat[places]
        flat[places] = 0
    B, A, sigma = truncated_svd(W, rank, seed=seed)
    for at, places in positions(index):
        flat[places] = value[at]
    return measured(W, index, value, B, A, sigma, order="global")
