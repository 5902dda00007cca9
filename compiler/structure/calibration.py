"""Second moments of what every Linear reads, over calibration text.

Their diagonal is OATS's D² (oats.py); the matrix is the Hessian of the layer loss (hessian.py).

Weights are fitted to most of the text and judged by the rest. A Linear of all-MiniLM-L6-v2 rounded
to int4 by error feedback over 3000 tokens lost on other text 1.4 to 3.8 times what it lost on
those, a table that nothing was fitted to 1.06 times: judged by what they were fitted to, Linears
would get fewer bits than they deserve.

The dense graph itself runs in onnxruntime, one text at a time and without padding, so no mask has
to be undone and every row counts.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.extras import require
from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear
from slc.compiler.progress import Progress
from slc.compiler.structure.instrument import Probe, Reduction, all_rows, instrument, sum_of_squares
from slc.compiler.structure.texts import read_feeds, read_texts
from slc.ops.bitmap_sparse_gemm import rounded_activations

Array = npt.NDArray[Any]

LIMIT_TOKENS = 16384  # mean squares settle long before this
TOKENS_PER_TEXT = 512
HELD_OUT_EVERY = 5  # texts: one that weights are judged by and not fitted to

_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
}


def activation_statistics(
    source: Source,
    path: Path,
    *,
    limit_tokens: int = LIMIT_TOKENS,
    progress: Progress | None = None,
) -> dict[str, npt.NDArray[np.float64]]:
    """E[x²] of every input column of every Linear that isn't an embedding.

    Args:
      source: the dense model.
      path: .txt or .jsonl texts for a model with a tokenizer (see `read_texts`), or .npz with an
        array per input.
      limit_tokens: of text, after which no other is begun.
      progress: called as progress(done, total, what), once per run of the graph.

    Returns:
      f64 [K] by Linear name.

    Raises:
      RequestError: the file can't be read or doesn't suit the model.
      ModelError: the graph can't be run.
    """
    probes, outputs = _observe(source, path, source.linears, sum_of_squares, limit_tokens, progress)
    sums: dict[Probe, npt.NDArray[np.float64]] = {}
    rows: dict[Probe, int] = {}
    for _, probe, statistic, count in outputs:
        sums[probe] = sums.get(probe, 0.0) + statistic.astype(np.float64)
        rows[probe] = rows.get(probe, 0) + count
    return {
        name: np.asarray(sum(sums[p] for p in some) / max(1, sum(rows[p] for p in some)))
        for name, some in probes.items()
    }


@dataclasses.dataclass(frozen=True)
class Moments:
    """What is kept of the inputs x of a Linear.

    Attributes:
      H: E[x·xᵀ] of what weights are fitted to, f32 [K, K].
      rounding: E[(x − x̂)²], x̂ being x in int8 as accuracy_level 4 rounds it, f64 [K].
      held_out: E[x·xᵀ] of every fifth text, which is not in H; None where there are fewer.
    """

    H: npt.NDArray[np.float32]
    rounding: npt.NDArray[np.float64]
    held_out: npt.NDArray[np.float32] | None = None

    @property
    def judge(self) -> npt.NDArray[np.float32]:
        """What errors are measured with, f32 [K, K]."""
        return self.H if self.held_out is None else self.held_out


def is_held_out(run: int) -> bool:
    """Whether weights are not fitted to the text (or the feeds of an .npz) of this number."""
    return run % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def activation_moments(
    source: Source,
    path: Path,
    linears: list[Linear],
    *,
    limit_tokens: int = LIMIT_TOKENS,
    progress: Progress | None = None,
) -> dict[str, Moments]:
    """Moments of the input of every Linear of `linears` that isn't an embedding.

    Args:
      source: the dense model.
      path: as for `activation_statistics`.
      linears: of the model; memory is 8·K² bytes for each distinct input among theirs.
      limit_tokens: of text, after which no other is begun.
      progress: called as progress(done, total, what), once per run of the graph.

    Returns:
      By Linear name; Linears that read the same x share one.

    Raises:
      RequestError: the file can't be read or doesn't suit the model.
      ModelError: the graph can't be run.
    """
    probes, outputs = _observe(source, path, linears, all_rows, limit_tokens, progress)
    fitted: dict[Probe, _Sums] = {}
    held_out: dict[Probe, _Sums] = {}
    for run, probe, rows, _ in outputs:
        sums = held_out if is_held_out(run) else fitted
        sums.setdefault(probe, _Sums(rows.shape[1])).add(rows)
    shared: dict[tuple[Probe, ...], Moments] = {}
    for some in probes.values():
        if tuple(some) not in shared:
            parts = [fitted[probe] for probe in some]
            others = [held_out[probe] for probe in some if probe in held_out]
            count = max(1, sum(part.rows for part in parts + others))
            rounding = np.sum([part.rounding for part in parts + others], axis=0) / count
            shared[tuple(some)] = Moments(_mean(parts), rounding, _mean(others) if others else None)
    return {name: shared[tuple(some)] for name, some in probes.items()}


class _Sums:
    """Σ x·xᵀ, f32 [K, K], and Σ (x − x̂)², f64 [K], over rows that arrive in small pieces."""

    ROWS_AT_ONCE = 1024  # enough for BLAS to run at its full speed

    def __init__(self, width: int) -> None:
        self.rows = 0
        self._waiting: list[npt.NDArray[np.float32]] = []
        self._sum = np.zeros((width, width), np.float32)
        self.rounding = np.zeros(width)

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """Takes rows f32 [n, K]."""
        self.rows += len(rows)
        lost = rows - rounded_activations(rows)
        self.rounding += np.square(lost).sum(axis=0, dtype=np.float64)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= self.ROWS_AT_ONCE:
            self.gram()

    def gram(self) -> npt.NDArray[np.float32]:
        """Σ x·xᵀ so far."""
        if self._waiting:
            stack = np.concatenate(self._waiting)
            self._sum += stack.T @ stack
            self._waiting.clear()
        return self._sum


def _mean(parts: list[_Sums]) -> npt.NDArray[np.float32]:
    """E[x·xᵀ] over all of them."""
    rows = max(1, sum(part.rows for part in parts))
    mean: npt.NDArray[np.float32] = np.sum([part.gram() for part in parts], axis=0)
    return mean / np.float32(rows)


def _observe(
    source: Source,
    path: Path,
    linears: list[Linear],
    reduction: Reduction,
    limit_tokens: int,
    progress: Progress | None,
) -> tuple[dict[str, list[Probe]], Iterator[tuple[int, Probe, Array, int]]]:
    """The probes by Linear name, and (run, probe, statistic, rows) of each run of the graph."""
    model, probes = instrument(source.graph, linears, reduction)

    def outputs() -> Iterator[tuple[int, Probe, Array, int]]:
        with tempfile.TemporaryDirectory(dir=source.workdir) as folder:
            session = open_session(model, Path(folder))
            runs = calibration_feeds(source, session, path, limit_tokens)
            yield from _run_all(session, probes, runs, progress)

    return probes, outputs()


def open_session(model: Any, folder: Path) -> Any:
    """An onnxruntime session on the CPU for `model`, written to `folder`."""
    import onnxruntime as ort

    from slc.compiler.artifact.writer import MODEL_FILE, write_model

    write_model(model, folder)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own types share no public base
        raise ModelError(
            f"onnxruntime can't load the model for calibration ({error}): "
            "use --method salr, which needs none"
        ) from error


def _run_all(
    session: Any,
    probes: dict[str, list[Probe]],
    runs: Iterable[tuple[dict[str, Array], int, int]],
    progress: Progress | None,
) -> Iterator[tuple[int, Probe, Array, int]]:
    """Runs the feeds; the run's number, every distinct probe's statistic and number of rows."""
    distinct = list(dict.fromkeys(probe for some in probes.values() for probe in some))
    names = [name for probe in distinct for name in (probe.statistic, probe.rows)]
    for run, (feeds, done, total) in enumerate(runs):
        try:
            values = session.run(names, feeds)
        except Exception as error:  # as above
            raise ModelError(
                f"onnxruntime can't run the model on the calibration inputs ({error}): "
                "check that they are this model's"
            ) from error
        for i, probe in enumerate(distinct):
            yield run, probe, values[2 * i], int(values[2 * i + 1][0])
        if progress is not None:
            progress(done, total, "calibration")


def calibration_feeds(
    source: Source,
    session: Any,
    path: Path,
    limit_tokens: int,
) -> Iterator[tuple[dict[str, Array], int, int]]:
    """(feeds, how much is done after them, of how much) of each calibration text or input."""
    if path.suffix == ".npz":
        inputs = {
            i.name: (i.shape[0] if i.shape and isinstance(i.shape[0], int) else None, _dtype(i))
            for i in session.get_inputs()
        }
        all_feeds = list(read_feeds(path, inputs))
        for number, feeds in enumerate(all_feeds, 1):
            yield feeds, number, len(all_feeds)
        return
    texts = read_texts(path)
    tokens_of = _tokenizer(source, path)
    tokens = 0
    for number, text in enumerate(texts, 1):
        ids = tokens_of(text)
        if not ids:
            continue
        tokens += len(ids)
        last = tokens >= limit_tokens
        yield token_feeds(source, session, ids), number, number if last else len(texts)
        if last:
            return
    if tokens == 0:
        raise RequestError(f"the texts of {str(path)!r} have no tokens: give other text")


def _tokenizer(source: Source, path: Path) -> Callable[[str], list[int]]:
    """The model's own tokenizer, cutting texts at what the model can take."""
    if source.hf_folder is None:
        raise RequestError(
            f"calibration by text ({path.name!r}) wants a model with a tokenizer and "
            f"{source.path.name!r} has none: give an .npz with an array per input"
        )
    require("calibration text", "transformers")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.hf_folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the tokenizer in {str(source.hf_folder)!r} can't be loaded ({error}): "
            "add the tokenizer's files, or use --method salr"
        ) from error
    limit = int(min(TOKENS_PER_TEXT, tokenizer.model_max_length, _positions(source.hf_folder)))

    def tokens_of(text: str) -> list[int]:
        return [int(i) for i in tokenizer(text, truncation=True, max_length=limit)["input_ids"]]

    return tokens_of


def _positions(folder: Path) -> int:
    """How many positions the model has embeddings for, where its config says so."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return TOKENS_PER_TEXT
    return int(config.get("max_position_embeddings") or TOKENS_PER_TEXT)


def token_feeds(source: Source, session: Any, ids: list[int]) -> dict[str, Array]:
    """Every input of a language model's graph for one text: batch 1, no padding, no past.

    Raises:
      ModelError: an input is of no known meaning.
    """
    length = len(ids)
    known: dict[str, Array] = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, length)),
        "token_type_ids": np.zeros((1, length)),
        "position_ids": np.arange(length)[None],
    }
    feeds = {}
    for value in session.get_inputs():
        if value.name in known:
            feeds[value.name] = known[value.name].astype(_dtype(value))
        elif value.name.startswith("past_key_values."):
            feeds[value.name] = np.zeros(_empty_past(source, value.shape), _dtype(value))
        else:
            raise ModelError(
                f"input {value.name!r} of {source.path.name!r} can't be made from text: "
                "calibrate with an .npz that has an array per input"
            )
    return feeds


def _empty_past(source: Source, shape: list[int | str | None]) -> list[int]:
    """[1, heads, 0, head size]; what the graph leaves open stands in genai_config."""
    decoder = ((source.genai_config or {}).get("model") or {}).get("decoder") or {}
    heads, size = decoder.get("num_key_value_heads"), decoder.get("head_size")
    known = [1, heads, 0, size]
    dims = [k if i in (0, 2) or not isinstance(d, int) else d
            for i, (d, k) in enumerate(zip(shape, known, strict=False))]  # fmt: skip
    if len(shape) != 4 or any(d is None for d in dims):
        raise ModelError(
            f"the key-value cache of {source.path.name!r} has shape {shape} where "
            "[batch, heads, length, head size] is known: use --method salr"
        )
    return [int(d or 0) for d in dims]


def _dtype(value: Any) -> np.dtype[Any]:
    """A session input's numpy type."""
    try:
        return _TYPES[value.type]
    except KeyError:
        raise ModelError(
            f"input {value.name!r} is of type {value.type}, which calibration can't feed: "
            "use --method salr"
        ) from None
