"""An artifact that is to be timed, and what it is asked to do."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.probes import cache_shape, make_probe
from slc.compiler.bench.worker import DECODE, FIRST
from slc.compiler.errors import ArtifactError, RequestError
from slc.targets.detect import usable_cores

GENAI_FILE = "genai_config.json"
CONTEXT_DEFAULT = 128
PROMPT_MOST = 128  # tokens: of a longer context the rest is not waited for
DECODER_CONTEXT_LEAST = 16  # prompt, first token, tokens that warm up, some that count
SHORT = 16  # tokens of the second shape, where a graph takes any length


@dataclasses.dataclass(frozen=True)
class Load:
    """What a session is asked to do: the same for both sides of a comparison.

    Attributes:
      batch: sequences at a time.
      context: tokens of each.
      threads: of the session.
      decoder: whether that is done token by token.
    """

    batch: int
    context: int
    threads: int
    decoder: bool

    @property
    def prompt_tokens(self) -> int:
        """Of a decoder's prompt: half of the context, the rest is decoded."""
        return max(1, min(self.context // 2, PROMPT_MOST))

    @property
    def steps_most(self) -> int:
        """Tokens that fit behind the prompt and the first one."""
        return self.context - self.prompt_tokens - 1


def make_load(
    artifacts: Sequence[Artifact], batch: int | None, context: int | None, threads: int | None
) -> Load:
    """What was asked, else what every one of `artifacts` was exported for.

    Raises:
      RequestError: a number below 1, or a context that leaves a decoder nothing to decode.
    """
    for option, value in (("--batch", batch), ("--context", context), ("--threads", threads)):
        if value is not None and value < 1:
            raise RequestError(f"{option}: got {value}, wanted at least 1")
    options = [artifact.manifest["options"] for artifact in artifacts]
    least = min((o.get("context") or CONTEXT_DEFAULT) for o in options)
    # A graph or a cache was planned for a length: what is longer may not run.
    lengths = [_genai_length(artifact) for artifact in artifacts]
    longest = min((n for n in lengths if n is not None), default=None)
    load = Load(
        batch or min((o.get("batch") or 1) for o in options),
        context or (least if longest is None else min(least, longest)),
        threads or usable_cores(),
        longest is not None,
    )
    if longest is not None and not DECODER_CONTEXT_LEAST <= load.context <= longest:
        raise RequestError(
            f"--context: got {load.context} tokens, wanted at least {DECODER_CONTEXT_LEAST}, so "
            f"that some are decoded, and at most {longest}, which the artifact's cache holds"
        )
    return load


def _genai_length(artifact: Artifact) -> int | None:
    config = _genai_config(artifact.path)
    return None if config is None else int(config["model"]["context_length"])


def _genai_config(folder: Path) -> dict[str, Any] | None:
    path = folder / GENAI_FILE
    if not path.is_file():
        return None
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config["model"]["context_length"], config["model"]["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} is not a decoder's genai_config ({error}); export the model again."
        ) from error
    return config


@dataclasses.dataclass(frozen=True)
class Subject:
    """An artifact under a load; `prepared` makes one.

    Attributes:
      artifact: opened.
      load: as above.
      works: names that a worker can be asked for, the first being what a gate tests.
      quantities: what the first of `works` is timed as, e.g. "first token" and "decode".
      start: the first line that a worker reads.
    """

    artifact: Artifact
    load: Load
    works: tuple[str, ...]
    quantities: tuple[str, ...]
    start: dict[str, Any]


@contextlib.contextmanager
def prepared(artifact: Artifact, load: Load, folder: Path) -> Iterator[Subject]:
    """A subject whose inputs lie in `folder`.

    Raises:
      ArtifactError: the artifact can't be run here, for want of a library or a provider.
    """
    from slc.compiler.budget.measure import with_library

    config = _genai_config(artifact.path)
    genai = config is not None and importlib.util.find_spec("onnxruntime_genai") is not None
    library = artifact.library()
    with with_library(artifact.model_path, library, genai) as model:
        start: dict[str, Any] = {
            "model": str(model.resolve()),
            "library": None if library is None else str(library.resolve()),
            "providers": artifact.providers(),
            "threads": load.threads,
            "batch": load.batch,
            "context": load.context,
        }
        if config is None:
            feeds = _write_feeds(artifact, load, folder)
            works = tuple(feeds)
            quantities = works[:1]
            start |= {"engine": "passes", "feeds": feeds}
        else:
            works, quantities = (DECODE,), (FIRST, DECODE)
            start |= {
                "engine": "genai" if genai else "onnx decoder",
                "prompt": _prompt(config, load),
            }
            if not genai:
                start |= _caches(artifact, load, config, folder)
        yield Subject(artifact, load, works, quantities, start)


def _prompt(config: dict[str, Any], load: Load) -> list[int]:
    ids = np.random.default_rng(0).integers(2, config["model"]["vocab_size"], load.prompt_tokens)
    return [int(i) for i in ids]


def _write_feeds(artifact: Artifact, load: Load, folder: Path) -> dict[str, str]:
    """{work: file of its inputs}: the whole context, and a short one where lengths are open."""
    model = artifact.model()
    inputs = [v for v in model.graph.inputs if not v.is_initializer()]
    open_dims = {
        d for v in inputs for i, d in enumerate(v.shape or ()) if i and not isinstance(d, int)
    }
    lengths = [load.context, SHORT] if open_dims and load.context > SHORT else [load.context]
    feeds: dict[str, str] = {}
    for length in lengths:
        # Without an open length a pass is a row of the batch, whatever is in it.
        name = f"{load.batch}x{length}" if open_dims else f"batch {load.batch}"
        path = folder / f"{len(feeds)}.npz"
        arrays: dict[str, Any] = dict(make_probe(model, load.batch, length).feeds)
        np.savez(path, **arrays)
        feeds[name] = str(path)
    return feeds


def _caches(artifact: Artifact, load: Load, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Empty caches of a decoder, and which output feeds which of them in the next step."""
    decoder = config["model"]["decoder"]
    inputs = {str(v.name): v for v in artifact.model().graph.inputs}
    present_of = {
        decoder["inputs"][f"past_{kind}_names"] % i: decoder["outputs"][f"present_{kind}_names"] % i
        for kind in ("key", "value")
        for i in range(decoder["num_hidden_layers"])
    }
    present_of = {past: present for past, present in present_of.items() if past in inputs}
    empty: dict[str, Any] = {}
    for name in present_of:
        dtype = inputs[name].dtype
        assert dtype is not None  # the builder types every cache
        empty[name] = np.zeros(cache_shape(inputs[name], load.batch, config), dtype.numpy())
    path = folder / "caches.npz"
    np.savez(path, **empty)
    return {"feeds": {"empty caches": str(path)}, "present_of": present_of}
