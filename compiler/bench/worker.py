"""The process that a session is timed in, started by `process.py`, which it obeys line by line.

It imports what an application imports and nothing else of ours, loads, and then sleeps until a line
on stdin asks for something; no thread of it spins while the other side of a comparison runs. Every
answer is one JSON document on one line.

    {"do": "turn", "work": NAME, "warm": W, "runs": R}  ->  {NAME: [seconds, …], …}
    {"do": "touch"}                                     ->  {"touched_bytes": …}
    {"do": "memory"}                                    ->  {"peak_bytes": …, "method": …}
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Seconds = dict[str, list[float]]
FIRST, DECODE = "first token", "decode"
SEED_TOKEN = 2  # below it tokenizers keep their special ones
# Threads sleep once a run is over instead of spinning for some 40 ms on the other side's cores.
NO_SPINNING = ("session.force_spinning_stop", "1")


def _memory_module() -> ModuleType:
    """`budget/measure_child.py` by its path: its package would load what no application needs."""
    path = Path(__file__).parents[1] / "budget" / "measure_child.py"
    spec = importlib.util.spec_from_file_location("measure_child", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(step: Callable[[], object], warm: int, runs: int) -> list[float]:
    """Seconds of `runs` calls after `warm` others."""
    for _ in range(warm):
        step()
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return seconds


def make_session(given: dict[str, Any]) -> Any:
    """An onnxruntime session over the artifact's graph."""
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads = given["threads"]
    options.add_session_config_entry(*NO_SPINNING)
    if given["library"]:
        options.register_custom_ops_library(given["library"])
    return ort.InferenceSession(given["model"], options, providers=given["providers"])


class Passes:
    """Whole passes of a graph, one work per set of inputs."""

    engine = "onnxruntime"

    def __init__(self, given: dict[str, Any]) -> None:
        self._session = make_session(given)
        self._feeds = {name: dict(np.load(path)) for name, path in given["feeds"].items()}

    def turn(self, work: str, warm: int, runs: int) -> Seconds:
        """Seconds of each pass."""
        feeds = self._feeds[work]
        return {work: timed(lambda: self._session.run(None, feeds), warm, runs)}


class GenaiDecoder:
    """A decoder in onnxruntime-genai: a prompt, then token by token."""

    engine = "onnxruntime-genai"

    def __init__(self, given: dict[str, Any]) -> None:
        import onnxruntime_genai as og

        self._og, self._prompt = og, given["prompt"]
        self._batch, self._context = given["batch"], given["context"]
        options = {"intra_op_num_threads": given["threads"], NO_SPINNING[0]: NO_SPINNING[1]}
        config = og.Config(str(Path(given["model"]).parent))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = og.Model(config)

    def turn(self, work: str, warm: int, runs: int) -> Seconds:
        """Seconds from the prompt to the first token, then of each token at the same positions."""
        parameters = self._og.GeneratorParams(self._model)
        # max_length is what the cache is made for; min_length: a random prompt may end early, and
        # then nothing would be decoded.
        parameters.set_search_options(
            max_length=self._context,
            min_length=self._context,
            batch_size=self._batch,
            do_sample=False,
        )
        generator = self._og.Generator(self._model, parameters)
        tokens = np.tile(np.array(self._prompt, np.int32), (self._batch, 1))
        begin = time.perf_counter()
        generator.append_tokens(tokens)
        generator.generate_next_token()
        first = time.perf_counter() - begin
        return {FIRST: [first], DECODE: timed(generator.generate_next_token, warm, runs)}


class OnnxDecoder:
    """A decoder whose caches are fed back by hand, where onnxruntime-genai is not installed."""

    engine = "onnxruntime, caches fed back"

    def __init__(self, given: dict[str, Any]) -> None:
        self._session = make_session(given)
        self._empty = dict(np.load(given["feeds"]["empty caches"]))
        self._present: dict[str, str] = given["present_of"]
        self._kinds = {v.name: v.type for v in self._session.get_inputs()}
        self._prompt, self._batch = given["prompt"], given["batch"]

    def turn(self, work: str, warm: int, runs: int) -> Seconds:
        """As `GenaiDecoder.turn`; which token is fed does not change what it costs."""
        self._caches, self._past = self._empty, 0
        first = timed(lambda: self._step(self._prompt), 0, 1)
        return {FIRST: first, DECODE: timed(lambda: self._step([SEED_TOKEN]), warm, runs)}

    def _step(self, ids: list[int]) -> None:
        known = {
            "input_ids": np.tile(ids, (self._batch, 1)),
            "attention_mask": np.ones((self._batch, self._past + len(ids))),
            "position_ids": np.tile(np.arange(self._past, self._past + len(ids)), (self._batch, 1)),
        }
        feeds = {
            name: known[name].astype(np.int32 if "int32" in kind else np.int64)
            for name, kind in self._kinds.items()
            if name in known
        }
        names = [value.name for value in self._session.get_outputs()]
        outputs = dict(zip(names, self._session.run(names, {**feeds, **self._caches}), strict=True))
        self._caches = {past: outputs[present] for past, present in self._present.items()}
        self._past += len(ids)


Engine = Passes | GenaiDecoder | OnnxDecoder
ENGINES: dict[str, type[Engine]] = {
    "passes": Passes,
    "genai": GenaiDecoder,
    "onnx decoder": OnnxDecoder,
}


def main() -> None:
    """Loads what the first line describes and serves the lines after it."""
    given = json.loads(sys.stdin.readline())
    memory = _memory_module()
    # What an application has imported before it makes a session is not the session's.
    importlib.import_module("onnxruntime_genai" if given["engine"] == "genai" else "onnxruntime")
    gc.collect()
    peak = memory.PeakRss()
    begin = time.perf_counter()
    engine: Engine = ENGINES[given["engine"]](given)
    _say({"load_s": time.perf_counter() - begin, "engine": engine.engine})
    weights = Path(given["model"] + ".data")
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "touch":
            _say({"touched_bytes": memory.touch_mappings(weights)})
        elif asked["do"] == "memory":
            _say({"peak_bytes": peak.bytes() - peak.before_bytes, "method": peak.method})
        else:
            _say(engine.turn(asked["work"], asked["warm"], asked["runs"]))


def _say(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
