"""The text: the standard library's sources with their docs, as token ids in a fixed order."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.docstrings import standard_library_files
from examples.llm_generate.make_llama import train_tokenizer

LENGTH = 256  # tokens of a sequence, in training and in evaluation
HELD_OUT_OF = 20  # one file in 20 is never trained on
_SKIPPED = {"encodings"}  # tables of code points, not text

Ids = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Token ids.

    Attributes:
      tokenizer: a `tokenizers.Tokenizer`, byte-level BPE.
      train: i64 [sequences, LENGTH].
      held_out: likewise, of files that are not in `train`.
    """

    tokenizer: Any
    train: Ids
    held_out: Ids

    def batch(self, step: int, size: int, seed: int) -> Ids:
        """The sequences of one step: i64 [size, LENGTH]; every epoch has its own permutation."""
        count = len(self.train)
        places = np.arange(step * size, (step + 1) * size)
        return np.stack([self.train[_order(count, seed, p // count)[p % count]] for p in places])


def make_corpus(folder: Path, vocabulary: int, *, every: int = 1) -> Corpus:
    """Reads the standard library, or the ids that an earlier call left in `folder`.

    Args:
      folder: is made.
      vocabulary: of the tokenizer.
      every: take one file in so many, for a quick look.
    """
    from tokenizers import Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    kept, tokens = folder / "tokenizer.json", folder / "ids.npz"
    if not tokens.exists():
        files = [f for f in standard_library_files() if not _SKIPPED & set(f.parts)][::every]
        held_out = files[::HELD_OUT_OF]
        train = [file for i, file in enumerate(files) if i % HELD_OUT_OF]
        tokenizer = train_tokenizer(vocabulary, train)
        tokenizer.save(str(kept))
        np.savez(tokens, train=_ids(tokenizer, train), held_out=_ids(tokenizer, held_out))
    ids = np.load(tokens)
    return Corpus(
        Tokenizer.from_file(str(kept)),
        ids["train"].astype(np.int64),
        ids["held_out"].astype(np.int64),
    )


def _ids(tokenizer: Any, files: list[Path]) -> npt.NDArray[np.uint16]:
    """Files one after the other, </s> between them, cut into rows of LENGTH."""
    end = tokenizer.token_to_id("</s>")
    texts = [f.read_text(encoding="utf-8", errors="ignore") for f in files]
    stream = [np.array([*e.ids, end], np.uint16) for e in tokenizer.encode_batch(texts)]
    flat = np.concatenate(stream)
    rows = len(flat) // LENGTH
    return flat[: rows * LENGTH].reshape(rows, LENGTH)


_ORDERS: dict[tuple[int, int, int], Ids] = {}


def _order(count: int, seed: int, epoch: int) -> Ids:
    key = (count, seed, int(epoch))
    if key not in _ORDERS:
        _ORDERS[key] = np.random.default_rng([seed, int(epoch)]).permutation(count)
    return _ORDERS[key]
