"""tr(E·H·Eᵀ) of many errors E of one weight: exact, or through a sketch where K is large.

With a factor F of H = F·Fᵀ that is ‖E·F‖². For wide H a Gaussian G [K, m] stands in for the whole
factor: ‖E·F·G‖²/m has the same expectation, for each row of E with a relative standard deviation of
at most sqrt(2/m); all options of a Linear see the same G, so that their order suffers less.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.oats import column_scale

DAMPING = 1e-3  # of H's unit diagonal: makes it definite, and moves no error by more than that part
EXACT_COLUMNS = 1024
SKETCH_COLUMNS = 512


class LayerError:
    """The error of approximations of one weight [N, K] for inputs of second moments H."""

    def __init__(self, H: F32, seed: int = 0) -> None:
        """Factors H = E[x·xᵀ], f32 [K, K], symmetric and positive semidefinite."""
        K = len(H)
        damped = H.astype(np.float64)
        squares = np.square(column_scale(np.diag(damped).copy()).astype(np.float64))
        damped[np.diag_indices_from(damped)] += DAMPING * squares
        self.factor: F32 = np.linalg.cholesky(damped).astype(np.float32)
        self._sketched = self.factor
        if K > EXACT_COLUMNS:
            draw = np.random.default_rng(seed).standard_normal((K, SKETCH_COLUMNS))
            draw /= np.sqrt(SKETCH_COLUMNS)
            self._sketched = self.factor @ draw.astype(np.float32)

    def of(self, E: F32) -> float:
        """tr(E·H·Eᵀ), or its estimate."""
        return float(np.square(E @ self._sketched).sum(dtype=np.float64))


def activation_error(W: F32, rounding: npt.NDArray[np.float64]) -> float:
    """What int8 activations add to the squared error of an output row, whatever W is stored as.

    The roundings of two columns have nothing in common, so it is Σₖ E[(x − x̂)ₖ²]·‖W[:, k]‖².

    Args:
      W: f32 [N, K].
      rounding: f64 [K], as in calibration.py's Moments.
    """
    return float(np.square(W).sum(axis=0, dtype=np.float64) @ rounding)
