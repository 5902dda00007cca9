"""How much a model's output suffers from an error in one Linear, by running the model itself.

Every weight becomes an overridable input of the graph, so that one session gives the reference and
each perturbed output: nothing else of the model changes between two runs. What counts is the output
as it is read: of logits (of next tokens, of classes, of the ends of an answer) the Kullback-Leibler
divergence of their distributions from the reference's, averaged over them (nats), summed over
outputs; of a model without logits the squared error of its first output over the squared norm of
the reference's.

For sentence encoders that is the error of the tokens' vectors. Measured on their mean, as
sentence-transformers pools them, MiniLM's choices were worse at six of the nine budgets that came
out differently (cosine 0.9942 for 0.9946 at 43 MB): what Linears lose of the mean adds up, which a
sum of what single ones lose does not see.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from slc.compiler.errors import ModelError
from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear
from slc.compiler.structure.calibration import (
    LIMIT_TOKENS,
    calibration_feeds,
    is_held_out,
    open_session,
)
from slc.compiler.structure.decomposition import F32

TOKENS = 512  # of text: the errors of Linears differ by factors, their noise by percents
LOGITS_BYTES_MAX = 1 << 28  # of the reference's logits that are kept


class PerturbedModel:
    """The model, with weights that a run may replace; made by `perturbed_model`."""

    def __init__(self, session: Any, feeds: list[dict[str, Any]], outputs: list[str]) -> None:
        self._session, self._feeds, self._outputs = session, feeds, outputs
        self._reference = [self._run(feed) for feed in feeds]

    def _run(self, feeds: dict[str, Any]) -> list[F32]:
        """[rows, width] of each output: log-probabilities of logits, vectors of others."""
        try:
            values = self._session.run(self._outputs, feeds)
        except Exception as error:  # onnxruntime's own types share no public base
            raise ModelError(
                f"onnxruntime can't run the model on the calibration text ({error}): check that "
                "the text is this model's"
            ) from error
        flat = [np.asarray(value, np.float32).reshape(-1, value.shape[-1]) for value in values]
        return [
            _log_softmax(rows) if _is_distribution(name, rows) else rows
            for name, rows in zip(self._outputs, flat, strict=True)
        ]

    def error(self, linear: Linear, W: F32) -> float:
        """Of the output, with `linear`'s weight W [N, K] in place of its own; at least 0.

        Raises:
          ModelError: the model can't be run.
        """
        stored = np.ascontiguousarray(W.T if linear.transposed else W)
        errors, rows = [], []
        for feeds, references in zip(self._feeds, self._reference, strict=True):
            got = self._run({**feeds, linear.weight: stored})
            errors.append(list(map(_distance, self._outputs, references, got)))
            rows.append(list(map(len, references)))
        return max(0.0, float(np.average(errors, axis=0, weights=rows).sum()))


def _is_logits(name: str) -> bool:
    return name == "logits" or name.endswith("_logits")


def _is_distribution(name: str, values: F32) -> bool:
    """Whether rows are logits; a single one is a regression's number."""
    return _is_logits(name) and values.shape[1] > 1


def _distance(name: str, reference: F32, got: F32) -> float:
    """Mean divergence of rows, or squared error over squared norm."""
    if _is_distribution(name, reference):
        return float((np.exp(reference) * (reference - got)).sum(axis=1, dtype=np.float64).mean())
    norm = float(np.square(reference).sum(dtype=np.float64))
    return float(np.square(got - reference).sum(dtype=np.float64)) / max(norm, 1e-30)


@contextmanager
def perturbed_model(
    source: Source, path: Path, linears: list[Linear], *, tokens: int = TOKENS
) -> Iterator[PerturbedModel]:
    """The model with the weights of `linears` open to be replaced, on the first texts of `path`.

    Args:
      source: the reference.
      path: calibration text or inputs.
      linears: whose weights are f32 in the graph; others are refused.
      tokens: of text, after which no other is begun.

    Raises:
      RequestError: the text can't be read or doesn't suit the model.
      ModelError: the model can't be run.
    """
    model = source.graph.clone()
    inputs = {str(value.name) for value in model.graph.inputs}
    for weight in dict.fromkeys(linear.weight for linear in linears):
        if weight not in inputs:
            model.graph.inputs.append(model.graph.initializers[weight])
    outputs = _keep_outputs(model)
    with tempfile.TemporaryDirectory(dir=source.workdir) as folder:
        session = open_session(model, Path(folder))
        feeds = _feeds(source, session, path, tokens)
        yield PerturbedModel(session, feeds, outputs)


def _keep_outputs(model: ir.Model) -> list[str]:
    """Leaves the model its logits, or else its first output; their names."""
    outputs = list(model.graph.outputs)
    kept = [value for value in outputs if _is_logits(str(value.name))] or outputs[:1]
    for value in outputs:
        if value not in kept:
            model.graph.outputs.remove(value)
    return [str(value.name) for value in kept]


def _feeds(source: Source, session: Any, path: Path, tokens: int) -> list[dict[str, Any]]:
    """Of the first texts, as many as the kept outputs leave room for; held-out ones if there are.

    Options are judged by what they lose on these: on texts that weights were fitted to a Linear
    would seem to matter less than it does.
    """
    widths = [output.shape[-1] for output in session.get_outputs() if output.shape]
    width = sum(width for width in widths if isinstance(width, int))
    most = LOGITS_BYTES_MAX // (4 * width) if width else tokens
    # onnxruntime lists no overridable input among a session's inputs.
    chosen: list[dict[str, Any]] = []
    first: list[dict[str, Any]] = []
    left = left_of_first = min(tokens, most)
    for run, (feeds, _, _) in enumerate(calibration_feeds(source, session, path, LIMIT_TOKENS)):
        rows = max(array.size for array in feeds.values())
        if left_of_first > 0:
            first.append(feeds)
            left_of_first -= rows
        if is_held_out(run):
            chosen.append(feeds)
            left -= rows
            if left <= 0:
                break
    return chosen or first


def _log_softmax(logits: F32) -> F32:
    shifted: npt.NDArray[np.float32] = logits - logits.max(axis=-1, keepdims=True)
    result: F32 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def open_type(source: Source, linear: Linear) -> bool:
    """Whether a weight is f32 in the graph, so that a run can replace it as it is."""
    tensor = source.graph.graph.initializers[linear.weight].const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT
