"""A punctuation tagger on MiniLM: encoder, a linear head on every word, training, scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from transformers import AutoTokenizer

from examples.salr_finetune.passages import MARKS, Passage

HIDDEN = 384
Counts = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How every method is trained; only `seed` differs between runs."""

    steps: int = 450
    batch: int = 8  # passages
    lr: float = 1.5e-3  # of LoRA's
    head_lr: float = 5e-3
    warmup: int = 20
    seed: int = 0


class Tagger:
    """Words in, a mark for each: tokenizer and head around any encoder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        torch.manual_seed(seed)
        self.head = torch.nn.Linear(HIDDEN, len(MARKS))

    def encode(self, batch: Sequence[Passage]) -> tuple[dict[str, Any], Any]:
        """Inputs [batch, length], marks [batch, length] at each word's last token, else −100."""
        texts = [list(passage.words) for passage in batch]
        encoded = self._tokenizer(
            texts, is_split_into_words=True, padding=True, truncation=True, max_length=96,
            return_tensors="pt",
        )  # fmt: skip
        marks = torch.full(encoded["input_ids"].shape, -100)
        for row, passage in enumerate(batch):
            words = [*encoded.word_ids(row), None]
            for at, word in enumerate(words[:-1]):
                if word is not None and words[at + 1] != word:
                    marks[row, at] = passage.marks[word]
        return dict(encoded), marks

    def train(
        self, model: Any, groups: list[dict[str, Any]], passages: Sequence[Passage], recipe: Recipe
    ) -> list[float]:
        """AdamW on `groups` and the head, linear warm-up and decay; the loss of every step."""
        head = {"params": list(self.head.parameters()), "lr": recipe.head_lr, "weight_decay": 0.0}
        optimizer = torch.optim.AdamW([*groups, head])
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min(1.0, (s + 1) / recipe.warmup) * (1 - s / recipe.steps)
        )
        order = np.random.default_rng(recipe.seed).permutation(len(passages))
        losses = []
        model.train()
        for step in range(recipe.steps):
            at = np.arange(step * recipe.batch, (step + 1) * recipe.batch) % len(passages)
            inputs, marks = self.encode([passages[i] for i in order[at]])
            with torch.autocast("cpu", torch.bfloat16):
                hidden = model(**inputs).last_hidden_state
            logits = self.head(hidden.float())
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), marks.flatten())
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if (step + 1) % 50 == 0:
                print(f"  step {step + 1}: loss {np.mean(losses[-50:]):.3f}", flush=True)
        model.eval()
        return losses

    def counts(self, model: Any, passages: Sequence[Passage], batch: int = 32) -> Counts:
        """(marks found, marks given, marks there are) of every passage: [passages, 3], by torch."""

        def run(inputs: dict[str, Any]) -> Any:
            with torch.no_grad():
                return model(**inputs).last_hidden_state

        return self._counts(run, passages, batch)

    def counts_of_session(
        self, session: ort.InferenceSession, passages: Sequence[Passage], batch: int = 32
    ) -> Counts:
        """The same by onnxruntime, with an artifact's encoder and the same head."""
        names = [value.name for value in session.get_inputs()]

        def run(inputs: dict[str, Any]) -> Any:
            feeds = {name: inputs[name].numpy() for name in names}
            return torch.from_numpy(session.run(["last_hidden_state"], feeds)[0])

        return self._counts(run, passages, batch)

    def _counts(self, run: Any, passages: Sequence[Passage], batch: int) -> Counts:
        rows = []
        for start in range(0, len(passages), batch):
            inputs, marks = self.encode(passages[start : start + batch])
            with torch.no_grad():
                given = self.head(run(inputs)).argmax(-1)
            given = torch.where(marks >= 0, given, 0)
            there = marks.clamp(min=0)
            right = (given == there) & (there > 0)
            rows.append(torch.stack([right.sum(1), (given > 0).sum(1), (there > 0).sum(1)], 1))
        return torch.cat(rows).numpy()


def f1(counts: Counts) -> float:
    """F1 of the marks, in percent: 2·found / (given + there are), over all passages."""
    found, given, there = counts.sum(axis=0)
    return float(200 * found / max(1, given + there))


def difference(
    counts: Sequence[Counts], other: Sequence[Counts], rounds: int = 2000
) -> tuple[float, float, float]:
    """F1 minus the other's, the mean over seeds, and its 95 % interval over passages.

    Args:
      counts: of one method, one array for each seed, on the same passages.
      other: of the method to compare with, seed by seed.
      rounds: of the bootstrap: passages drawn with replacement, the same for both.
    """
    rng = np.random.default_rng(0)
    size = len(counts[0])

    def mean(rows: npt.NDArray[np.int64]) -> float:
        return float(
            np.mean([f1(a[rows]) - f1(b[rows]) for a, b in zip(counts, other, strict=True)])
        )

    drawn = [mean(rng.integers(0, size, size)) for _ in range(rounds)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return mean(np.arange(size)), float(low), float(high)
