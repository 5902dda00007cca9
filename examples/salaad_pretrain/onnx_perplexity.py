"""The perplexity of an artifact in onnxruntime, and text from it in onnxruntime-genai."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import slc.ops
from examples.salaad_pretrain.corpus import Ids

BATCH = 8


def perplexity(artifact: Path, sequences: Ids, threads: int = 0) -> float:
    """The exp of the mean negative log-likelihood; a sequence's first token has none.

    Args:
      artifact: a folder with a model.onnx made by slc or by onnxruntime-genai's builder.
      sequences: i64 [sequences, tokens].
      threads: of onnxruntime; 0 leaves it to it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    slc.ops.register(options)
    session = ort.InferenceSession(artifact / "model.onnx", options)
    decoder = json.loads((artifact / "genai_config.json").read_text("utf-8"))["model"]["decoder"]
    cache = decoder["num_key_value_heads"], decoder["head_size"]
    total, count = 0.0, 0
    for start in range(0, len(sequences), BATCH):
        ids = sequences[start : start + BATCH]
        logits = session.run(["logits"], _feeds(session, cache, ids))[0]
        total += negative_log_likelihood(logits[:, :-1], ids[:, 1:])
        count += ids[:, 1:].size
    return math.exp(total / count)


def with_all_logits(artifact: Path) -> Path:
    """A copy of an artifact that gives every token's logits, not just the last one's; for scores.

    Its data is a link, it lies beside the artifact, and it replaces one that was there before.
    """
    import onnx

    folder = artifact.with_name(f"{artifact.name}-all-logits")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(artifact, folder, ignore=shutil.ignore_patterns("*.data"))
    for data in artifact.glob("*.data"):
        os.link(data, folder / data.name)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    (select,) = [node for node in model.graph.node if node.name.endswith("/last/hidden")]
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == select.output[0]:
                node.input[place] = select.input[0]
    for output in model.graph.output:
        if output.name == "logits":
            output.type.tensor_type.shape.dim[1].dim_param = "sequence_length"
    del model.graph.value_info[:]
    onnx.save(model, folder / "model.onnx")
    return folder


def text(artifact: Path, prompt: str, tokens: int) -> str:
    """Greedy text after `prompt`, by onnxruntime-genai."""
    import onnxruntime_genai as og

    model = og.Model(str(artifact))
    tokenizer = og.Tokenizer(model)
    ids = tokenizer.encode(prompt)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(ids) + tokens, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    return str(tokenizer.decode(generator.get_sequence(0)))


def _feeds(session: Any, cache: tuple[int, int], ids: Ids) -> dict[str, Any]:
    """The whole sequences at once, behind empty caches of (heads, head size)."""
    heads, size = cache
    known = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.tile(np.arange(ids.shape[1]), (len(ids), 1)),
    }
    empty = np.zeros((len(ids), heads, 0, size), np.float32)
    return {value.name: known.get(value.name, empty) for value in session.get_inputs()}


def negative_log_likelihood(logits: Any, targets: Ids) -> float:
    """Summed over all targets, in f64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(wide, targets[..., None], axis=-1)[..., 0]
    return float((np.log(np.exp(wide).sum(axis=-1)) - chosen).sum())
