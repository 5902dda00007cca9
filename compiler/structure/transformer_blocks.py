"""A model's transformer blocks as torch has them, and calibration text on its way through them.

The blocks are the longest ModuleList; that they are a chain, each called once with what the one
before gave, is tried out and not taken for granted. What else a block is called with (masks,
positions, rotary angles, a bias that only the first computes) is its own, and recorded.
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

from slc.compiler.errors import ModelError
from slc.compiler.structure.calibration import LIMIT_TOKENS, TOKENS_PER_TEXT, is_held_out
from slc.compiler.structure.texts import read_texts

Tensor = Any
Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional after the hidden states, keywords
Blocks = list[tuple[str, Any]]  # name in the model, module

BATCH = 16  # texts of a step
# Texts made of two others, for every one that is given. all-MiniLM-L6-v2, 2500 tokens, density 0.5,
# rank 32, 300 steps of matching: cosine 0.9872 becomes 0.9898 with 5 and 0.9907 with 15.
SPLICED = 15
TOKENS = 3 * LIMIT_TOKENS  # of both
SEED = 0


@dataclasses.dataclass
class Batch:
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


def own_name(prefix: str, parameter: str) -> str | None:
    """The parameter's name inside the block `prefix`; None where it lies elsewhere.

    A folder may have been saved with a prefix that the bare model lacks.
    """
    place = f".{parameter}".find(f".{prefix}.")
    return None if place < 0 else parameter[place + len(prefix) + 1 :]


def is_conv1d(block: Any, parameter: str) -> bool:
    """Whether the parameter is kept as [K, N], as GPT-2 does."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(block.get_submodule(parameter.rpartition(".")[0]), Conv1D)


def load_model(folder: Path) -> Any:
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


def find_blocks(model: Any) -> list[tuple[str, Any]]:
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


def text_batches(
    model: Any, blocks: list[tuple[str, Any]], folder: Path, text: Path
) -> Iterator[Batch]:
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
    tokens = [ids for run, ids in enumerate(filter(None, tokens)) if not is_held_out(run)]
    for rows in _of_like_length(_spliced(tokens, SPLICED, longest)):
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        attention = torch.tensor([[int(j < len(row)) for j in range(ids.shape[1])] for row in rows])
        hidden, calls = watched(model, blocks, {"input_ids": ids, "attention_mask": attention})
        yield Batch(hidden, hidden, calls, attention[:, :, None].to(torch.float32))


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


def watched(
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
            out = forward(blocks[number][1], {}, hidden, call)
            if out.shape != wanted.shape or not torch.allclose(out, wanted, rtol=1e-3, atol=1e-4):
                return False
    return True


def forward(block: Any, weights: dict[str, Tensor], hidden: Tensor, call: Call) -> Tensor:
    """The block's output with some of its weights replaced."""
    import torch

    positional, keywords = call
    out = torch.func.functional_call(block, weights, (hidden, *positional), keywords)
    return out[0] if isinstance(out, tuple) else out
