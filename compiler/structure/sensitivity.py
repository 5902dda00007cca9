"""How much a model's output suffers from an error in one Linear, by running the model itself.

Every weight becomes an overridable input of the graph, so that one session gives the reference and
each perturbed output: nothing else of the model changes between two runs. The error of the output
is, of a language model with logits, the Kullback-Leibler divergence of its next-token
distributions from the reference's, averaged over tokens (nats); of any other model the squared
error of its first output over the squared norm of the reference's.
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
from slc.compiler.structure.calibration import calibration_feeds, open_session
from slc.compiler.structure.decomposition import F32

TOKENS = 512  # of text: the errors of Linears differ by factors, their noise by percents
LOGITS_BYTES_MAX = 1 << 28  # of the reference's logits that are kept


class PerturbedModel:
    """The model, with weights that a run may replace; made by `perturbed_model`."""

    def __init__(self, session: Any, feeds: list[dict[str, Any]], output: str) -> None:
        self._session, self._feeds, self._output = session, feeds, output
        self._logits = output == "logits"
        self._reference = [self._run(feed) for feed in feeds]

    def _run(self, feeds: dict[str, Any]) -> F32:
        try:
            (value,) = self._session.run([self._output], feeds)
        except Exception as error:  # onnxruntime's own types share no public base
            raise ModelError(
                f"onnxruntime can't run the model on the calibration text ({error}): check that "
                "the text is this model's"
            ) from error
        flat: F32 = np.asarray(value, np.float32).reshape(-1, value.shape[-1])
        return _log_softmax(flat) if self._logits else flat

    def error(self, linear: Linear, W: F32) -> float:
        """Of the output, with `linear`'s weight W [N, K] in place of its own; at least 0.

        Raises:
          ModelError: the model can't be run.
        """
        stored = np.ascontiguousarray(W.T if linear.transposed else W)
        errors = [
            self._distance(reference, self._run({**feeds, linear.weight: stored}))
            for feeds, reference in zip(self._feeds, self._reference, strict=True)
        ]
        rows = [len(reference) for reference in self._reference]
        return max(0.0, float(np.average(errors, weights=rows)))

    def _distance(self, reference: F32, got: F32) -> float:
        if self._logits:
            return float(
                (np.exp(reference) * (reference - got)).sum(axis=1, dtype=np.float64).mean()
            )
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
    output = model.graph.outputs[0]
    del model.graph.outputs[1:]
    with tempfile.TemporaryDirectory(dir=source.workdir) as folder:
        session = open_session(model, Path(folder))
        feeds = _feeds(source, session, path, tokens)
        yield PerturbedModel(session, feeds, str(output.name))


def _feeds(source: Source, session: Any, path: Path, tokens: int) -> list[dict[str, Any]]:
    """Of the first texts, as many as the kept logits leave room for."""
    width = session.get_outputs()[0].shape[-1]
    most = LOGITS_BYTES_MAX // (4 * width) if isinstance(width, int) else tokens
    # onnxruntime lists no overridable input among a session's inputs.
    return [feeds for feeds, _, _ in calibration_feeds(source, session, path, min(tokens, most))]


def _log_softmax(logits: F32) -> F32:
    shifted: npt.NDArray[np.float32] = logits - logits.max(axis=-1, keepdims=True)
    result: F32 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def open_type(source: Source, linear: Linear) -> bool:
    """Whether a weight is f32 in the graph, so that a run can replace it as it is."""
    tensor = source.graph.graph.initializers[linear.weight].const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT
