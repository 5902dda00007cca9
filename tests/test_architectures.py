"""Families that nothing in slc is written for: tiny random models through export and verify."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genai_process import greedy

from slc.compiler import export, verify

pytestmark = pytest.mark.slow

SMALL = {"hidden_size": 72, "intermediate_size": 136, "num_hidden_layers": 2}
TEXT = {**SMALL, "num_attention_heads": 3, "vocab_size": 400}
ENCODERS: dict[str, dict[str, Any]] = {
    # embeddings narrower than the hidden size, projected by a Linear of their own
    "Electra": {**TEXT, "embedding_size": 40},
    # relative position buckets
    "MPNet": TEXT,
    # pictures instead of tokens: a convolution, a class token
    "ViT": {**SMALL, "num_attention_heads": 3, "image_size": 32, "patch_size": 8},
}
DECODERS: dict[str, dict[str, Any]] = {
    # biased QKV, embeddings tied to the head, 48 columns a head
    "Qwen2": {
        "hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 2,
        "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    # heads of 48 columns whose sum is not the hidden size, multipliers on every branch
    "Granite": {
        "hidden_size": 96, "intermediate_size": 136, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 48, "embedding_multiplier": 2.0,
        "logits_scaling": 1.5, "residual_multiplier": 0.7,
    },
    # one fused gate_up projection and one fused QKV in the checkpoint
    "Phi3": {
        "hidden_size": 96, "intermediate_size": 136, "num_attention_heads": 2,
        "num_key_value_heads": 2, "pad_token_id": 0, "original_max_position_embeddings": 256,
    },
}  # fmt: skip


def save(name: str, head: str, options: dict[str, Any], folder: Path) -> Path:
    """A Hugging Face folder of transformers' `name` with random weights."""
    import torch
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**options)
    model = getattr(transformers, f"{name}{head}")(config)
    for bias in (p for n, p in model.named_parameters() if n.endswith("bias")):
        torch.nn.init.normal_(bias, std=0.1)  # zeros would hide a bias that is lost
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder(name: str, tmp_path: Path) -> None:
    folder = save(name, "Model", ENCODERS[name], tmp_path / name)
    check(folder, tmp_path)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name: str, tiny_llama: Path, tmp_path: Path) -> None:
    options = {
        "vocab_size": 512, "num_hidden_layers": 2, "max_position_embeddings": 256,
        "bos_token_id": 0, "eos_token_id": 1, **DECODERS[name],
    }  # fmt: skip
    folder = save(name, "ForCausalLM", options, tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_llama / file, folder)
    out = check(folder, tmp_path)
    assert len(greedy(out, (5, 77, 23, 41), 16)) == 16


def check(folder: Path, tmp_path: Path) -> Path:
    """Verified at density 0.5; at density 1 the outputs are the original's within f16 and int8."""
    out = export(folder, tmp_path / "out", density=0.5, rank=8, values="i8")
    report = verify(out, memory=False)
    assert report.passed
    linears = json.loads((out / "manifest.json").read_text())["linears"]
    assert sum(entry["choice"]["encoding"] == "bitmap" for entry in linears) >= 8
    full = export(folder, tmp_path / "full", density=1.0, rank=0, values="f16")
    distances = verify(full, reference=folder, memory=False).distances
    # f16 weights: 2⁻¹² a weight; embeddings and head in 8 bits: up to 1/254 of a row's largest, a
    # third of a percent of a typical weight's size. Two layers of that leave the angle under 2 %.
    assert min(d.cosine for d in distances if d.against == "original") >= np.cos(0.02)
    return out
