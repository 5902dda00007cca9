"""Artifacts that the tests of `slc bench` share; each is made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from examples.ci_latency.__main__ import make_model
from slc.compiler import export


@pytest.fixture(scope="session")
def mlp_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three Linears [96, 96] in i8 at density 0.5, no adapter."""
    folder = tmp_path_factory.mktemp("bench")
    model = make_model(folder / "mlp.onnx", width=96, layers=3)
    return export(model, folder / "base", density=0.5, rank=0, values="i8", accuracy_level=1)


@pytest.fixture
def mlp_copy(mlp_base: Path, tmp_path: Path) -> Path:
    """The same bytes in another folder."""
    return shutil.copytree(mlp_base, tmp_path / "copy")


@pytest.fixture(scope="session")
def tiny_llama_i8(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of two layers, i8 at density 0.5, whose cache holds 32 tokens."""
    out = tmp_path_factory.mktemp("bench") / "llama"
    return export(tiny_llama, out, density=0.5, rank=4, values="i8", context=32)
