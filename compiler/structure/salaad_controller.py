"""SALAAD's controller: moves the weights of the two norms until rank and density are on target.

    α ← max(0, α + ρ·s_L·k_α·e_L),   e_L = rank ratio / target − 1, within −1 … 1, after every pass
    β ← max(0, β + ρ·s_S·k_β·e_S),   e_S = density / target − 1, within −1 … 1

The thresholds of the proximal steps are α/ρ and β/ρ. s_L and s_S are the natural units of those:
the root mean square of the weight's singular values, ‖X‖/√min(N, K), and of its entries,
‖X‖/√(N·K). Late in training the error's change is added, e + d·(e − e before), so that what is
still moving is met before it overshoots.

The paper's rule has s = 1 and e = measured − target, with gains that fit the spectra, the targets
and the tens of thousands of passes of large models. In units of the weight and of the target the
same gains fit any; and a matrix that starts dense, where measured − target is ten times as far
above the target as it can ever be below, winds the weights up no faster than they come down.
"""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass
class Controller:
    """One norm's weight.

    Attributes:
      target: of the rank ratio or density, above 0 to 1 where it is updated.
      gain: k.
      derivative: d, of the late term.
      weight: α or β, in units of ρ times the threshold.
      error: of the last update, relative to the target; None before the first.
    """

    target: float
    gain: float
    derivative: float
    weight: float = 0.0
    error: float | None = None

    def update(self, measured: float, step: float, *, late: bool) -> None:
        """One update.

        Args:
          measured: the rank ratio or density of the pass.
          step: ρ·s.
          late: whether the derivative-like term counts.
        """
        error = min(1.0, max(-1.0, measured / self.target - 1.0))
        change = error
        if late and self.error is not None:
            change += self.derivative * (error - self.error)
        self.weight = max(0.0, self.weight + step * self.gain * change)
        self.error = error


def spectral_unit(norm: float, N: int, K: int) -> float:
    """s_L of a matrix [N, K] of this Frobenius norm."""
    return norm / math.sqrt(min(N, K))


def entry_unit(norm: float, N: int, K: int) -> float:
    """s_S of a matrix [N, K] of this Frobenius norm."""
    return norm / math.sqrt(N * K)
