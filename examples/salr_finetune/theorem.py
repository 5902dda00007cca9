"""What the residual's truncated SVD leaves of the mask's error, on MiniLM's own matrices."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from transformers import AutoModel

from slc.compiler.structure import salr


@dataclasses.dataclass(frozen=True)
class Factor:
    """One matrix.

    Attributes:
      name: of the module.
      shape: N, K.
      masked: ‖E‖² / ‖W‖², the part of the energy that the mask removes.
      left: ‖E − B·A‖² / ‖E‖².
      bound: 1 − r/min(N, K), what the theorem allows; equal to `left` on a flat spectrum.
    """

    name: str
    shape: tuple[int, int]
    masked: float
    left: float
    bound: float


def factors(folder: Path, density: float, rank: int) -> list[Factor]:
    """Every projection of the encoder's layers."""
    found = []
    for name, module in AutoModel.from_pretrained(folder, dtype=torch.float32).named_modules():
        if not isinstance(module, torch.nn.Linear) or "layer" not in name:
            continue
        W = module.weight.detach().numpy()
        with threadpool_limits(1, user_api="blas"):
            made = salr.decompose_matrix(W.copy(), density=density, rank=rank)
        E = W.copy()
        E.reshape(-1)[made.index] = 0
        energy = _energy(E)
        left = _energy(E - made.B @ made.A) / energy
        bound = 1 - rank / min(W.shape)
        found.append(Factor(name, W.shape, energy / _energy(W), left, bound))
    return found


def _energy(W: np.ndarray) -> float:
    return float(np.sum(np.square(W, dtype=np.float64)))
