"""What SALAAD splits: which weights of a torch model, alone or stacked, and of which kind."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from slc.compiler.errors import RequestError
from slc.compiler.linear import Refusal

BlockKind = Literal["linear", "embedding", "lm_head"]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter, [N, K], found in a module.

    Attributes:
      name: as in the model's state_dict.
      parameter: the torch parameter.
      kind: an embedding that is also the lm_head counts once, as an embedding.
    """

    name: str
    parameter: Any
    kind: BlockKind


def find_weights(
    model: Any, include: Sequence[str] | None, exclude: Sequence[str]
) -> tuple[list[Weight], list[Refusal]]:
    """Linear and Embedding weights of a model, each once however often it is used.

    Args:
      model: an `nn.Module`.
      include: patterns (fnmatch) of parameter names; None takes all.
      exclude: patterns of names to leave out.

    Returns:
      The weights in the model's order, and a Refusal for each that can't be split.

    Raises:
      RequestError: a pattern of `include` matches nothing, or only what can't be split.
    """
    weights: dict[int, Weight] = {}
    refusals = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        parameter, full = module.weight, f"{name}.weight" if name else "weight"
        if id(parameter) in weights or not _wanted(full, include, exclude):
            continue
        reason = _reason_against(parameter)
        if reason is not None:
            refusals.append(Refusal(full, reason))
            continue
        weights[id(parameter)] = Weight(full, parameter, _kind(model, module))
    _check_patterns(include, list(weights.values()), refusals)
    return list(weights.values()), refusals


def stack(weights: Sequence[Weight], groups: Sequence[Sequence[str]]) -> list[list[Weight]]:
    """Joins siblings that are one matrix where they are deployed.

    Args:
      weights: in order.
      groups: names of modules that are stacked, row block on row block, when they are siblings:
        ("q_proj", "k_proj", "v_proj").

    Returns:
      Weights by block, in the order of each block's first.
    """
    blocks: dict[tuple[str, ...], list[Weight]] = {}
    for weight in weights:
        parent, _, own = weight.name.removesuffix(".weight").rpartition(".")
        group = next((tuple(g) for g in groups if own in g), (own,))
        blocks.setdefault((parent, *group), []).append(weight)
    for block in blocks.values():
        if len({(w.parameter.shape[1], w.kind) for w in block}) > 1:
            names = ", ".join(w.name for w in block)
            raise RequestError(f"{names} can't be stacked: their inputs have different sizes")
    return list(blocks.values())


def _wanted(name: str, include: Sequence[str] | None, exclude: Sequence[str]) -> bool:
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude):
        return False
    return include is None or any(fnmatch.fnmatchcase(name, pattern) for pattern in include)


def _reason_against(parameter: Any) -> str | None:
    if parameter is None or parameter.ndim != 2:
        return "is no matrix"
    if not parameter.is_floating_point():
        return f"is of type {parameter.dtype}; floating point is wanted"
    if not parameter.requires_grad:
        return "is frozen: training does not move it"
    if min(parameter.shape) < 2:
        return "has a single row or column: a low-rank part would be all of it"
    return None


def _kind(model: Any, module: Any) -> BlockKind:
    if isinstance(module, nn.Embedding):
        return "embedding"
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return "lm_head" if head is module else "linear"


def _check_patterns(
    include: Sequence[str] | None, weights: list[Weight], refusals: list[Refusal]
) -> None:
    for pattern in include or ():
        if any(fnmatch.fnmatchcase(weight.name, pattern) for weight in weights):
            continue
        for refusal in refusals:
            if fnmatch.fnmatchcase(refusal.name, pattern):
                raise RequestError(f"{refusal.name} can't be split: it {refusal.reason}")
        raise RequestError(
            f"include pattern {pattern!r} matches no Linear or Embedding weight of the model: "
            "give names as in its state_dict, with * for what varies"
        )
