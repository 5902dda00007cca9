"""Encoders: the exported graph equals torch, for other batch sizes and lengths than exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from slc.compiler.errors import ModelError
from slc.compiler.frontends import load, weight_array
from slc.compiler.frontends.source import Source

# Both sides compute in fp32 with K ≤ 128 terms a sum and outputs of layer norms (|y| ≲ 4); a few
# dozen operations each round to 2⁻²⁴ relative: 4·128·2⁻²⁴ = 3e-5 bounds what they may differ by.
ATOL = 3e-5


def run(source: Source, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    assert source.workdir is not None
    session = ort.InferenceSession(
        source.workdir / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def text(batch: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch * 100 + length)
    mask = np.arange(length)[None, :] < rng.integers(1, length + 1, (batch, 1))
    return {
        "input_ids": rng.integers(0, 300, (batch, length)),
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": rng.integers(0, 2, (batch, length)),
    }


def torch_outputs(model: Any, feeds: dict[str, np.ndarray]) -> Any:
    import torch

    with torch.no_grad():
        return model(**{k: torch.from_numpy(v) for k, v in feeds.items()})


@pytest.fixture(scope="module")
def bert(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load(bert_folder, workdir=tmp_path_factory.mktemp("bert-source"))


def test_bert_with_a_head(bert: Source, bert_folder: Path) -> None:
    import transformers

    source = bert
    assert source.kind == "encoder"
    assert source.graph.graph.opset_imports[""] == 18
    model = transformers.BertForSequenceClassification.from_pretrained(bert_folder).eval()
    for batch, length in ((1, 1), (3, 11), (2, 64)):
        feeds = text(batch, length)
        outputs = run(source, feeds)
        assert list(outputs) == ["last_hidden_state", "logits"]
        wanted = torch_outputs(model, feeds).logits.numpy()
        np.testing.assert_allclose(outputs["logits"], wanted, atol=ATOL, rtol=0)
        wanted = torch_outputs(model.bert, feeds).last_hidden_state.numpy()
        np.testing.assert_allclose(outputs["last_hidden_state"], wanted, atol=ATOL, rtol=0)


def test_every_linear_of_bert_has_its_parameter(bert: Source, bert_folder: Path) -> None:
    from safetensors.numpy import load_file

    state = load_file(bert_folder / "model.safetensors")
    small_tables = {"position_embeddings", "token_type_embeddings"}
    matrices = {k for k, v in state.items() if v.ndim == 2 and k.split(".")[-2] not in small_tables}
    assert {linear.name + ".weight" for linear in bert.linears} == matrices
    for linear in bert.linears:
        (rows,) = linear.sources
        np.testing.assert_array_equal(weight_array(bert, linear), state[rows.parameter])


def test_albert_shares_one_layer(tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        vocab_size=300,
        embedding_size=32,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    model = transformers.AlbertModel(config).eval()
    model.save_pretrained(tmp_path / "albert")
    (tmp_path / "work").mkdir()
    source = load(tmp_path / "albert", workdir=tmp_path / "work")
    layers = [linear for linear in source.linears if "albert_layers" in linear.name]
    assert len(layers) == 6
    assert {len(linear.nodes) for linear in layers} == {2}
    feeds = text(2, 9)
    got = run(source, feeds)["last_hidden_state"]
    wanted = torch_outputs(model, feeds).last_hidden_state.numpy()
    np.testing.assert_allclose(got, wanted, atol=ATOL, rtol=0)


def test_vision(tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    model = transformers.ViTModel(config).eval()
    model.save_pretrained(tmp_path / "vit")
    source = load(tmp_path / "vit", workdir=tmp_path)
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    got = run(source, {"pixel_values": images})["last_hidden_state"]
    wanted = torch_outputs(model, {"pixel_values": images}).last_hidden_state.numpy()
    np.testing.assert_allclose(got, wanted, atol=ATOL, rtol=0)


@pytest.mark.slow
def test_a_length_that_torch_fixes_is_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.FunnelConfig(
        vocab_size=300, block_sizes=[1, 1], d_model=64, n_head=4, d_head=16, d_inner=128
    )
    transformers.FunnelBaseModel(config).save_pretrained(tmp_path / "funnel")
    with pytest.raises(ModelError, match="free length"):
        load(tmp_path / "funnel", workdir=tmp_path)
