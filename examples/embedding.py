"""Sentence embeddings with an ONNX encoder: tokenize, run, mean-pool, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer

F32Array = npt.NDArray[np.float32]


class SentenceEncoder:
    """An encoder in onnxruntime with the tokenizer that lies beside it.

    Args:
      session: a session of a BERT-like encoder whose first output is last_hidden_state.
      tokenizer: path of its tokenizer.json.
      max_length: texts are cut to this many tokens.
    """

    def __init__(
        self, session: ort.InferenceSession, tokenizer: Path, max_length: int = 128
    ) -> None:
        self._session = session
        self._names = [value.name for value in session.get_inputs()]
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(max_length)

    def __call__(self, texts: Sequence[str], batch: int = 16) -> F32Array:
        """Unit vectors: f32 [len(texts), hidden size]."""
        parts = [self._embed(texts[i : i + batch]) for i in range(0, len(texts), batch)]
        return np.concatenate(parts)

    def _embed(self, texts: Sequence[str]) -> F32Array:
        encoded = self._tokenizer.encode_batch(list(texts))
        mask = np.array([e.attention_mask for e in encoded], np.int64)
        feeds = {
            "input_ids": np.array([e.ids for e in encoded], np.int64),
            "attention_mask": mask,
            "token_type_ids": np.array([e.type_ids for e in encoded], np.int64),
        }
        hidden = self._session.run(None, {name: feeds[name] for name in self._names})[0]
        weights = mask[:, :, None].astype(np.float32)
        pooled = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        unit: F32Array = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit
