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
import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.extras import require
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.weights import weight_array
from slc.compiler.linear import Linear
from slc.compiler.progress import Progress
from slc.compiler.structure.calibration import LIMIT_TOKENS, TOKENS_PER_TEXT
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decomposition import F32, Decomposition, measured
from slc.compiler.structure.ordering import Index, global_order
from slc.compiler.structure.stored_grid import StoredGrid
from slc.compiler.structure.texts import read_texts
from slc.compiler.structure.trained import thin_svd
from slc.compiler.structure.writer import CheckpointWriter

Tensor = Any
Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional after the hidden states, keywords

RATE = 3e-3  # of Adam, in units of the root mean square of what is trained
BATCH = 16  # texts of a step
# Texts made of two others, for every one that is given. all-MiniLM-L6-v2, 2500 tokens, density 0.5,
# rank 32, 300 steps: cosine 0.9872 becomes 0.9898 with 5 and 0.9907 with 15.
SPLICED = 15
TOKENS = 3 * LIMIT_TOKENS  # of both
SEED = 0
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


@dataclasses.dataclass
class _Batch:
    """Some texts on their way through the model: the dense one's hidden states, and ours.

    Attributes:
      dense, ours: f32 [texts, tokens, width].
      calls: what each block is called with beside the hidden states, in order.
      mask: f32 [texts, tokens, 1], 1 where there is a token.
    """

    dense: Tensor
    ours: Tensor
    calls: list[Call]
    mask: Tensor


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
        self._model = _load(folder)
        self._blocks = _blocks(self._model)
        batches = _batches(self._model, self._blocks, folder, text)
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
            return [_forward(block, {}, b.dense, b.calls[number]) for b in self.batches]

    def _go_on(self, number: int, parts: list[_Part], goals: list[Tensor]) -> None:
        """Takes both hidden states of every batch past a block."""
        import torch

        block = self._blocks[number][1]
        with torch.no_grad():
            weights = _weights(parts)
            for batch, goal in zip(self.batches, goals, strict=True):
                batch.ours = _forward(block, weights, batch.ours, batch.calls[number])
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
            out = _forward(block, _weights(parts), batch.ours, batch.calls[number])
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
            places = [(_own_name(prefix, rows.parameter), rows) for rows in linear.sources]
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
                    _is_conv1d(block, names[0][0]),
                )
            )  # fmt: skip
        return parts


def _not_finite(prefix: str, when: str) -> ModelError:
    return ModelError(
        f"block {prefix!r} is not finite {when} matching: the model overflows on the calibration "
        "text, leave --match-blocks out"
    )


def _own_name(prefix: str, parameter: str) -> str | None:
    """The parameter's name inside the block `prefix`; None where it lies elsewhere.

    A folder may have been saved with a prefix that the bare model lacks.
    """
    place = f".{parameter}".find(f".{prefix}.")
    return None if place < 0 else parameter[place + len(prefix) + 1 :]


def _is_conv1d(block: Any, parameter: str) -> bool:
    """Whether the parameter is kept as [K, N], as GPT-2 does."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(block.get_submodule(parameter.rpartition(".")[0]), Conv1D)


def _load(folder: Path) -> Any:
    """The dense model in f32, without its head."""
    import torch
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"transformers can't load {str(folder)!r} ({error}): leave --match-blocks out"
        ) from error
    # An encoder-decoder is exported as its encoder.
    model = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
    model.config.use_cache = False  # a cache would grow with every call of a block
    return model.eval().requires_grad_(False)


def _blocks(model: Any) -> list[tuple[str, Any]]:
    """The transformer blocks: the children of the longest ModuleList, with their names.

    Raises:
      ModelError: there is no ModuleList.
    """
    from torch import nn

    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ModelError("the model has no list of blocks to match: leave --match-blocks out")
    name, longest = max(lists, key=lambda pair: len(pair[1]))
    return [(f"{name}.{i}", block) for i, block in enumerate(longest)]


def _batches(
    model: Any, blocks: list[tuple[str, Any]], folder: Path, text: Path
) -> Iterator[_Batch]:
    """The dense model's way to each of its blocks, batch by batch."""
    import torch
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the tokenizer in {str(folder)!r} can't be loaded ({error}): add its files, or leave "
            "--match-blocks out"
        ) from error
    positions = getattr(model.config, "max_position_embeddings", None) or TOKENS_PER_TEXT
    longest = int(min(TOKENS_PER_TEXT, tokenizer.model_max_length, positions))
    given = read_texts(text)
    tokens = [tokenizer(one, truncation=True, max_length=longest)["input_ids"] for one in given]
    for rows in _of_like_length(_spliced([ids for ids in tokens if ids], SPLICED, longest)):
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        attention = torch.tensor([[int(j < len(row)) for j in range(ids.shape[1])] for row in rows])
        hidden, calls = _watched(model, blocks, {"input_ids": ids, "attention_mask": attention})
        yield _Batch(hidden, hidden, calls, attention[:, :, None].to(torch.float32))


def _spliced(texts: Sequence[list[int]], times: int, longest: int) -> list[list[int]]:
    """The texts, and `times` as many that begin as one of them does and end as another.

    A few thousand tokens are few for a block's parameters. Any input is one that the dense block
    can teach, so new contexts of known tokens are as good as new text; the special tokens at both
    ends stay where they are.
    """
    order = np.random.default_rng(SEED)
    made = []
    for _ in range(times * len(texts)):
        first, second = (texts[i] for i in order.integers(len(texts), size=2))
        head = first[: order.integers(1, len(first) + 1)]
        tail = second[order.integers(len(second)) :]
        made.append(head[: max(1, longest - len(tail))] + tail)
    return [*texts, *made]


def _of_like_length(texts: Iterable[list[int]]) -> list[list[list[int]]]:
    """Batches of texts with nearly as many tokens, so that little is padding."""
    kept: list[list[int]] = []
    total = 0
    for ids in texts:
        kept.append(ids)
        total += len(ids)
        if total >= TOKENS:
            break
    kept.sort(key=len)
    return [kept[i : i + BATCH] for i in range(0, len(kept), BATCH)]


def _watched(
    model: Any, blocks: list[tuple[str, Any]], inputs: dict[str, Any]
) -> tuple[Tensor, list[Call]]:
    """The first block's hidden states, and what every block is called with beside them.

    Raises:
      ModelError: the blocks are no chain, each called once with what the last one gave.
    """
    import torch

    seen: list[tuple[int, Tensor, Call]] = []

    def watch(number: int, module: Any, positional: tuple[Any, ...], keywords: Any) -> None:
        rest = dict(keywords)
        first = next(iter(inspect.signature(module.forward).parameters))
        hidden = positional[0] if positional else rest.pop(first)
        seen.append((number, hidden, (positional[1:], rest)))

    handles = [
        block.register_forward_pre_hook(partial(watch, number), with_kwargs=True)
        for number, (_, block) in enumerate(blocks)
    ]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    calls = [call for _, _, call in seen]
    if [number for number, _, _ in seen] != list(range(len(blocks))) or not _is_chain(blocks, seen):
        raise ModelError(
            f"the blocks {blocks[0][0]!r} … {blocks[-1][0]!r} are not called once each, with what "
            "the one before gave: leave --match-blocks out"
        )
    return seen[0][1], calls


def _is_chain(blocks: list[tuple[str, Any]], seen: list[tuple[int, Tensor, Call]]) -> bool:
    """Whether every block, called again, gives what the next one was called with."""
    import torch

    with torch.no_grad():
        for (number, hidden, call), (_, wanted, _) in itertools.pairwise(seen):
            out = _forward(blocks[number][1], {}, hidden, call)
            if out.shape != wanted.shape or not torch.allclose(out, wanted, rtol=1e-3, atol=1e-4):
                return False
    return True


def _forward(block: Any, weights: dict[str, Tensor], hidden: Tensor, call: Call) -> Tensor:
    """The block's output with some of its weights replaced."""
    import torch

    positional, keywords = call
    out = torch.func.functional_call(block, weights, (hidden, *positional), keywords)
    return out[0] if isinstance(out, tuple) else out


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
