"""SALAAD: training that learns W = S + L, for any torch model (arXiv 2602.00942).

    min loss(X) + Σ_blocks α‖L‖₊ + β‖S‖₁   such that X = L + S

    salaad = Salaad(model, target_rank=0.15, target_density=0.05)
    loss = model(batch)                    loss = model(batch) + salaad.penalty()
    loss.backward()                   or   loss.backward()
    salaad.add_gradient()
    optimizer.step()                       optimizer.step()
    salaad.step()                          salaad.step()

X is what the optimizer trains: any optimizer, with ρ/2·‖X − L − S + Y/ρ‖² on top of the loss, or
with that penalty's gradient added by `add_gradient`, which is the same and needs no graph (call
it after any clipping of the loss's gradient). Every `every` steps one ADMM pass renews L, S and Y
(`salaad_block`), and a controller moves α and β (`salaad_controller`). From step `refit_from` rank
and support are held, and the optimizer trains L + S itself (`salaad_refit`). `salaad_callback` does
all of it in a transformers Trainer; `salaad_export` writes the result as a structured checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.structure.salaad_block import Block, BlockFigures
from slc.compiler.structure.salaad_blocks import BlockKind, Weight, find_weights, stack
from slc.compiler.structure.salaad_controller import Controller
from slc.compiler.structure.salaad_prox import Tensor

# For a few thousand steps of a small model: α and β, which rise by ρ·k in their units every pass,
# are the pull on X, and Adam turns a pull that is steady into a drag, however small beside the
# gradient's noise. The paper's 1e-6, 3e-7 and 6e-8 fit runs with hundreds of times as many passes.
RHO: dict[BlockKind, float] = {"linear": 2e-4, "embedding": 2e-4, "lm_head": 2e-4}
GAIN = 0.01  # k, of rank and density
ENERGY = 0.999  # of Σσ², that the effective rank holds


class Salaad:
    """The structure that is learned beside a model's weights.

    Attributes:
      blocks: one for each matrix that is split.
      refusals: Linear and Embedding weights that can't be split, and why; they train as ever.
      steps: optimizer steps seen.
      passes: ADMM passes done.
      updated: whether the last `step` did one.
    """

    def __init__(
        self, model: Any, *, include: Sequence[str] | None = None, exclude: Sequence[str] = (),
        stacks: Sequence[Sequence[str]] = (), target_rank: float = 0.15,
        target_density: float = 0.05, every: int = 10, start: int = 0,
        refit_from: int | None = None, rho: float | Mapping[BlockKind, float] | None = None,
        k_alpha: float = GAIN, k_beta: float = GAIN, derivative: float = 2.0,
        late_from: int | None = None, energy: float = ENERGY,
    ) -> None:  # fmt: skip
        """Finds the weights; nothing of the model is changed.

        Args:
          model: an `nn.Module`, on its device, before or after the optimizer is made.
          include: patterns of parameter names (fnmatch); None: every Linear and Embedding weight.
          exclude: patterns of names to leave out.
          stacks: names of sibling modules that are one matrix where they are deployed, such as
            ("q_proj", "k_proj", "v_proj"): they then share one L.
          target_rank: of L, effective rank over min(N, K), 0 … 1; 0 learns no L.
          target_density: of S, 0 … 1; 0 learns no S.
          every: optimizer steps between two passes.
          start: the step of the first pass; before it the model trains as ever.
          refit_from: the step from which rank and support are held at their targets and X = L + S.
            For a learning rate that decays to zero, where it matters most: an X that no longer
            moves can't answer Y, which then grows until L + S is that X, whatever rank and density
            that takes. None: never.
          rho: of every block, or by kind; None: `RHO`.
          k_alpha: gain of the rank's controller.
          k_beta: gain of the density's.
          derivative: d of the late derivative-like term.
          late_from: the step from which it counts; None: never.
          energy: of L that its effective rank holds.

        Raises:
          RequestError: a setting is out of range, or no weight can be split.
        """
        _check_settings(target_rank, target_density, every, start, refit_from, energy)
        weights, self.refusals = find_weights(model, include, exclude)
        if not weights:
            raise RequestError(
                "SALAAD found no Linear or Embedding weight to split: check include and exclude"
            )
        by_kind = _rho_by_kind(rho)
        self.blocks = [
            Block(
                group,
                by_kind[group[0].kind],
                Controller(target_rank, k_alpha, derivative),
                Controller(target_density, k_beta, derivative),
                energy,
            )
            for group in stack(weights, stacks)
        ]
        self.every, self._late_from = every, late_from
        self._start, self._refit_from = start, refit_from
        self.settings: dict[str, float | int] = {
            "target_rank": target_rank, "target_density": target_density, "every": every,
            "k_alpha": k_alpha, "k_beta": k_beta, "derivative": derivative, "energy": energy,
            "start": start,
        } | {f"rho_{kind}": value for kind, value in by_kind.items()}  # fmt: skip
        for name, step in (("late_from", late_from), ("refit_from", refit_from)):
            if step is not None:
                self.settings[name] = step
        self.steps = self.passes = 0
        self.updated = False
        self._seconds, self._timed = 0.0, 0

    def penalty(self) -> Tensor:
        """Σ ρ/2·‖X − L − S + Y/ρ‖² over the blocks: a scalar under autograd.

        0 before the first pass and after the last: while L and S are refitted.
        """
        found = [p for p in (block.penalty() for block in self.blocks) if p is not None]
        device = self.blocks[0].S.device
        return torch.stack(found).sum() if found else torch.zeros((), device=device)

    def add_gradient(self) -> None:
        """Adds the gradient of `penalty` to that of every parameter: the cheaper of the two."""
        started = time.perf_counter()
        for block in self.blocks:
            block.add_gradient()
        self._seconds += time.perf_counter() - started

    def step(self, loss: Any = None) -> bool:
        """Counts an optimizer step and does the pass that is due.

        Args:
          loss: of this step, a float or scalar tensor, to have it checked; reading a tensor waits
            for the device.

        Returns:
          Whether there was a pass.

        Raises:
          ModelError: the loss or a weight is not finite; go on from a saved state. S, L and Y are
            then as they were, but for a refit, where a weight is looked at every `every` steps.
        """
        started = time.perf_counter()
        if loss is not None:
            self.check_loss(loss)
        self.steps += 1
        self._timed += 1
        since = self.steps - self._start
        self.updated = since >= 0 and since % self.every == 0
        refitted = any(block.refitted for block in self.blocks)  # a state may be ahead of settings
        if refitted or (self._refit_from is not None and self.steps >= self._refit_from):
            self._follow(first=not refitted)
        elif self.updated:
            self.update()
        self._seconds += time.perf_counter() - started
        return self.updated

    def check_loss(self, loss: Any) -> None:
        """Refuses a loss, a float or scalar tensor, that is not finite.

        Raises:
          ModelError: says at which step.
        """
        value = float(loss.detach() if hasattr(loss, "detach") else loss)
        if not math.isfinite(value):
            raise ModelError(
                f"the loss is {value} after {self.steps} steps: training diverged, go on "
                "from an earlier state with a lower learning rate"
            )

    def update(self) -> None:
        """One ADMM pass over all blocks, due or not.

        Raises:
          RequestError: rank and support are held already.
        """
        if any(block.refitted for block in self.blocks):
            raise RequestError("the refit has begun: there are no more passes of ADMM, only step()")
        late = self._late_from is not None and self.steps >= self._late_from
        for block in self.blocks:
            block.check_finite()  # of all, before any changes
        for block in self.blocks:
            block.update(late=late)
        self.passes += 1

    def _follow(self, *, first: bool) -> None:
        """A step of the refit; its first sets it up."""
        if first or self.updated:
            for block in self.blocks:
                block.check_finite()
        for block in self.blocks:
            if first:
                block.start_refit()
            else:
                block.follow(retract=self.updated)
        self.updated = self.updated or first

    @contextlib.contextmanager
    def surrogate(self) -> Iterator[None]:
        """The model computes with L + S while inside, and with X, to the bit, afterwards."""
        before = [block.exchange(None) for block in self.blocks]
        try:
            yield
        finally:
            for block, values in zip(self.blocks, before, strict=True):
                block.exchange(values)

    def figures(self) -> list[BlockFigures]:
        """Of every block after the last pass; empty before the first."""
        return [block.figures for block in self.blocks if block.figures is not None]

    def summary(self) -> dict[str, float]:
        """Means over the blocks of rank ratio, density and residual, and of both thresholds."""
        figures = self.figures()
        if not figures:
            return {}
        rows = {
            "rank_ratio": [f.rank_ratio for f in figures],
            "density": [f.density for f in figures],
            "residual": [f.residual for f in figures],
            "alpha": [f.alpha for f in figures],
            "beta": [f.beta for f in figures],
            "exact": [float(f.exact) for f in figures],
        }
        return {name: sum(values) / len(values) for name, values in rows.items()}

    def seconds_per_step(self) -> float:
        """Wall time that SALAAD itself took per optimizer step, passes included, since it was made.

        That is `add_gradient` and `step`; the work of `penalty` is the autograd engine's. On CUDA
        it is the time to launch, unless the caller synchronises.
        """
        return self._seconds / self._timed if self._timed else 0.0

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on to the bit, beside the model's and the optimizer's."""
        return {
            "steps": self.steps,
            "passes": self.passes,
            "settings": self.settings,
            "blocks": {block.name: block.state_dict() for block in self.blocks},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave.

        Raises:
          ModelError: the state is of other weights.
        """
        names = [block.name for block in self.blocks]
        if sorted(state["blocks"]) != sorted(names):
            wrong = sorted(set(state["blocks"]) ^ set(names))[0]
            raise ModelError(
                f"the saved state does not belong to this model: only one of the two has {wrong!r}"
            )
        for block in self.blocks:
            block.load_state_dict(state["blocks"][block.name])
        self.steps, self.passes = state["steps"], state["passes"]

    def weights(self) -> list[Weight]:
        """Every parameter that is split."""
        return [weight for block in self.blocks for weight in block.weights]


def _rho_by_kind(rho: float | Mapping[BlockKind, float] | None) -> dict[BlockKind, float]:
    by_kind = dict(RHO)
    if isinstance(rho, Mapping):
        by_kind.update(rho)
    elif rho is not None:
        by_kind = dict.fromkeys(RHO, rho)
    for kind, value in by_kind.items():
        if not (value > 0 and math.isfinite(value)):
            raise RequestError(f"rho of {kind} is {value}: give a number above 0")
    return by_kind


def _check_settings(
    target_rank: float, target_density: float, every: int, start: int, refit_from: int | None,
    energy: float,
) -> None:  # fmt: skip
    for name, value in (("target_rank", target_rank), ("target_density", target_density)):
        if not 0.0 <= value <= 1.0:
            raise RequestError(f"{name} is {value}: give a number from 0 to 1")
    if target_rank == 0 and target_density == 0:
        raise RequestError("target_rank and target_density are both 0: that leaves no weight")
    if every < 1 or start < 0:
        raise RequestError(f"every is {every} and start {start}: give at least 1 and 0")
    if refit_from is not None and refit_from < max(1, start):
        raise RequestError(f"refit_from is {refit_from}: give a step from start, {start}, on")
    if not 0.0 < energy <= 1.0:
        raise RequestError(f"energy is {energy}: give a number above 0, at most 1")
