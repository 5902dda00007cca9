"""How much an output suffers, against the same model run by torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from slc.compiler.frontends import load, weight_array
from slc.compiler.linear import Linear
from slc.compiler.structure.sensitivity import perturbed_model

TEXTS = ["a cat sat on the mat", "the compiler writes code for a small board", "rain"]
# Outputs of torch and of onnxruntime differ by some 1e-6 of their length (f32), the errors of this
# file are at least 1e-2 of it: their squares agree to some 2e-4.
RTOL = 1e-3


def _noisy(W: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(3).standard_normal(W.shape)
    return (W + 0.3 * np.std(W) * noise).astype(np.float32)


def _set(model: torch.nn.Module, linear: Linear, W: np.ndarray) -> None:
    (source,) = linear.sources
    model.get_parameter(source.parameter).data = torch.from_numpy(W)


def test_an_encoder_is_judged_by_its_tokens(minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    source = load(minilm, workdir=tmp_path / "work")
    linear = next(li for li in source.linears if "query" in li.name)
    W = _noisy(weight_array(source, linear))
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in TEXTS))
    with perturbed_model(source, text, [linear]) as perturbed:
        got = perturbed.error(linear, W)

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()

    def states() -> list[np.ndarray]:
        with torch.no_grad():
            outputs = [model(**tokenizer(one, return_tensors="pt")) for one in TEXTS]
        return [output.last_hidden_state[0].numpy().astype(np.float64) for output in outputs]

    exact = states()
    _set(model, linear, W)
    ratios = [np.square(b - a).sum() / np.square(a).sum()
              for a, b in zip(exact, states(), strict=True)]  # fmt: skip
    wanted = float(np.average(ratios, weights=[len(a) for a in exact]))
    assert wanted > 1e-4
    assert got == pytest.approx(wanted, rel=RTOL)


def test_a_classifier_is_judged_by_its_classes(tmp_path: Path) -> None:
    """Not by the states that its head reads: an error in the head would be none."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_labels=16, max_position_embeddings=32,
    )  # fmt: skip
    made = transformers.BertForSequenceClassification(config).eval()
    made.classifier.weight.data *= 20  # so that classes differ
    folder = tmp_path / "model"
    made.save_pretrained(folder)
    (tmp_path / "work").mkdir()
    source = load(folder, workdir=tmp_path / "work")
    ids = np.random.default_rng(0).integers(0, 64, (4, 7))
    np.savez(tmp_path / "x.npz", input_ids=ids, attention_mask=np.ones_like(ids),
             token_type_ids=np.zeros_like(ids))  # fmt: skip
    linear = next(li for li in source.linears if "classifier" in li.name)
    W = _noisy(weight_array(source, linear))
    with perturbed_model(source, tmp_path / "x.npz", [linear]) as perturbed:
        got = perturbed.error(linear, W)
    with torch.no_grad():
        exact = torch.log_softmax(made(torch.from_numpy(ids)).logits, dim=-1)
        _set(made, linear, W)
        now = torch.log_softmax(made(torch.from_numpy(ids)).logits, dim=-1)
    wanted = float((exact.exp() * (exact - now)).sum(-1).mean())
    assert wanted > 1e-3
    assert got == pytest.approx(wanted, rel=RTOL)
