"""SALR's step size for the residual adapter, η* = 1/σ_max(X)², measured on batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from slc.compiler.errors import RequestError

# Power iteration from below: σ² is at most a few percent too small after these, so that a step of
# 1/σ² stays below 2/σ², where gradient descent begins to diverge. Activations have one direction,
# their mean, that stands out; on those it has settled to 1e-4 after five.
_ITERATIONS = 20


def step_sizes(
    model: Any, names: Iterable[str], batches: Iterable[Any], forward: Callable[[Any], Any]
) -> dict[str, float]:
    """η* of each module: one over the largest σ_max(X)² of any batch.

    Args:
      model: a PeftModel.
      names: of modules in the base model (`Salr.ranks`).
      batches: as `forward` takes them; X is what a module reads in one call, [rows, K].
      forward: runs the model on a batch, e.g. lambda batch: model(**batch).

    Returns:
      By module name; a module that only zeros reached has none.

    Raises:
      RequestError: no batch reached a module.
    """
    import torch

    largest: dict[str, float] = {}

    def watch(name: str) -> Callable[[Any, Any], None]:
        def hook(module: Any, args: Any) -> None:
            found = largest_square(args[0].detach())
            largest[name] = max(found, largest.get(name, 0.0))

        return hook

    base = model.get_base_model()
    handles = [base.get_submodule(n).register_forward_pre_hook(watch(n)) for n in names]
    try:
        with torch.no_grad():
            for batch in batches:
                forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    if len(largest) < len(handles):
        raise RequestError(
            f"the batches reached {len(largest)} of {len(handles)} modules: give inputs of the "
            "fine-tuning"
        )
    return {name: 1.0 / square for name, square in largest.items() if square > 0}


def largest_square(x: Any) -> float:
    """σ_max(X)² of a tensor [..., K] as rows [M, K], by power iteration in f32."""
    import torch

    X = x.reshape(-1, x.shape[-1]).float()
    v = torch.ones(X.shape[1], device=X.device) / math.sqrt(X.shape[1])
    # The rows' own direction may be orthogonal to the ones: start with a bit of the largest row.
    v = v + X[X.square().sum(1).argmax()]
    square = 0.0
    for _ in range(_ITERATIONS):
        norm = float(v.norm())
        if norm == 0:
            break
        v = X.T @ (X @ (v / norm))
        square = float(v.norm())
    return square


def relative(sizes: Mapping[str, float]) -> dict[str, float]:
    """sqrt(η*) over its geometric mean: how much longer than the average an AdamW step may be."""
    mean = sum(math.log(size) for size in sizes.values()) / max(1, len(sizes))
    return {name: math.exp((math.log(size) - mean) / 2) for name, size in sizes.items()}
