"""One training run, dense or with SALAAD, that goes on where it was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.salaad_pretrain.corpus import Corpus, Ids
from examples.salaad_pretrain.model import Shape, make_model

CURVE_SEQUENCES = 64  # held-out sequences of the curve; the final figure takes all that are asked


@dataclasses.dataclass(frozen=True)
class Run:
    """What decides a run's every number.

    Attributes:
      steps: optimizer steps.
      batch: sequences a step.
      rate: peak learning rate; a linear warm-up leads to it and a cosine to zero from it.
      warmup: steps of the warm-up.
      decay: AdamW's weight decay, of matrices.
      clip: norm that the gradient of the loss is clipped to.
      seed: of weights and of the order of the sequences.
      autocast: whether matrices are multiplied in bfloat16: twice as fast where the processor
        has instructions for it (AVX512-BF16, AMX), 20 times as slow where it has not.
    """

    steps: int
    batch: int = 8
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    autocast: bool = False

    def rate_at(self, step: int) -> float:
        """The learning rate of one step."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * 0.5 * (1 + math.cos(math.pi * done))


def train(
    run: Run,
    shape: Shape,
    corpus: Corpus,
    folder: Path,
    *,
    salaad: Callable[[Any], Any] | None = None,
    save_every: int = 200,
    stop_at: int | None = None,
) -> tuple[Any, Any]:
    """Trains, or goes on with what `folder` holds.

    Args:
      run: the settings.
      shape: of the model.
      corpus: the text.
      folder: for log.jsonl and state.pt; is made.
      salaad: makes a `Salaad` of the model; None trains dense.
      save_every: steps between saved states.
      stop_at: end after this step as if killed; None runs to the end.

    Returns:
      (model, its Salaad or None).
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(shape, run.seed)
    optimizer = make_optimizer(model, run)
    structure = salaad(model) if salaad else None
    first, state = 0, folder / "state.pt"
    if state.exists():
        saved = torch.load(state, weights_only=False)
        _check_same(state, saved, run, shape)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        if structure is not None:
            structure.load_state_dict(saved["salaad"])
        first = saved["step"]
        _truncate(folder / "log.jsonl", first)
    log = Log(folder / "log.jsonl")
    model.train()
    for step in range(first, run.steps):
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = run.rate_at(step)
        loss = train_step(model, optimizer, structure, run, corpus.batch(step, run.batch, run.seed))
        seconds = time.perf_counter() - started
        log.step(step, loss, seconds, structure)
        last = step + 1 == run.steps
        if (step + 1) % max(1, run.steps // 20) == 0 or last:
            log.held_out(step, model, structure, corpus.held_out[:CURVE_SEQUENCES])
        if (step + 1) % save_every == 0 or last or step + 1 == stop_at:
            _save(state, run, shape, model, optimizer, structure, step + 1)
        if step + 1 == stop_at:
            break
    return model, structure


def _check_same(state: Path, saved: dict[str, Any], run: Run, shape: Shape) -> None:
    for name, got in (("run", run), ("shape", shape)):
        if saved.get(name, dataclasses.asdict(got)) != dataclasses.asdict(got):
            raise SystemExit(
                f"{state} is of another {name}, {saved[name]}: got {dataclasses.asdict(got)}; give "
                "another folder, or that run's options"
            )


def make_optimizer(model: Any, run: Run) -> Any:
    """AdamW, with weight decay for matrices only."""
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": run.decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=run.rate, betas=(0.9, 0.95))


def train_step(model: Any, optimizer: Any, structure: Any, run: Run, batch: Ids) -> float:
    """One step on i64 [sequences, LENGTH]; the loss."""
    import torch

    ids = torch.from_numpy(batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=run.autocast):
        loss = model(input_ids=ids, labels=ids).loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip)
    if structure is not None:
        structure.add_gradient()
    optimizer.step()
    if structure is not None:
        structure.step()
    return float(loss.item())


def perplexity(model: Any, sequences: Ids) -> float:
    """The exp of the mean negative log-likelihood; a sequence's first token has none. In f32."""
    import torch

    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(sequences), 16):
            ids = torch.from_numpy(sequences[start : start + 16])
            total += float(model(input_ids=ids, labels=ids).loss) * len(ids)
    model.train(was_training)
    return math.exp(total / len(sequences))


class Log:
    """log.jsonl: one row for every step and every evaluation."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def step(self, step: int, loss: float, seconds: float, structure: Any) -> None:
        """One step, with the structure's figures after a pass."""
        row: dict[str, Any] = {"step": step + 1, "loss": loss, "seconds": seconds}
        if structure is not None and structure.updated:
            row["structure"] = structure.summary()
        self._write(row)

    def held_out(self, step: int, model: Any, structure: Any, sequences: Ids) -> None:
        """Perplexity of X and, with SALAAD, of L + S."""
        row: dict[str, Any] = {"step": step + 1, "held_out": perplexity(model, sequences)}
        if structure is not None:
            with structure.surrogate():
                row["surrogate"] = perplexity(model, sequences)
        self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _truncate(path: Path, step: int) -> None:
    """Drops what a run wrote after the state that it is gone on with from."""
    if path.exists():
        rows = [row for row in read_log(path) if row["step"] <= step]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _save(
    path: Path, run: Run, shape: Shape, model: Any, optimizer: Any, structure: Any, step: int
) -> None:
    """Writes the state whole or not at all."""
    import torch

    state = {
        "run": dataclasses.asdict(run), "shape": dataclasses.asdict(shape), "step": step,
        "model": model.state_dict(), "optimizer": optimizer.state_dict(),
    }  # fmt: skip
    if structure is not None:
        state["salaad"] = structure.state_dict()
    unfinished = path.with_suffix(".writing")
    with contextlib.suppress(FileNotFoundError):
        unfinished.unlink()
    torch.save(state, unfinished)
    os.replace(unfinished, path)
