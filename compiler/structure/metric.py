"""The metric that a layer's inputs put on its weights: tr(E·H·Eᵀ) with H = E[x·xᵀ].

For an error E [N, K] of the weight that is the expected squared error of the layer's output.
Columns are scaled by d = sqrt(diag H) first, so that H has a unit diagonal: a magnitude in these
scaled weights is what its entry adds to the output by itself, and one ρ suits every column.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from slc.compiler.structure.oats import column_scale

F32 = npt.NDArray[np.float32]

# Added to H's unit diagonal. Calibration has a few thousand rows where K may be larger still: what
# no row has shown must not be free. GPTQ takes .01; where text is held out, damping.py looks for
# a better one.
DAMPING = 0.005


@dataclasses.dataclass(frozen=True)
class Metric:
    """H in the coordinates of scaled columns, with its eigenvectors.

    Attributes:
      scale: d, f32 [K].
      H: f32 [K, K], diag(1/d)·H·diag(1/d) + damping·I.
      vectors: f32 [K, K], eigenvectors of `H` in its columns.
      values: f32 [K], its eigenvalues, all positive.
    """

    scale: F32
    H: F32
    vectors: F32
    values: F32

    @staticmethod
    def of(H: F32, damping: float = DAMPING) -> Metric:
        """The metric of H = E[x·xᵀ], f32 [K, K], symmetric, positive semidefinite."""
        scale = column_scale(np.diag(H).astype(np.float64))
        unit = H / scale / scale[:, None]
        unit[np.diag_indices_from(unit)] += np.float32(damping)
        values, vectors = np.linalg.eigh(unit)
        # f32 rounding may take a small eigenvalue below the damping that all of them hold.
        values = np.maximum(values, np.float32(damping) / 2)
        return Metric(scale, unit, np.ascontiguousarray(vectors), values)

    def redamped(self, by: float) -> Metric:
        """With `by` more of damping: the same eigenvectors."""
        H = self.H.copy()
        H[np.diag_indices_from(H)] += np.float32(by)
        return dataclasses.replace(self, H=H, values=self.values + np.float32(by))

    def loss(self, E: F32) -> float:
        """tr(E·H·Eᵀ) of an error E [N, K] of the scaled weights, damping included."""
        return float(np.sum((E @ self.H) * E, dtype=np.float64))
