"""The end of a SALAAD run: S and L move freely, within their support and their rank.

The norms that made S sparse and L low-rank also shrink what they keep: at the thresholds that reach
a target, every stored value is too small by one of them. As the relaxed lasso refits the chosen
variables without the penalty (Meinshausen 2007), the last steps here train L + S on the set

    M = { S + L : S zero outside its support, rank L <= r },

so that X = L + S holds exactly and rank and density are the targets to the entry. After every
optimizer step its change D is replaced by its projection on the tangent space of M,

    D_S = mask∘(D − D_L),   D_L = P(D − D_S),   P(Z) = U·Uᵀ·Z + Z·V·Vᵀ − U·Uᵀ·Z·V·Vᵀ

found by alternating between the two, and every pass L goes back to rank r by one step of orthogonal
iteration from V (a retraction of the second order: Absil & Oseledets 2015). Momentum and moments
stay the optimizer's.
"""

from __future__ import annotations

from typing import Any

import torch

from slc.compiler.structure.salaad_prox import Tensor, full_svd

ALTERNATIONS = 2  # of one change's projection
SPLITS = 10  # of the first L + S


class Refit:
    """L + S on M.

    Attributes:
      X: f32 [N, K], L + S.
      S: f32 [N, K], zero outside `support`.
      support: bool [N, K].
      U, V: f32 [N, r] and [K, r], orthonormal: the spaces of L's columns and rows.
    """

    def __init__(self, Z: Tensor, S: Tensor, rank: int, nnz: int) -> None:
        """Splits Z into the L of rank `rank` and the S of `nnz` entries that leave least of it.

        Args:
          Z: f32 [N, K].
          S: f32 [N, K], to start from.
          rank: r, 0 … min(N, K).
          nnz: entries of the support, 0 … N·K.
        """
        N, K = Z.shape
        self.U, self.V = Z.new_zeros(N, 0), Z.new_zeros(K, 0)
        self.support = torch.ones_like(Z, dtype=torch.bool)
        L = torch.zeros_like(Z)
        for _ in range(SPLITS):
            if rank:
                U, sigma, V = full_svd(Z - S)
                self.U, self.V = U[:, :rank].contiguous(), V[:, :rank].contiguous()
                L = (self.U * sigma[:rank]) @ self.V.T
            self.support = _largest(Z - L, nnz)
            S = (Z - L) * self.support
        self.S = S
        self.X = L + S

    def move(self, change: Tensor) -> None:
        """Follows an optimizer step.

        Args:
          change: f32 [N, K], of the parameter by the step.
        """
        low = torch.zeros_like(change)
        sparse = change * self.support
        for _ in range(ALTERNATIONS):
            low = self._tangent(change - sparse)
            sparse = (change - low) * self.support
        self.S = self.S + sparse
        self.X = self.X + low + sparse

    def _tangent(self, Z: Tensor) -> Tensor:
        """P(Z)."""
        right = Z @ self.V
        return self.U @ (self.U.T @ Z) + (right - self.U @ (self.U.T @ right)) @ self.V.T

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """L of rank r as B [N, r] and A [r, K], singular values falling and split evenly, and S.

        What L leaves of X − S on the support goes to S. Changes nothing.
        """
        U, sigma, V, S = self._nearest()
        root = sigma.sqrt()
        return U * root, (V * root).T.contiguous(), S

    def retract(self) -> tuple[Tensor, float]:
        """Goes back to rank r; L's singular values, and how much of X that took, ‖change‖/‖X‖."""
        self.U, sigma, self.V, self.S = self._nearest()
        before, self.X = self.X, (self.U * sigma) @ self.V.T + self.S
        norm = float(before.norm())
        return sigma, float((before - self.X).norm()) / norm if norm else 0.0

    def _nearest(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        Z = self.X - self.S
        left, _ = torch.linalg.qr(Z @ self.V)
        right, R = torch.linalg.qr(Z.T @ left)
        inner, sigma, outer = torch.linalg.svd(R)
        U, V = left @ outer.T, right @ inner
        return U, sigma, V, (self.X - (U * sigma) @ V.T) * self.support

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"X": self.X, "S": self.S, "support": self.support, "U": self.U, "V": self.V}

    @classmethod
    def of(cls, state: dict[str, Any], device: Any) -> Refit:
        """As `state_dict` had it."""
        refit = cls.__new__(cls)
        for name, tensor in state.items():
            setattr(refit, name, tensor.to(device, copy=True))
        return refit


def _largest(Z: Tensor, count: int) -> Tensor:
    """Where the `count` largest magnitudes of Z are: bool of Z's shape."""
    support = torch.zeros(Z.numel(), dtype=torch.bool, device=Z.device)
    support[Z.abs().reshape(-1).topk(count).indices] = True
    return support.reshape(Z.shape)
