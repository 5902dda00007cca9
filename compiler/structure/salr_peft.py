"""SALR fine-tuning of a PEFT model (arXiv 2601.16991): masked base, trained residual, LoRA.

    Ŵ = mask ∘ W₀,  E = W₀ − Ŵ           once, on every frozen Linear that LoRA adapts
    B_res·A_res = SVD_r(E)               a second LoRA adapter, named "residual"
    y = x·Ŵᵀ + x·(B_res·A_res)ᵀ + s·x·(B·A)ᵀ     trained: B_res, A_res, B and A

    model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear"))
    salr = Salr(model, density=0.5, rank=64)
    optimizer = torch.optim.AdamW(salr.parameter_groups(lr=1e-3))
    …                                     any loop, or a transformers Trainer
    salr.save("out")                      out/model.slr and out/adapter
    $ slc export out/model.slr --adapter out/adapter -o artifact

Everything between is PEFT's: two adapters are active at once, so its forward adds them up, and
`model.save_pretrained` saves both for a run that is to go on later. At export they are
concatenated along the rank: two GEMMs for all. `--density`, `--rank` or `--mem` take a slice of the
checkpoint; without them it is exported whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slc.compiler.errors import RequestError
from slc.compiler.extras import require
from slc.compiler.frontends.source import Source
from slc.compiler.progress import Progress
from slc.compiler.structure import salr
from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.salr_save import Saved, save
from slc.compiler.structure.salr_targets import (
    RESIDUAL,
    Target,
    check_density_and_rank,
    find_targets,
    residual_factors,
)


class Salr:
    """A PEFT model with SALR's masks and residual adapters on it.

    Made again in the same way on the same base it gives the same masks, to the bit; adapters of an
    earlier run are then loaded as PEFT or Trainer load them.

    Attributes:
      model: the PeftModel, changed in place.
      targets: the masked Linears.
      ranks: of the residual adapter by module name, where it is not 0.
      tasks: names of the adapters that were active before: what the fine-tuning is for.
      settings: density, rank and seed.
    """

    def __init__(
        self,
        model: Any,
        *,
        density: float = 0.5,
        rank: int = 64,
        include: Sequence[str] | None = None,
        train_residual: bool = True,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """Masks the base and adds the residual adapter, both active and trainable with the task's.

        Args:
          model: of `peft.get_peft_model`, with plain LoRA adapters; the base in f32, bf16 or f16.
          density: of Ŵ, 0 to 1: round(density·N·K) entries of largest magnitude stay.
          rank: of the residual adapter, at most min(N, K) of each Linear and the rank of its E;
            0 adds none, which is magnitude pruning followed by LoRA.
          include: patterns (fnmatch) of names of modules to mask; None: those that LoRA adapts.
          train_residual: False leaves the residual adapter as its SVD made it.
          seed: of the SVD's random start.
          progress: called as progress(done, total, name of the module).

        Raises:
          RequestError: density or rank out of range, not a LoRA model, or options that can't be
            exported; the model is unchanged.
          ModelError: a module or weight that can't be masked; the model is unchanged.
        """
        require("SALR fine-tuning", "torch", "peft")
        check_density_and_rank(density, rank)
        self.targets = find_targets(model, include)
        self.model = model
        self.tasks = tuple(model.active_adapters)
        self.settings: dict[str, float | int] = {"density": density, "rank": rank, "seed": seed}
        factors: dict[str, tuple[F32, F32]] = {}
        for done, target in enumerate(self.targets, 1):
            B, A = _mask(target, density, rank, seed)
            if len(A):
                factors[target.name] = B, A
            if progress is not None:
                progress(done, len(self.targets), target.name)
        self.ranks = {name: len(A) for name, (_, A) in factors.items()}
        if factors:
            _add_residual(model, self.targets, factors)
        self.activate(train_residual=train_residual)

    @property
    def adapters(self) -> list[str]:
        """Names of all adapters that are active together."""
        return [*self.tasks, *([RESIDUAL] if self.ranks else [])]

    def activate(self, *, train_residual: bool = True) -> None:
        """Makes task and residual adapters active again, after PEFT's `set_adapter` or a reload."""
        self.model.base_model.set_adapter(self.adapters)
        if self.ranks:
            self.model.base_model.set_requires_grad(RESIDUAL, train_residual)

    def parameter_groups(
        self,
        lr: float,
        *,
        residual_lr: float | None = None,
        weight_decay: float = 0.0,
        factors: Mapping[str, float] | None = None,
    ) -> list[dict[str, Any]]:
        """What an optimizer takes: the task's parameters, then the residual's, module by module.

        The paper's step size for the residual is η* = 1/σ_max(X)²: with a least-squares loss
        ½‖X·(R − B·A)ᵀ‖² on inputs X that is one over the Lipschitz constant of the gradient, the
        longest step by which gradient descent is sure to fall. `salr_step.step_sizes` measures it.

        - SGD: `residual_lr`=1 and `factors`=step_sizes(…), so that each module steps by its own η*.
          A loss that is a mean over the rows of X has a gradient as many times smaller: multiply.
        - AdamW: its step has the size lr whatever the gradient's is, and η* as such says nothing.
          What remains of the rule is that an output moves by the step times σ_max(X), so that
          modules with large inputs want small steps: `factors`=relative(step_sizes(…)), which are
          sqrt(η*) over its geometric mean, keeps all modules' outputs moving alike at a mean of
          `residual_lr`.

        Args:
          lr: of the task's adapters and whatever else of the model is trainable.
          residual_lr: of the residual adapter; None: `lr`.
          weight_decay: of the task's group. The residual has none: it would pull B·A away from E.
          factors: on `residual_lr`, by module name; None: 1 for all.

        Returns:
          Groups with "params", "lr" and "weight_decay"; frozen parameters are in none.

        Raises:
          RequestError: `factors` lacks a module.
        """
        by_module = self.residual_parameters()
        residual = {id(p) for parameters in by_module.values() for p in parameters}
        others = [p for p in self.model.parameters() if p.requires_grad and id(p) not in residual]
        groups: list[dict[str, Any]] = [{"params": others, "lr": lr, "weight_decay": weight_decay}]
        wanted = lr if residual_lr is None else residual_lr
        if factors is None:
            every = [p for parameters in by_module.values() for p in parameters]
            groups.append({"params": every, "lr": wanted, "weight_decay": 0.0})
            return [group for group in groups if group["params"]]
        for name, parameters in by_module.items():
            if name not in factors:
                raise RequestError(
                    f"factors has none for {name!r}: measure step sizes on inputs that reach it"
                )
            rate = wanted * factors[name]
            groups.append({"params": parameters, "lr": rate, "weight_decay": 0.0})
        return [group for group in groups if group["params"]]

    def residual_parameters(self) -> dict[str, list[Any]]:
        """A [r, K] and B [N, r] of the residual adapter by module name, where they are trained."""
        found = {}
        for name in self.ranks:
            A, B = residual_factors(self.model, name)
            if A.requires_grad:
                found[name] = [A, B]
        return found

    def save(
        self,
        out: str | Path,
        base: str | Path | Source | None = None,
        *,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> Saved:
        """Writes out/model.slr (Ŵ and the residual) and out/adapter (the task's, as PEFT saves it).

        Args:
          out: a folder, made if missing.
          base: the dense base model, the folder or a loaded Source of it; None: the folder that the
            model was loaded from.
          replace: what an earlier run wrote gives way.
          progress: called as progress(done, total, name of the Linear).

        Raises:
          RequestError: no `base`, or something is at `out` already.
          ModelError: `base` is another model, or lacks a masked module.
        """
        return save(
            self.model, self.targets, self.tasks, self.settings, Path(out), base,
            replace=replace, progress=progress,
        )  # fmt: skip


def _mask(target: Target, density: float, rank: int, seed: int) -> tuple[F32, F32]:
    """Masks one weight in place; B and A of its residual, without components that are zero."""
    from threadpoolctl import threadpool_limits

    W = target.array()
    # One thread: two are 25 times slower on matrices of this size, and the result would depend on
    # how many there are.
    with threadpool_limits(1, user_api="blas"):
        made = salr.decompose_matrix(W.copy(), density=density, rank=rank, seed=seed)
    masked = np.zeros_like(W)
    masked.reshape(-1)[made.index] = made.value
    target.assign(masked)
    # A component with both factors zero has no gradient and would never train; one that is the
    # SVD's rounding is as good as zero.
    noise = np.finfo(np.float32).eps * max(W.shape) * made.singular_values[:1]
    kept = int(np.count_nonzero(made.singular_values > noise))
    return made.B[:, :kept], made.A[:kept]


def _add_residual(
    model: Any, targets: Sequence[Target], factors: Mapping[str, tuple[F32, F32]]
) -> None:
    """Adds the adapter "residual" with these B and A, at scale 1."""
    import torch
    from peft import LoraConfig

    # `^` ties PEFT's patterns, which match ends of names, to the whole name.
    ranks = {f"^{re.escape(name)}": len(A) for name, (_, A) in factors.items()}
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
        target_modules="|".join(re.escape(name) for name in factors),
        lora_dropout=0.0,
        fan_in_fan_out=any(t.transposed for t in targets),
    )
    model.add_adapter(RESIDUAL, config)
    with torch.no_grad():
        for name, (B, A) in factors.items():
            to_A, to_B = residual_factors(model, name)
            to_A.copy_(torch.from_numpy(A))
            to_B.copy_(torch.from_numpy(np.ascontiguousarray(B)))
