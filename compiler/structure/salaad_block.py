"""One weight matrix under ADMM: X as torch trains it, its S, L and Y, and the pass over them.

    L ← SVT_{α/ρ}(X − S + Y/ρ)
    S ← soft_{β/ρ}(X − L + Y/ρ)
    Y ← Y + ρ·(X − L − S)

and between two passes X moves with the gradient of ρ/2·‖X − L − S + Y/ρ‖², which is ρ·X + C with
C = Y − ρ·(L + S) constant: two additions per step. Once S and L are refitted (`salaad_refit`), X is
L + S and there is no pull.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from slc.compiler.errors import ModelError
from slc.compiler.structure.salaad_blocks import BlockKind, Weight
from slc.compiler.structure.salaad_controller import Controller, entry_unit, spectral_unit
from slc.compiler.structure.salaad_prox import (
    SubspaceSvt,
    Tensor,
    effective_rank,
    soft_threshold,
)
from slc.compiler.structure.salaad_refit import Refit


@dataclasses.dataclass(frozen=True)
class BlockFigures:
    """A block after a pass.

    Attributes:
      name: of its parameters.
      N, K: its shape.
      rank: effective, by energy.
      nnz: entries of S.
      alpha, beta: as they are now.
      residual: ‖X − L − S‖ / ‖X‖.
      exact: whether the pass took the whole spectrum.
    """

    name: str
    N: int
    K: int
    rank: int
    nnz: int
    alpha: float
    beta: float
    residual: float
    exact: bool

    @property
    def rank_ratio(self) -> float:
        """Effective rank over min(N, K)."""
        return self.rank / min(self.N, self.K)

    @property
    def density(self) -> float:
        """Stored entries of S over N·K."""
        return self.nnz / (self.N * self.K)


class Block:
    """X ≈ L + S of one matrix, or of siblings stacked row block on row block.

    S, Y and C are f32 [N, K]; L is kept as B·A, f32 [N, r] and [r, K], singular values falling and
    split evenly between the factors.
    """

    def __init__(
        self, weights: Sequence[Weight], rho: float, rank: Controller, density: Controller,
        energy: float,
    ) -> None:  # fmt: skip
        self.weights = tuple(weights)
        self.rho = rho
        self.rank, self.density = rank, density
        self._energy = energy
        first = weights[0].parameter
        self.N = sum(len(w.parameter) for w in weights)
        self.K = int(first.shape[1])
        empty = {"dtype": torch.float32, "device": first.device}
        self.S = torch.zeros(self.N, self.K, **empty)
        self.Y = torch.zeros(self.N, self.K, **empty)
        self.B = torch.zeros(self.N, 0, **empty)
        self.A = torch.zeros(0, self.K, **empty)
        self._svt = SubspaceSvt()
        self._pull: Tensor | None = None  # C; None before the first pass
        self._refit: Refit | None = None
        self.figures: BlockFigures | None = None

    @property
    def name(self) -> str:
        """Names of the parameters."""
        return "+".join(weight.name for weight in self.weights)

    @property
    def kind(self) -> BlockKind:
        """What the weights are."""
        return self.weights[0].kind

    def X(self) -> Tensor:
        """The weights as f32 [N, K]; part of the graph of autograd."""
        parts = [weight.parameter.float() for weight in self.weights]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """B f32 [N, r] and A f32 [r, K] of L, and S f32 [N, K], as they are now."""
        return (self.B, self.A, self.S) if self._refit is None else self._refit.factors()

    def surrogate(self) -> Tensor:
        """L + S, f32 [N, K]."""
        B, A, S = self.factors()
        return B @ A + S

    def L(self) -> Tensor:
        """B·A, f32 [N, K]."""
        B, A, _ = self.factors()
        return B @ A

    def penalty(self) -> Tensor | None:
        """ρ/2·‖X − L − S + Y/ρ‖² under autograd; None before the first pass."""
        if self._pull is None:
            return None
        return 0.5 * self.rho * (self.X() + self._pull / self.rho).square().sum()

    def add_gradient(self) -> None:
        """Adds ρ·(X − L − S) + Y, the penalty's gradient, to the parameters' gradients."""
        if self._pull is None:
            return
        for weight, pull in zip(self.weights, self._rows(self._pull), strict=True):
            X = weight.parameter.detach()
            if weight.parameter.grad is None:
                weight.parameter.grad = torch.zeros_like(X)
            gradient = weight.parameter.grad
            gradient.add_(X, alpha=self.rho)
            gradient.add_(pull.to(gradient.dtype))

    def check_finite(self) -> None:
        """Refuses weights that are not.

        Raises:
          ModelError: names the weight.
        """
        for weight in self.weights:
            if not math.isfinite(float(weight.parameter.detach().float().norm())):
                raise ModelError(
                    f"the weight {weight.name!r} is not finite: training diverged, go on from an "
                    "earlier state with a lower learning rate"
                )

    def update(self, *, late: bool) -> None:
        """One pass; the weights must be finite."""
        with torch.no_grad():
            self._pass(late)

    def _pass(self, late: bool) -> None:
        X = self.X()
        norm = float(X.norm())
        V = X + self.Y / self.rho
        rank = self._update_low_rank(V)
        L = self.B @ self.A
        self._update_sparse(V - L)
        gap = X - L - self.S
        self.Y.add_(gap, alpha=self.rho)
        self._pull = self.Y - self.rho * (L + self.S)
        nnz = int(torch.count_nonzero(self.S))
        residual = float(gap.norm()) / norm if norm else 0.0
        self._control(rank, nnz, norm, late)
        self.figures = BlockFigures(
            self.name, self.N, self.K, rank, nnz, self.rank.weight, self.density.weight, residual,
            self._svt.exact,
        )  # fmt: skip

    def _update_low_rank(self, V: Tensor) -> int:
        """L of V = X + Y/ρ; its effective rank."""
        if self.rank.target == 0:
            return 0
        U, sigma, right = self._svt(V - self.S, self.rank.weight / self.rho)
        root = sigma.sqrt()
        self.B, self.A = U * root, (right * root).T.contiguous()
        return effective_rank(sigma, self._energy)

    def _update_sparse(self, Z: Tensor) -> None:
        if self.density.target > 0:
            self.S = soft_threshold(Z, self.density.weight / self.rho)

    def _control(self, rank: int, nnz: int, norm: float, late: bool) -> None:
        N, K = self.N, self.K
        if self.rank.target > 0:
            step = self.rho * spectral_unit(norm, N, K)
            self.rank.update(rank / min(N, K), step, late=late)
        if self.density.target > 0:
            step = self.rho * entry_unit(norm, N, K)
            self.density.update(nnz / (N * K), step, late=late)

    def start_refit(self) -> None:
        """From here on X = L + S, with the target's rank and density, and no pull."""
        with torch.no_grad():
            X = self.X()
            passed = self.figures is not None
            Z = self.surrogate() if passed else X  # averaged over passes, L + S has less noise
            rank = _part_of(self.rank.target, min(self.N, self.K))
            nnz = _part_of(self.density.target, self.N * self.K)
            self._refit, self._pull = Refit(Z, self.S, rank, nnz), None
            self.B, self.A = X.new_zeros(self.N, 0), X.new_zeros(0, self.K)  # the Refit has them
            self.S = self.Y = X.new_zeros(0, 0)
            self._retract()

    def follow(self, *, retract: bool) -> None:
        """Takes the part of an optimizer step that keeps rank and support.

        Args:
          retract: whether L goes back to its rank, and figures are renewed.
        """
        assert self._refit is not None
        with torch.no_grad():
            self._refit.move(self.X() - self._placed())
            if retract:
                self._retract()
            else:
                self._place()

    def _retract(self) -> None:
        assert self._refit is not None
        sigma, residual = self._refit.retract()
        self._place()
        nnz = int(torch.count_nonzero(self._refit.support))
        self.figures = BlockFigures(
            self.name, self.N, self.K, effective_rank(sigma, self._energy), nnz,
            self.rank.weight, self.density.weight, residual, False,
        )  # fmt: skip

    def _place(self) -> None:
        """L + S into the parameters."""
        assert self._refit is not None
        for weight, values in zip(self.weights, self._rows(self._refit.X), strict=True):
            weight.parameter.detach().copy_(values)

    def _placed(self) -> Tensor:
        """What the parameters held before the optimizer's step: L + S in their own type."""
        assert self._refit is not None
        return self._refit.X.to(self.weights[0].parameter.dtype).float()

    def exchange(self, other: Sequence[Tensor] | None) -> list[Tensor]:
        """Puts L + S (or `other`, by parameter) into the parameters; what was there before."""
        new = self._rows(self.surrogate()) if other is None else other
        before = [weight.parameter.detach().clone() for weight in self.weights]
        for weight, values in zip(self.weights, new, strict=True):
            weight.parameter.detach().copy_(values)
        return before

    def rows(self) -> list[tuple[Weight, int, int]]:
        """Which rows each parameter has in the block."""
        places, start = [], 0
        for weight in self.weights:
            stop = start + len(weight.parameter)
            places.append((weight, start, stop))
            start = stop
        return places

    def _rows(self, matrix: Tensor) -> list[Tensor]:
        return [matrix[start:stop] for _, start, stop in self.rows()]

    @property
    def refitted(self) -> bool:
        """Whether rank and support are held."""
        return self._refit is not None

    def state_dict(self) -> dict[str, Any]:
        """All that the next pass depends on."""
        return {
            "S": self.S, "Y": self.Y, "B": self.B, "A": self.A, "V": self._svt.V,
            "alpha": self.rank.weight, "beta": self.density.weight,
            "rank_error": self.rank.error, "density_error": self.density.error,
            "figures": None if self.figures is None else dataclasses.asdict(self.figures),
            "refit": None if self._refit is None else self._refit.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave.

        Raises:
          ModelError: the state is of a matrix of another shape.
        """
        refit = state.get("refit")  # states of an earlier version have none
        shape = list((state["S"] if refit is None else refit["S"]).shape)
        if shape != [self.N, self.K]:
            raise ModelError(
                f"the saved state of {self.name!r} is {shape} where the weight "
                f"is {[self.N, self.K]}: it is another model's"
            )
        device = self.S.device
        self._refit = None if refit is None else Refit.of(refit, device)
        for field in ("S", "Y", "B", "A"):
            setattr(self, field, state[field].to(device, copy=True))
        self._svt.V = None if state["V"] is None else state["V"].to(device, copy=True)
        self.rank.weight, self.rank.error = state["alpha"], state["rank_error"]
        self.density.weight, self.density.error = state["beta"], state["density_error"]
        figures = state["figures"]
        self.figures = None if figures is None else BlockFigures(**figures)
        pulled = figures is not None and refit is None
        self._pull = self.Y - self.rho * self.surrogate() if pulled else None


def _part_of(target: float, whole: int) -> int:
    """A target in units; at least one, where there is a target: nothing can't be trained."""
    return max(1, round(target * whole)) if target > 0 else 0
