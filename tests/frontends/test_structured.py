"""An `.slr` folder loads as the model it stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from slc.compiler.errors import ModelError
from slc.compiler.frontends import load, weight_array
from slc.compiler.frontends.source import Source
from slc.compiler.structure.decompose import decompose


@pytest.fixture
def folder(llama_source: Source, tmp_path: Path) -> Path:
    decompose(llama_source, tmp_path / "m.slr", method="salr", density=0.5, rank=4)
    return tmp_path / "m.slr"


def test_round_trip(llama_source: Source, folder: Path, tmp_path: Path) -> None:
    source = load(folder, workdir=tmp_path)
    assert source.kind == "decoder"
    assert source.linears == llama_source.linears
    assert source.genai_config == llama_source.genai_config
    assert set(source.assets) == set(llama_source.assets)
    assert source.hf_folder is not None
    assert (source.hf_folder / "tokenizer.json").is_file()
    names = [v.name for v in llama_source.graph.graph.inputs]
    assert [v.name for v in source.graph.graph.inputs] == names
    assert source.checkpoint is not None
    assert source.checkpoint.names
    for linear in source.linears:
        W = weight_array(source, linear)
        if linear.name in source.checkpoint.names:
            np.testing.assert_array_equal(W, source.checkpoint.dense(linear.name))
            assert isinstance(
                source.graph.graph.initializers[linear.weight].const_value, ir.LazyTensor
            )
        else:
            np.testing.assert_array_equal(W, weight_array(llama_source, linear))


def test_the_surrogate_graph_runs(folder: Path, tmp_path: Path) -> None:
    """Saved whole, with S + B·A in the weights' places, the graph is one onnxruntime loads."""
    import onnxruntime as ort

    source = load(folder, workdir=tmp_path)
    ir.save(source.graph, tmp_path / "dense.onnx", external_data="dense.data")
    session = ort.InferenceSession(tmp_path / "dense.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "logits"


def test_missing_pieces(folder: Path, tmp_path: Path) -> None:
    file = sorted((folder / "linears").iterdir())[0]
    file.unlink()
    with pytest.raises(ModelError, match="lacks"):
        load(folder, workdir=tmp_path)
