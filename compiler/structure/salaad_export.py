"""From a trained `Salaad` to a structured checkpoint."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from slc.compiler.frontends import load
from slc.compiler.frontends.source import Source
from slc.compiler.progress import Progress
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.salaad import Salaad
from slc.compiler.structure.trained import TrainedPart, write_trained


def trained_parts(salaad: Salaad) -> dict[str, TrainedPart]:
    """S and L of every parameter, by its name; stacked siblings share one A."""
    parts = {}
    for block in salaad.blocks:
        B, A, S = (tensor.cpu().numpy() for tensor in block.factors())
        for weight, start, stop in block.rows():
            parts[weight.name] = TrainedPart(S[start:stop], np.ascontiguousarray(B[start:stop]), A)
    return parts


def write_salaad(
    salaad: Salaad,
    model: Path | Source,
    path: Path,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> StructuredCheckpoint:
    """Makes the structured checkpoint `path` of a model trained with SALAAD.

    Args:
      salaad: after training.
      model: the Hugging Face folder that the trained model (X) was saved to, or a loaded Source
        of it, such as one made by `load_torch`.
      path: NAME.slr.
      replace: a checkpoint at `path` gives way to the new one once that is whole.
      progress: called as progress(done, total, what).

    Raises:
      ModelError: the folder is not that model, or a split weight is in no Linear of its graph.
      RequestError: `path` exists or another process writes it.
    """
    parts, settings = trained_parts(salaad), salaad.settings | {"steps": salaad.steps}
    with tempfile.TemporaryDirectory(prefix="slc-salaad-") as work:
        source = model if isinstance(model, Source) else load(Path(model), workdir=Path(work))
        return write_trained(
            source, path, parts, method="salaad", settings=settings, replace=replace,
            progress=progress,
        )  # fmt: skip
