"""Greedy generation by plain onnxruntime: does the artifact say the same as its dense twin?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from slc.compiler.artifact.probes import Feeds, cache_shape
from slc.compiler.artifact.sessions import run

if TYPE_CHECKING:
    import onnxruntime


# Greedy tokens and the logits [vocabulary] that each was chosen from.
Generated = tuple[list[int], list[npt.NDArray[np.float32]]]


@dataclasses.dataclass(frozen=True)
class TokenCheck:
    """Greedy tokens of the artifact and of the dense graph from one prompt."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]  # the artifact's
    dense_tokens: tuple[int, ...]
    equal: int  # tokens until the first difference
    tie_margin: float | None  # the dense graph's preference for its token where they part
    passed: bool  # all equal, or they part where the preference is within rounding


@dataclasses.dataclass(frozen=True)
class TokenDistance:
    """Greedy tokens of the original model, and what the artifact would choose. Not a check."""

    tokens: tuple[int, ...]  # the original's
    agreed: int  # of them, each chosen after the original's own tokens before it
    equal: int  # until the first that differs: as far as both generate the same text


def token_distance(tokens: Sequence[int], chosen: Sequence[int]) -> TokenDistance:
    """Of the original's tokens and what the artifact chose after those before each."""
    same = [a == b for a, b in zip(tokens, chosen, strict=True)]
    equal = next((i for i, one in enumerate(same) if not one), len(same))
    return TokenDistance(tuple(tokens), sum(same), equal)


class KvLoop:
    """Feeds a decoder its own caches.

    Args:
      session: over `model`.
      model: tells which inputs there are and their types.
      genai_config: names logits and caches, as the builder of onnxruntime-genai writes it.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        model: ir.Model,
        genai_config: Mapping[str, Any],
    ) -> None:
        """Maps each past input to the present output that feeds it in the next step."""
        self._session = session
        decoder = genai_config["model"]["decoder"]
        self._inputs = {str(v.name): v for v in model.graph.inputs if not v.is_initializer()}
        self._logits = decoder["outputs"]["logits"]
        self._caches: dict[str, str] = {}
        for kind in ("key", "value"):
            past = decoder["inputs"][f"past_{kind}_names"]
            present = decoder["outputs"][f"present_{kind}_names"]
            for layer in range(decoder["num_hidden_layers"]):
                if past % layer in self._inputs:
                    self._caches[past % layer] = present % layer
        self._config = genai_config

    def generate(self, prompt: Sequence[int], steps: int, forced: Sequence[int] = ()) -> Generated:
        """Generates `steps` tokens.

        Args:
          prompt: token ids.
          steps: how many.
          forced: where given, what the model is fed after each step instead of its own choice.
        """
        caches: Feeds = {
            name: np.zeros(cache_shape(value, 1, self._config), _numpy(value))
            for name, value in self._inputs.items()
            if name in self._caches
        }
        ids, past = list(prompt), 0
        tokens, logits = [], []
        for _ in range(steps):
            feeds = {**self._feeds(ids, past), **caches}
            outputs = run(self._session, feeds)
            logits.append(outputs[self._logits][0, -1].astype(np.float32))
            tokens.append(int(logits[-1].argmax()))
            caches = {name: outputs[present] for name, present in self._caches.items()}
            past += len(ids)
            ids = [forced[len(tokens) - 1]] if forced else tokens[-1:]
        return tokens, logits

    def _feeds(self, ids: Sequence[int], past: int) -> Feeds:
        length = len(ids)
        known = {
            "input_ids": np.array([ids]),
            "attention_mask": np.ones((1, past + length)),
            "position_ids": np.arange(past, past + length)[None],
        }
        return {
            name: known[name].astype(_numpy(value))
            for name, value in self._inputs.items()
            if name not in self._caches
        }


def compare_tokens(
    prompt: Sequence[int], artifact: Generated, dense: Generated, rounding: float
) -> TokenCheck:
    """Compares what two loops generated from one prompt.

    Args:
      prompt: token ids.
      artifact: by the artifact.
      dense: by the same decoded weights, densely; as many tokens.
      rounding: how far rounding may move a logit: two tokens whose logits are less than twice that
        apart are a tie that either side may decide.
    """
    (tokens, _), (wanted, logits) = artifact, dense
    pairs = zip(tokens, wanted, strict=True)
    equal = next((i for i, (got, want) in enumerate(pairs) if got != want), len(tokens))
    margin = None
    if equal < len(tokens):
        margin = float(logits[equal][wanted[equal]] - logits[equal][tokens[equal]])
    passed = margin is None or margin <= 2 * rounding
    return TokenCheck(tuple(prompt), tuple(tokens), tuple(wanted), equal, margin, passed)


def _numpy(value: ir.Value) -> npt.DTypeLike:
    return (value.dtype or ir.DataType.FLOAT).numpy()
