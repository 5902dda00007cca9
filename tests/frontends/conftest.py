"""Models and Sources that the frontends' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from slc.compiler.frontends import load
from slc.compiler.frontends.source import Source


@pytest.fixture(scope="session")
def llama_source(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The tiny Llama, built once."""
    return load(tiny_llama, workdir=tmp_path_factory.mktemp("llama-source"))


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with a classifier on top, random weights, no tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        num_labels=5,
    )
    folder = tmp_path_factory.mktemp("bert") / "bert"
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder
