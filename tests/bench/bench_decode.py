"""A 409 M-parameter Llama end to end: export time, bytes, session memory, decode and prefill speed.

    python tests/bench/bench_decode.py [--values i4,i8,f16] [--folder DIR] [--json FILE]
    python tests/bench/bench_decode.py --engine NAME=FOLDER … [--rounds N] [--json FILE]

The model has random weights (hidden 960, 32 layers, 15 heads, 5 kv heads, vocabulary 49152).
Beside the slc artifacts run what onnxruntime-genai's builder makes of the same folder in fp32 and
int4 and, where llama_cpp and gguf are installed, llama.cpp's F16, Q8_0 and Q4_0. With --engine,
folders of onnxruntime-genai that are there already are compared instead, of any one vocabulary.
Each engine has a process of its own; they generate in turns, and the others sleep meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from decode_engines import Engine, make
from machine import describe
from native_kernels import build
from timing import SPIN_SECONDS, fastest_tenth

PROMPT_TOKENS = 128
NEW_TOKENS = 32
SHAPE = {
    "hidden": 960, "layers": 32, "heads": 15, "kv-heads": 5, "intermediate": 2560,
    "vocabulary": 49152, "steps": 0,
}  # fmt: skip


def main() -> None:
    """Makes what is not there yet, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", default="i4,i8,f16", help="of the slc artifacts")
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=SHAPE["layers"], help="fewer for a trial")
    parser.add_argument("--vocabulary", type=int, default=SHAPE["vocabulary"])
    parser.add_argument("--folder", type=Path, help="keep the models here")
    parser.add_argument("--engine", action="append", metavar="NAME=FOLDER", default=[])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.engine:
        compare(arguments.engine, arguments.rounds, arguments.json)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        build(folder / "build", "slc_ops")
        os.environ.setdefault("SLC_OPS_LIBRARY", str(folder / "build" / "libslc_ops.so"))
        shape = SHAPE | {"layers": arguments.layers, "vocabulary": arguments.vocabulary}
        values = arguments.values.split(",")
        engines, exports = make(folder, shape, values, arguments.density, arguments.rank)
        measure(engines, arguments.rounds, shape["vocabulary"])
    print_table(engines)
    print(json.dumps(exports, indent=1))
    if arguments.json:
        document = {
            "machine": describe(threads="as each runtime chooses"),
            "model": shape,
            "export": exports,
            "engines": {e.name: _row(e) for e in engines},
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def compare(named: list[str], rounds: int, path: Path | None) -> None:
    """Measures folders that are there already."""
    pairs = [text.partition("=") for text in named]
    engines = [Engine(name, "genai", Path(folder).resolve()) for name, _, folder in pairs]
    config = json.loads((engines[0].path / "genai_config.json").read_text(encoding="utf-8"))
    measure(engines, rounds, config["model"]["vocab_size"])
    print_table(engines)
    if path is not None:
        rows = {engine.name: _row(engine) for engine in engines}
        document = {"machine": describe(threads="as each runtime chooses"), "engines": rows}
        path.write_text(json.dumps(document, indent=1) + "\n")


def measure(engines: list[Engine], rounds: int, vocabulary: int) -> None:
    """One worker for each engine, told to generate one after another, `rounds` times and once."""
    workers = [_start(engine, vocabulary) for engine in engines]
    for turn in range(rounds + 1):
        for engine, worker in zip(engines, workers, strict=True):
            time.sleep(SPIN_SECONDS)  # until the threads of the one before sleep
            speeds = _ask(worker)
            if turn:  # the first makes the engine touch its weights
                engine.prefill_tokens_per_s.append(speeds["prefill_tokens_per_s"])
                engine.decode_tokens_per_s.append(speeds["decode_tokens_per_s"])
                engine.token_us += speeds["token_us"]
    for engine, worker in zip(engines, workers, strict=True):
        said, _ = worker.communicate()
        engine.session_rss_bytes = json.loads(said)["session_rss_bytes"]


def _start(engine: Engine, vocabulary: int) -> subprocess.Popen[str]:
    """The engine's worker, its model loaded."""
    counts = (str(count) for count in (PROMPT_TOKENS, NEW_TOKENS, vocabulary))
    command = [sys.executable, str(HERE / "decode_worker.py"), engine.kind, str(engine.path)]
    worker = subprocess.Popen(
        [*command, *counts], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _answer(worker)
    return worker


def _ask(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    return _answer(worker)


def _answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"{worker.args!r} ended: {worker.wait()}")
    return dict(json.loads(line))


def _best_tenth(rates: list[float]) -> float:
    return -fastest_tenth([-rate for rate in rates])


def _row(engine: Engine) -> dict[str, Any]:
    """The engine for JSON."""
    row = asdict(engine) | {"path": engine.path.name}
    del row["token_us"]
    row["session_rss_over_artifact"] = engine.session_rss_bytes / engine.artifact_bytes
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s"):
        row[f"{name}_median"] = float(np.median(row[name]))
        row[f"{name}_best_tenth"] = _best_tenth(row[name])
    return row


def print_table(engines: list[Engine]) -> None:
    """Median and best tenth of the rounds."""
    print(
        f"{'engine':<16}{'weights MB':>11}{'session MB':>11}{'x artifact':>11}"
        f"{'decode tok/s':>20}{'prefill tok/s':>20}   (median / best tenth)"
    )
    for engine in engines:
        decode, prefill = engine.decode_tokens_per_s, engine.prefill_tokens_per_s
        print(
            f"{engine.name:<16}{engine.weight_bytes / 1e6:>11.1f}"
            f"{engine.session_rss_bytes / 1e6:>11.1f}"
            f"{engine.session_rss_bytes / engine.artifact_bytes:>11.2f}"
            f"{np.median(decode):>11.1f} / {_best_tenth(decode):<6.1f}"
            f"{np.median(prefill):>11.1f} / {_best_tenth(prefill):<6.1f}"
        )


if __name__ == "__main__":
    main()
