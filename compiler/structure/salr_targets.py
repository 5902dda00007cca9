"""Which Linears of a PEFT model SALR masks, and what it refuses before it changes anything."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.frontends.peft_config import unsupported_option
from slc.compiler.structure.decompose import MAGNITUDE_MAX
from slc.compiler.structure.decomposition import F32

RESIDUAL = "residual"  # the name of the adapter that SALR adds
_LINEAR_TYPES = ("Linear", "Conv1D", "NonDynamicallyQuantizableLinear")
_FLOATS = ("torch.float32", "torch.float16", "torch.bfloat16", "torch.float64")


@dataclasses.dataclass(frozen=True)
class Target:
    """One frozen Linear of the base model.

    Attributes:
      name: of its module in the base model, e.g. "encoder.layer.0.attention.self.query".
      weight: the parameter, [N, K]; [K, N] where `transposed` (GPT-2's Conv1D).
      transposed: see `weight`.
    """

    name: str
    weight: Any
    transposed: bool

    def array(self) -> F32:
        """A copy of W: f32 [N, K], contiguous."""
        W = self.weight.detach().float().cpu().numpy()
        return np.array(W.T if self.transposed else W, order="C")

    def assign(self, W: F32) -> None:
        """Writes f32 [N, K] into the parameter, in place, in its own type."""
        import torch

        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(W.T if self.transposed else W))


def find_targets(model: Any, include: Sequence[str] | None) -> list[Target]:
    """The Linears to mask, in the model's order.

    Args:
      model: a PeftModel with LoRA adapters that are active and not merged.
      include: patterns (fnmatch) of module names, adapted or not; None: all that LoRA adapts.

    Raises:
      RequestError: not such a model, or no Linear is left.
      ModelError: a module or a weight that can't be masked, adapted or exported; names it.
    """
    _check_model(model)
    targets = []
    for name, module in _layers(model):
        base = module.get_base_layer() if _is_adapted(module) else module
        if _is_adapted(module):
            _check_adapted(name, module, base)
        wanted = _is_adapted(module) if include is None else _matches(name, include)
        if wanted and type(base).__name__ in _LINEAR_TYPES:
            targets.append(Target(name, base.weight, type(base).__name__ == "Conv1D"))
    if not targets:
        what = "that LoRA adapts" if include is None else f"that matches {list(include)}"
        raise RequestError(f"the model has no Linear {what}: check target_modules and include")
    _check_weights(model, targets)
    return targets


def residual_factors(model: Any, name: str) -> tuple[Any, Any]:
    """The residual adapter's parameters A [r, K] and B [N, r] on one module, where it has one."""
    module = model.get_base_model().get_submodule(name)
    return module.lora_A[RESIDUAL].weight, module.lora_B[RESIDUAL].weight


def check_density_and_rank(density: float, rank: int) -> None:
    """Refuses what is out of range.

    Raises:
      RequestError: says which.
    """
    if not 0.0 <= density <= 1.0:
        raise RequestError(f"density {density} is out of range: give a number from 0 to 1")
    if rank < 0:
        raise RequestError(f"rank {rank} is negative: give 0 or more")


def _check_model(model: Any) -> None:
    if not hasattr(model, "peft_config") or not hasattr(model, "base_model"):
        raise RequestError(
            f"SALR takes a PEFT model: got a {type(model).__name__}; wrap it with "
            "peft.get_peft_model(model, LoraConfig(…)) first"
        )
    if RESIDUAL in model.peft_config:
        raise RequestError(
            f"the model has an adapter {RESIDUAL!r} already: SALR is prepared once, on a fresh "
            "PEFT model, and its adapters are loaded afterwards"
        )
    for name, config in model.peft_config.items():
        method = getattr(config.peft_type, "value", config.peft_type)
        if method != "LORA":
            raise RequestError(
                f"adapter {name!r} is of type {method}, and SALR takes LORA: use a LoraConfig"
            )
        reason = unsupported_option(config.to_dict())
        if reason:
            raise RequestError(
                f"adapter {name!r} can't be exported after training ({reason}): leave that out of "
                "its LoraConfig"
            )


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, module) of what LoRA adapts and of every other Linear."""
    adapted: list[str] = []
    for name, module in model.get_base_model().named_modules():
        if any(name.startswith(outer) for outer in adapted):
            continue  # the parts of an adapted module
        if _is_adapted(module):
            adapted.append(f"{name}.")
        elif type(module).__name__ not in _LINEAR_TYPES:
            continue
        yield name, module


def _is_adapted(module: Any) -> bool:
    return hasattr(module, "get_base_layer") and hasattr(module, "lora_A")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_adapted(name: str, module: Any, base: Any) -> None:
    if type(base).__name__ not in _LINEAR_TYPES:
        raise ModelError(
            f"LoRA adapts {name!r}, a {type(base).__name__}, and SALR takes Linears: leave it out "
            "of target_modules"
        )
    if module.merged:
        raise ModelError(
            f"the adapters are merged into {name!r}, so that its weight is no longer the base's: "
            "call unmerge_adapter() first"
        )


def _check_weights(model: Any, targets: list[Target]) -> None:
    names: dict[int, list[str]] = {}
    for name, parameter in model.get_base_model().named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for target in targets:
        weight = target.weight
        if str(weight.dtype) not in _FLOATS or weight.is_meta:
            raise ModelError(
                f"the weight of {target.name!r} is {weight.dtype} on {weight.device}, and SALR "
                "masks floating-point weights that are loaded: load the base model unquantized"
            )
        shared = [n.replace(".base_layer", "") for n in names[id(weight)]]
        if len(shared) > 1:
            raise ModelError(
                f"{' and '.join(sorted(shared))} are one weight, and masking {target.name!r} would "
                "prune the other too: leave it out of target_modules and include, or untie them"
            )
        if weight.requires_grad:
            raise ModelError(
                f"the weight of {target.name!r} is trainable, and SALR's mask holds only on a "
                "frozen base: set requires_grad to False"
            )
        if not bool((weight.detach().abs() <= MAGNITUDE_MAX).all()):  # false for NaN
            raise ModelError(
                f"the weight of {target.name!r} holds NaN, infinity or a number above "
                f"{MAGNITUDE_MAX:g}, where finite weights are wanted: repair or retrain the model"
            )
