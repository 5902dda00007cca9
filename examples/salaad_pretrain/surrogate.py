"""L + S, whole or at a slice, in torch: what an artifact has to reproduce."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from slc.compiler.structure.checkpoint import StructuredCheckpoint


def choices_of(artifact: Path) -> dict[str, dict[str, Any]]:
    """The Choice of every Linear, by its name, from an artifact's manifest."""
    rows = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["linears"]
    return {row["name"]: row["choice"] for row in rows}


def put_slice(
    model: Any, checkpoint: StructuredCheckpoint, choices: dict[str, dict[str, Any]]
) -> None:
    """Overwrites a model's weights by what the checkpoint holds at the nnz and rank chosen.

    Args:
      model: of torch, with the checkpoint's shapes; an embedding, which the checkpoint keeps as a
        table, is left as it is.
      checkpoint: to slice.
      choices: of every Linear, as `choices_of` gives them.
    """
    import torch

    parameters = dict(model.named_parameters())
    sources = {linear.name: linear.sources for linear in checkpoint.linears}
    for name in checkpoint.names:
        choice = choices[name]
        whole = choice["encoding"] == "dense"  # a slice would be no smaller
        W = checkpoint.dense(name, *((None, None) if whole else (choice["nnz"], choice["rank"])))
        for rows in sources[name]:
            values = np.ascontiguousarray(W[rows.start : rows.stop])
            parameters[rows.parameter].detach().copy_(torch.from_numpy(values))
