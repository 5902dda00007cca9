"""One training run, many sizes: artifacts at falling budgets, and what each of them loses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.salaad_pretrain.corpus import Ids
from examples.salaad_pretrain.onnx_perplexity import perplexity as onnx_perplexity
from examples.salaad_pretrain.surrogate import choices_of, put_slice
from examples.salaad_pretrain.train import perplexity
from slc.compiler import export, plan
from slc.compiler.structure.checkpoint import StructuredCheckpoint

CONTEXT = 512  # tokens the session must hold


@dataclasses.dataclass(frozen=True)
class Slice:
    """One budget.

    Attributes:
      gamma: part of what is removed that L gives.
      budget_bytes: as given to --mem.
      weight_bytes: of the artifact's data file.
      parameters: nnz of every S and rank·(N + K) of every L, summed.
      torch: perplexity of the slice's L + S in torch, f32.
      onnxruntime: of the artifact.
    """

    gamma: float
    budget_bytes: int
    weight_bytes: int
    parameters: int
    torch: float
    onnxruntime: float


def budgets(checkpoint: Path, count: int) -> list[int]:
    """Budgets in bytes, falling evenly from the whole checkpoint's to half of its L and S."""
    whole, _ = plan(checkpoint, context=CONTEXT, logits="all")
    structured = sum(choice.weight_bytes for choice in whole.choices if choice.rank)
    step = structured / 2 / (count - 1)
    return [round(whole.memory.total_bytes - i * step) for i in range(count)]


def spectrum(
    checkpoint: Path, model: Any, held_out: Ids, out: Path, *, count: int, gamma: float
) -> list[Slice]:
    """Exports at every budget and measures; artifacts go to `out`.

    Args:
      checkpoint: .slr of the run.
      model: of torch, with L + S as its weights; its Linears are overwritten.
      held_out: i64 [sequences, tokens].
      out: gets mem-00 (the largest) and so on.
      count: of budgets.
      gamma: part of what is removed that L gives.
    """
    stored = StructuredCheckpoint(checkpoint)
    slices = []
    for i, budget in enumerate(budgets(checkpoint, count)):
        folder = out / f"mem-{i:02d}"
        export(
            checkpoint, folder, mem=budget, gamma=gamma, values="f16", context=CONTEXT, force=True,
            logits="all",
        )  # fmt: skip
        choices = choices_of(folder)
        put_slice(model, stored, choices)
        found = Slice(
            gamma, budget, weight_bytes(folder), _parameters(stored, choices),
            perplexity(model, held_out), onnx_perplexity(folder, held_out),
        )  # fmt: skip
        print(
            f"  {budget:,} bytes: weights {found.weight_bytes:,}, perplexity {found.torch:.2f} in "
            f"torch, {found.onnxruntime:.2f} in onnxruntime",
            flush=True,
        )
        slices.append(found)
    return slices


def weight_bytes(artifact: Path) -> int:
    """Of the files that hold an artifact's weights."""
    return sum(path.stat().st_size for path in artifact.glob("*.data"))


def write(slices: Sequence[Slice], path: Path) -> None:
    """As JSON."""
    rows = [dataclasses.asdict(found) for found in slices]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _parameters(stored: StructuredCheckpoint, choices: dict[str, dict[str, Any]]) -> int:
    total = 0
    for name in stored.names:
        entry, choice = stored.entry(name), choices[name]  # of a dense one nnz is N·K, rank 0
        total += choice["nnz"] + choice["rank"] * (entry.N + entry.K)
    return total
