"""Block-wise matching: after every matrix was decomposed by itself, blocks are aligned as a whole.

A method that sees one matrix at a time can't let one make up for what another lost, nor for what
earlier blocks already got wrong. So block after block of a transformer is trained, a few hundred
steps, to give on the *compressed* model's input what the dense model's block gives on the dense
one's (the "TM", transformer matching, of 3BASiL-TM):

    min over values of S (on their support), B and A of ‖block(x̂) − dense block(x)‖²

on the texts that calibrated the decomposition, and on splices of them. Nothing is added to what is
stored: positions of S and ranks stay. S that was rounded for i8 or i4 stays on its grid, and only
the adapters move.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.extras import require
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.weights import weight_array
from slc.compiler.linear import Linear
from slc.compiler.progress import Progress
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decomposition import F32, Decomposition, measured
from slc.compiler.structure.ordering import Index, global_order
from slc.compiler.structure.stored_grid import StoredGrid
from slc.compiler.structure.trained import thin_svd
from slc.compiler.structure.transformer_blocks import (
    SEED,
    find_blocks,
    forward,
    is_conv1d,
    load_model,
    own_name,
    text_batches,
)
from slc.compiler.structure.writer import CheckpointWriter

Tensor = Any

RATE = 3e-3  # of Adam, in units of the root mean square of what is trained
_TINY = np.float32(1e-30)  # above every zero, below every weight that counts


def match_blocks(
    source: Source,
    checkpoint: StructuredCheckpoint,
    path: Path,
    text: Path,
    *,
    steps: int,
    replace: bool = False,
    progress: Progress | None = None,
) -> StructuredCheckpoint:
    """Makes the checkpoint `path` of `checkpoint` with its blocks matched.

    Args:
      source: the dense model, of a Hugging Face folder.
      checkpoint: of it.
      path: NAME.slr.
      text: calibration texts, as for `activation_grams`.
      steps: of training, for every block.
      replace: a checkpoint at `path` gives way to the new one once that is whole.
      progress: called as progress(done, total, what), after every step.

    Raises:
      RequestError: the model is not from a folder with safetensors, or there is no text.
      ModelError: transformers can't load it, its blocks are no chain or none holds a Linear of the
        checkpoint, or training is not finite.
    """
    matched = Matcher(source, text).run(checkpoint, steps, progress)
    settings = checkpoint.meta.settings | {"match_blocks": steps, "match_rate": RATE}
    meta = dataclasses.replace(checkpoint.meta, settings=settings)
    with CheckpointWriter(path, meta, source, replace=replace) as writer:
        for name in checkpoint.names:
            linear = checkpoint.entry(name).linear
            W = weight_array(source, linear)
            made = _decomposition(checkpoint, name, W.copy(), matched.get(name))
            stored = np.concatenate([made.value, made.A.reshape(-1), made.B.reshape(-1)])
            writer.write(linear, made, writer.fingerprint(linear, W, stored))
        return writer.finish()


def check_matchable(source: Source, text: Path) -> None:
    """Refuses early what `match_blocks` would refuse.

    Raises:
      RequestError, ModelError: as `match_blocks`.
    """
    Matcher(source, text, limit=1)


def _folder(source: Source, text: Path) -> Path:
    """The model's Hugging Face folder."""
    known = any(linear.sources for linear in source.linears)
    if source.hf_folder is None or not known or text.suffix == ".npz":
        raise RequestError(
            f"--match-blocks: got {source.path.name!r} and {text.name!r}, wanted a Hugging Face "
            "folder with safetensors, and text; leave it out"
        )
    require("--match-blocks", "torch", "transformers")
    return source.hf_folder


@dataclasses.dataclass
class _Part:
    """What is trained of one Linear.

    Attributes:
      linear: its record.
      support: bool [N, K].
      S: f32 [N, K], zero outside the support.
      B, A: f32 [N, r] and [r, K].
      fixed: whether S lies on a grid.
      names: of the torch block's parameters, with the rows of each.
      conv1d: whether those are [K, N].
    """

    linear: Linear
    support: Tensor
    S: Tensor
    B: Tensor
    A: Tensor
    fixed: bool
    names: list[tuple[str, int, int]]
    conv1d: bool

    def weights(self) -> dict[str, Tensor]:
        """S + B·A by parameter; part of the graph of autograd."""
        W = self.S * self.support + self.B @ self.A
        rows = {name: W[start:stop] for name, start, stop in self.names}
        return {name: part.T for name, part in rows.items()} if self.conv1d else rows

    def trained(self) -> list[Tensor]:
        """The tensors that Adam moves."""
        return [self.B, self.A] if self.fixed else [self.S, self.B, self.A]


class Matcher:
    """Holds the torch model and the texts, and goes through the blocks in order."""

    def __init__(self, source: Source, text: Path, *, limit: int | None = None) -> None:
        """Loads both.

        Args:
          source: the dense model.
          text: calibration texts.
          limit: batches to make; None makes all.

        Raises:
          RequestError, ModelError: as `match_blocks`.
        """
        folder = _folder(source, text)
        self._model = load_model(folder)
        self._blocks = find_blocks(self._model)
        batches = text_batches(self._model, self._blocks, folder, text)
        self.batches = list(itertools.islice(batches, limit))
        if not self.batches:
            raise RequestError(f"the texts of {str(text)!r} have no tokens: give other text")

    def run(
        self, checkpoint: StructuredCheckpoint, steps: int, progress: Progress | None = None
    ) -> dict[str, tuple[F32, F32, F32]]:
        """S, B and A of every Linear of `checkpoint` that lies in a block, by name."""
        found: dict[str, tuple[F32, F32, F32]] = {}
        for number, (prefix, block) in enumerate(self._blocks):
            parts = self._parts(checkpoint, prefix, block)
            goals = self._goals(number)
            for step, loss in enumerate(self._train(number, parts, goals, steps), 1):
                if not np.isfinite(loss):
                    raise _not_finite(prefix, f"after {step} steps of")
                if progress is not None:
                    total = steps * len(self._blocks)
                    progress(number * steps + step, total, f"matching {prefix}")
            self._go_on(number, parts, goals)
            for part in parts:
                S, B, A = (t.detach().numpy() for t in (part.S * part.support, part.B, part.A))
                if not all(np.isfinite(x).all() for x in (S, B, A)):
                    raise _not_finite(prefix, "by")
                found[part.linear.name] = S, B, A
        if not found:
            raise ModelError(
                f"no matrix of {checkpoint.path.name!r} is a parameter of a transformer block as "
                "the model's folder has it: leave --match-blocks out"
            )
        return found

    def _goals(self, number: int) -> list[Tensor]:
        """The dense block's outputs."""
        import torch

        block = self._blocks[number][1]
        with torch.no_grad():
            return [forward(block, {}, b.dense, b.calls[number]) for b in self.batches]

    def _go_on(self, number: int, parts: list[_Part], goals: list[Tensor]) -> None:
        """Takes both hidden states of every batch past a block."""
        import torch

        block = self._blocks[number][1]
        with torch.no_grad():
            weights = _weights(parts)
            for batch, goal in zip(self.batches, goals, strict=True):
                batch.ours = forward(block, weights, batch.ours, batch.calls[number])
                batch.dense = goal

    def _train(
        self, number: int, parts: list[_Part], goals: list[Tensor], steps: int
    ) -> Iterator[float]:
        """Steps of Adam; the loss of each, relative to the goal's power."""
        import torch

        groups = [_group(t) for part in parts for t in part.trained() if t.numel()]
        if not groups:
            return
        block = self._blocks[number][1]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        peak = [group["lr"] for group in optimizer.param_groups]
        order = np.random.default_rng(SEED)
        queue: list[int] = []
        for step in range(steps):
            queue = queue or list(order.permutation(len(goals)))
            i = queue.pop()
            for group, rate in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            batch = self.batches[i]
            out = forward(block, _weights(parts), batch.ours, batch.calls[number])
            loss = _loss(out, goals[i], batch.mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield float(loss.detach())

    def _parts(self, checkpoint: StructuredCheckpoint, prefix: str, block: Any) -> list[_Part]:
        """The structured Linears all of whose rows are parameters of one block."""
        import torch

        parts = []
        for name in checkpoint.names:
            linear = checkpoint.entry(name).linear
            places = [(own_name(prefix, rows.parameter), rows) for rows in linear.sources]
            names = [(own, rows.start, rows.stop) for own, rows in places if own is not None]
            if sum(stop - start for _, start, stop in names) != linear.N:
                continue
            S = torch.from_numpy(checkpoint.sparse_matrix(name))
            index, _ = checkpoint.sparse(name)
            support = torch.zeros(linear.numel, dtype=torch.bool)
            support[torch.from_numpy(index.astype(np.int64))] = True
            A, B = (torch.from_numpy(x.copy()) for x in checkpoint.adapter(name))
            fixed = checkpoint.entry(name).value_type is not None
            parts.append(
                _Part(
                    linear, support.reshape(S.shape), S.requires_grad_(not fixed),
                    B.requires_grad_(), A.requires_grad_(), fixed, names,
                    is_conv1d(block, names[0][0]),
                )
            )  # fmt: skip
        return parts


def _not_finite(prefix: str, when: str) -> ModelError:
    return ModelError(
        f"block {prefix!r} is not finite {when} matching: the model overflows on the calibration "
        "text, leave --match-blocks out"
    )


def _weights(parts: list[_Part]) -> dict[str, Tensor]:
    return {name: W for part in parts for name, W in part.weights().items()}


def _loss(out: Tensor, goal: Tensor, mask: Tensor) -> Tensor:
    """Mean square of the difference over that of the goal, where there is a token."""
    return ((out - goal) * mask).square().sum() / (goal * mask).square().sum()


def _group(tensor: Tensor) -> dict[str, Any]:
    """A parameter group whose rate is in units of its non-zero entries' root mean square."""
    values = tensor.detach()
    count = max(1, int((values != 0).sum()))
    size = float(values.norm()) / count**0.5
    return {"params": [tensor], "lr": RATE * (size or 1.0)}


def _decomposition(
    checkpoint: StructuredCheckpoint, name: str, W: F32, matched: tuple[F32, F32, F32] | None
) -> Decomposition:
    """A Linear's new entry; of one that lies in no block, the old. W is overwritten."""
    scale = checkpoint.scale(name)
    old_index, old_value = checkpoint.sparse(name)
    A, B = checkpoint.adapter(name)
    S = np.zeros_like(W)
    S.reshape(-1)[old_index] = old_value
    if matched is not None:
        S, B, A = matched
    grid: StoredGrid | None = checkpoint.grid(name)
    index = old_index if grid is not None else _order(S, scale, old_index)
    wide = A if scale is None else A * scale
    B, A, sigma = thin_svd(B, wide)
    A = A if scale is None else A / scale
    made = measured(
        W, index, S.reshape(-1)[index], B, A, sigma, order=checkpoint.entry(name).order,
        scale=scale,
    )  # fmt: skip
    return dataclasses.replace(made, grid=grid)


def _order(S: F32, scale: F32 | None, index: Index) -> Index:
    """The positions `index`, the most important first."""
    weight = np.abs(S if scale is None else S * scale)
    inside = np.zeros_like(weight)
    flat = inside.reshape(-1)
    flat[index] = np.maximum(weight.reshape(-1)[index], _TINY)
    return global_order(inside, index.size)
