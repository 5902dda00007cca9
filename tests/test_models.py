"""Whole models through export and verify: trained MiniLM, decoders in genai, architectures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from genai_process import greedy

import slc.ops
from examples.docstrings import split
from examples.embedding import SentenceEncoder
from slc.compiler import export, verify
from slc.compiler.artifact.artifact import Artifact

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def embedded(minilm: Path, tmp_path_factory: Any) -> dict[str, np.ndarray]:
    """128 held-out docstrings embedded by the dense model and by what each method makes of it."""
    folder = tmp_path_factory.mktemp("minilm")
    calibration, held_out = split(held_out=128)
    text = folder / "calibration.txt"
    text.write_text("\n".join(calibration), encoding="utf-8")
    half = {"density": 0.5, "rank": 32}
    settings = {
        "dense": {"values": "dense"},
        "oats": {**half, "values": "f16", "method": "oats", "calibrate": text, "iterations": 10},
        "hessian": {**half, "values": "f16", "calibrate": text, "iterations": 30},
        "hessian i4": {**half, "values": "i4", "calibrate": text, "iterations": 30},
        "salr": {**half, "values": "f16"},
        "full": {"density": 1.0, "rank": 0, "values": "f16"},
    }
    vectors = {}
    for name, options in settings.items():
        out = export(minilm, folder / name, **options)
        session_options = ort.SessionOptions()
        slc.ops.register(session_options)
        session = ort.InferenceSession(out / "model.onnx", session_options)
        vectors[name] = SentenceEncoder(session, minilm / "tokenizer.json")(held_out)
    return vectors


def test_minilm_agreement(embedded: dict[str, np.ndarray]) -> None:
    def cosine(name: str) -> float:
        return float((embedded[name] * embedded["dense"]).sum(axis=1).mean())

    assert cosine("oats") >= 0.93
    assert cosine("salr") >= 0.83
    # 0.974 measured after 60 of the 600 iterations (0.987); 0.937 is what oats reaches after 10.
    assert cosine("hessian") >= 0.97
    assert cosine("hessian") > cosine("hessian i4") >= 0.95
    assert cosine("full") >= 0.999


def test_dense_is_the_original(minilm: Path, embedded: dict[str, np.ndarray]) -> None:
    """Against torch, so that no mistake of our export can hide in both sides."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = split()[1][:16]
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    model = AutoModel.from_pretrained(minilm).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    pooled = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    assert (pooled * embedded["dense"][:16]).sum(axis=1).min() >= 1 - 1e-5


def test_decoder_in_genai_equals_dense(tiny_llama: Path, tmp_path: Path) -> None:
    out = export(tiny_llama, tmp_path / "out", density=0.5, rank=8, values="i8", context=64)
    report = verify(out, memory=False)
    assert report.passed
    assert report.tokens is not None
    assert report.tokens.equal == len(report.tokens.tokens)
    moved = tmp_path / "elsewhere"
    shutil.move(out, moved)  # nothing in the folder may know where it was made
    assert len(greedy(moved, (5, 77, 23, 41), 40)) == 40


def test_checkpoint_slices_to_any_lower_density(tiny_llama: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "llama.slr"
    direct = export(tiny_llama, tmp_path / "a", density=0.6, rank=8, save_structured=checkpoint)
    sliced = export(checkpoint, tmp_path / "b", density=0.6, rank=8)
    data = (direct / "model.onnx.data").read_bytes()
    assert (sliced / "model.onnx.data").read_bytes() == data
    smaller = export(checkpoint, tmp_path / "c", density=0.3, rank=4, values="i8")
    assert (smaller / "model.onnx.data").stat().st_size < len(data)
    assert verify(smaller, memory=False).passed


def test_torch_module_with_ragged_shapes(tmp_path: Path) -> None:
    import torch

    from slc.compiler.api import export_torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv1d(3, 7, 3), torch.nn.Flatten(), torch.nn.Linear(7 * 143, 773),
        torch.nn.GELU(), torch.nn.Linear(773, 1000, bias=False),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 145)
    out = export_torch(
        module, (x,), tmp_path / "out", density=1.0, rank=0, input_names=["x"], output_names=["y"]
    )
    assert verify(out, memory=False).passed
    got = Artifact.open(out).session().run(None, {"x": x.numpy()})[0]
    wanted = module(x).detach().numpy()
    # f16 keeps 11 bits: relative error 2⁻¹¹ per weight, random signs over the 773 and 1001 terms.
    assert np.abs(got - wanted).max() <= 2.0**-11 * np.abs(wanted).max() * 4
