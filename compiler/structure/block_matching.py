"""Block-wise matching: after every matrix was decomposed by itself, blocks are aligned as a whole.

A method that sees one matrix at a time can't let one make up for what another lost, nor for what
earlier blocks already got wrong. So block after block of a transformer is trained, a few hundred
steps, to give on the *compressed* model's input what the dense model's block gives on the dense
one's (the "TM", transformer matching, of 3BASiL-TM):

    min over values of S (on their support), B and A of ‖block(x̂) − dense block(x)‖²

with the texts that calibrated the decomposition. Nothing is added to what is stored: positions of
S and ranks stay. S that was rounded for i8 or i4 stays on its grid, and only the adapters move.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
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

RATE = 3e-3  # of Adam, in units of the root mean square of what is trained
BATCH = 16  # texts of a step
SPLICED = 5  # texts made of two others, for every one that is given
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
      RequestError: the model is not from a folder that transformers can load.
      ModelError: its blocks can't be told apart.
    """
    matched = Matcher(source, checkpoint, text).run(steps, progress)
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


def check_matchable(source: Source, text: Path) -> Path:
    """The model's Hugging Face folder.

    Raises:
      RequestError: there is none, or no text, or transformers is not installed.
    """
    if source.hf_folder is None or text.suffix == ".npz":
        raise RequestError(
            f"--match-blocks: got {source.path.name!r} and {text.name!r}, wanted a Hugging Face "
            "folder and text; leave it out"
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
      names: of the torch model's parameters, with the rows of each.
    """

    linear: Linear
    support: Tensor
    S: Tensor
    B: Tensor
    A: Tensor
    fixed: bool
    names: list[tuple[str, int, int]]

    def weights(self) -> dict[str, Tensor]:
        """S + B·A by parameter; part of the graph of autograd."""
        W = self.S * self.support + self.B @ self.A
        return {name: W[start:stop] for name, start, stop in self.names}

    def trained(self) -> list[Tensor]:
        """The tensors that Adam moves."""
        return [self.B, self.A] if self.fixed else [self.S, self.B, self.A]


@dataclasses.dataclass
class _Batch:
    """Some texts on their way through the model: the dense one's hidden states, and ours."""

    dense: Tensor
    ours: Tensor
    arguments: dict[str, Any]
    mask: Tensor  # f32 [texts, tokens, 1]: 1 where there is a token


class Matcher:
    """Holds the torch model and the texts, and goes through the blocks in order."""

    def __init__(self, source: Source, checkpoint: StructuredCheckpoint, text: Path) -> None:
        """Loads both.

        Raises:
          RequestError, ModelError: as `match_blocks`.
        """
        folder = check_matchable(source, text)
        self._model = _load(source)
        self._checkpoint = checkpoint
        self._blocks = _blocks(self._model)
        self._batches = list(self._first_batches(folder, text))

    def run(self, steps: int, progress: Progress | None) -> dict[str, tuple[F32, F32, F32]]:
        """S, B and A of every Linear that lies in a block, by name."""
        import torch

        found: dict[str, tuple[F32, F32, F32]] = {}
        total = steps * len(self._blocks)
        for number, (prefix, block) in enumerate(self._blocks):
            parts = self._parts(prefix)
            goals = []
            with torch.no_grad():
                for batch in self._batches:
                    goals.append(_forward(block, {}, batch.dense, batch.arguments))
            for step, loss in enumerate(self._train(block, parts, goals, steps), 1):
                if not np.isfinite(loss):
                    raise ModelError(
                        f"block {prefix!r} is not finite after {step} steps of matching: the "
                        "model overflows on the calibration text, leave --match-blocks out"
                    )
                if progress is not None:
                    progress(number * steps + step, total, f"matching {prefix}")
            with torch.no_grad():
                weights = _weights(parts)
                for batch, goal in zip(self._batches, goals, strict=True):
                    batch.ours = _forward(block, weights, batch.ours, batch.arguments)
                    batch.dense = goal
            for part in parts:
                S, B, A = (t.detach().numpy() for t in (part.S * part.support, part.B, part.A))
                found[part.linear.name] = S, B, A
        return found

    def _train(
        self, block: Any, parts: list[_Part], goals: list[Tensor], steps: int
    ) -> Iterator[float]:
        """Steps of Adam; the loss of each, relative to the goal's power."""
        import torch

        groups = [_group(t) for part in parts for t in part.trained() if t.numel()]
        if not groups:
            return
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        peak = [group["lr"] for group in optimizer.param_groups]
        order = np.random.default_rng(SEED)
        queue: list[int] = []
        for step in range(steps):
            queue = queue or list(order.permutation(len(goals)))
            i = queue.pop()
            for group, rate in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            batch = self._batches[i]
            out = _forward(block, _weights(parts), batch.ours, batch.arguments)
            loss = _loss(out, goals[i], batch.mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield float(loss.detach())

    def _parts(self, prefix: str) -> list[_Part]:
        """The structured Linears all of whose rows are parameters of one block."""
        import torch

        parts = []
        for name in self._checkpoint.names:
            linear = self._checkpoint.entry(name).linear
            names = [self._own_name(prefix, rows.parameter) for rows in linear.sources]
            if not names or None in names:
                continue
            S = torch.from_numpy(self._checkpoint.sparse_matrix(name))
            index, _ = self._checkpoint.sparse(name)
            support = torch.zeros(linear.numel, dtype=torch.bool)
            support[torch.from_numpy(index.astype(np.int64))] = True
            A, B = (torch.from_numpy(x.copy()) for x in self._checkpoint.adapter(name))
            fixed = self._checkpoint.entry(name).value_type is not None
            parts.append(
                _Part(
                    linear, support.reshape(S.shape), S.requires_grad_(not fixed),
                    B.requires_grad_(), A.requires_grad_(), fixed,
                    [(str(n), s.start, s.stop) for n, s in zip(names, linear.sources, strict=True)],
                )
            )  # fmt: skip
        return parts

    def _own_name(self, prefix: str, parameter: str) -> str | None:
        """The parameter's name inside the block `prefix`; None where it lies elsewhere.

        An encoder may have been saved with a prefix that the bare model lacks.
        """
        place = f".{parameter}".find(f".{prefix}.")
        return None if place < 0 else parameter[place + len(prefix) + 1 :]

    def _first_batches(self, folder: Path, text: Path) -> Iterator[_Batch]:
        """Runs the dense model up to its first block."""
        import torch
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        longest = min(TOKENS_PER_TEXT, tokenizer.model_max_length, _positions(self._model))
        texts = _spliced(read_texts(text), SPLICED)
        for some in _of_like_length(texts, tokenizer, longest):
            padded = tokenizer(
                some, truncation=True, max_length=longest, padding=True, return_tensors="pt"
            )
            hidden, arguments = _caught(self._model, self._blocks[0][1], dict(padded))
            mask = padded["attention_mask"][:, :, None].to(torch.float32)
            yield _Batch(hidden, hidden, arguments, mask)


def _load(source: Source) -> Any:
    """The dense model in f32 without dropout."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    kind = AutoModelForCausalLM if source.kind == "decoder" else AutoModel
    model = kind.from_pretrained(source.hf_folder, local_files_only=True, dtype=torch.float32)
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


def _positions(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or TOKENS_PER_TEXT)


def _spliced(texts: Sequence[str], times: int) -> list[str]:
    """The texts, and `times` as many that begin like one of them and go on like another."""
    order = np.random.default_rng(SEED)
    words = [text.split() for text in texts]
    made = []
    for _ in range(times * len(texts)):
        first, second = (words[i] for i in order.integers(len(words), size=2))
        head = first[: order.integers(1, len(first) + 1)]
        made.append(" ".join(head + second[order.integers(len(second)) :]))
    return [*texts, *made]


def _of_like_length(texts: Sequence[str], tokenizer: Any, longest: int) -> list[list[str]]:
    """Batches of texts with nearly as many tokens, so that little is padding."""
    counted: list[tuple[int, str]] = []
    total = 0
    for text in texts:
        count = min(longest, len(tokenizer(text)["input_ids"]))
        counted.append((count, text))
        total += count
        if total >= LIMIT_TOKENS:
            break
    counted.sort(key=lambda pair: pair[0])
    ordered = [text for count, text in counted if count]
    return [ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)]


class _FirstBlockReachedError(Exception):
    """Ends a forward pass at the first block."""


def _caught(model: Any, block: Any, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """What the block is called with: the hidden states, and the rest by keyword."""
    import torch

    caught: list[tuple[Tensor, dict[str, Any]]] = []

    def hook(_: Any, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        rest = dict(keywords)
        hidden = positional[0] if positional else rest.pop("hidden_states")
        if len(positional) > 1:
            rest["attention_mask"] = positional[1]
        caught.append((hidden, rest))
        raise _FirstBlockReachedError

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs)
    except _FirstBlockReachedError:
        pass
    finally:
        handle.remove()
    return caught[0]


def _forward(
    block: Any, weights: dict[str, Tensor], hidden: Tensor, arguments: dict[str, Any]
) -> Tensor:
    """The block's output with some of its weights replaced."""
    import torch

    out = torch.func.functional_call(block, weights, (hidden,), arguments)
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
