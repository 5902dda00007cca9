"""Blocks matched as wholes: closer to the dense model, on the same support and in the same rank."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slc.compiler import api
from slc.compiler.errors import ModelError, RequestError
from slc.compiler.frontends import load, weight_array
from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear
from slc.compiler.structure import block_matching, hessian
from slc.compiler.structure.block_matching import Matcher, match_blocks
from slc.compiler.structure.calibration import activation_moments
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decompose import decompose
from slc.compiler.structure.stored_grid import IntegerType
from slc.compiler.structure.transformer_blocks import (
    find_blocks,
    forward,
    is_conv1d,
    watched,
)

TEXTS = [f"def function_{i}(x, y): return x ** {i} + y[{i * 7}:]" for i in range(40)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Source:
    return load(tiny_llama, workdir=tmp_path_factory.mktemp("llama-graph"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Source:
    """A BERT of two layers with random weights and a real tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    tokenizer = AutoTokenizer.from_pretrained(minilm, local_files_only=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(folder, workdir=tmp_path_factory.mktemp("bert-graph"))


def decomposed(
    source: Source, path: Path, text: Path, *, density: float = 0.3, rank: int = 3,
    value_type: IntegerType | None = None,
) -> StructuredCheckpoint:  # fmt: skip
    return decompose(
        source, path, method="hessian", density=density, rank=rank, iterations=20, jobs=1,
        moments=lambda some: activation_moments(source, text, some), value_type=value_type,
    )  # fmt: skip


def distance(source: Source, checkpoint: StructuredCheckpoint, text: Path) -> float:
    """Of the last block's output from the dense model's: mean square over mean square."""
    matcher = Matcher(source, text)
    matcher.run(checkpoint, 0)  # no step: every block as the checkpoint has it
    error = sum(float(((b.ours - b.dense) * b.mask).square().sum()) for b in matcher.batches)
    return error / sum(float((b.dense * b.mask).square().sum()) for b in matcher.batches)


def tiny(kind: str) -> Any:
    """A model with random weights whose blocks are called in a way of their own."""
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    size = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "vocab_size": 99}
    options: dict[str, dict[str, Any]] = {
        "mpnet": size | {"intermediate_size": 48},  # a position bias by position
        "modernbert": size | {"intermediate_size": 48, "pad_token_id": 0, "cls_token_id": 1,
                              "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
        "t5": {"d_model": 32, "d_ff": 48, "d_kv": 16, "num_layers": 3, "num_heads": 2,
               "vocab_size": 99},  # the first block's bias is handed on
        "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 99},
        "llama": size | {"intermediate_size": 48},
        "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 2, "vocab_size": 99},
        "albert": size | {"intermediate_size": 48, "embedding_size": 16},
    }  # fmt: skip
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**options[kind])
    model = AutoModel.from_config(config).eval()
    return model.get_encoder() if kind == "t5" else model


@pytest.mark.parametrize("kind", ["mpnet", "modernbert", "t5", "gpt2", "llama", "distilbert"])
def test_blocks_one_by_one_are_the_model(kind: str) -> None:
    model = tiny(kind)
    model.config.use_cache = False
    ids = torch.arange(1, 41).reshape(2, 20)
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    blocks = find_blocks(model)
    outputs: list[Any] = []
    for _, block in blocks:
        block.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    with torch.no_grad():
        model(**inputs)
    wanted = [out[0] if isinstance(out, tuple) else out for out in outputs]
    hidden, calls = watched(model, blocks, inputs)
    assert len(calls) == len(blocks) == len(wanted)
    with torch.no_grad():
        for (_, block), call, goal in zip(blocks, calls, wanted, strict=True):
            hidden = forward(block, {}, hidden, call)
            torch.testing.assert_close(hidden, goal)


def test_a_block_that_is_called_again_and_again_is_refused() -> None:
    model = tiny("albert")
    blocks = find_blocks(model)
    with pytest.raises(ModelError, match="not called once each"):
        watched(model, blocks, {"input_ids": torch.arange(1, 9)[None]})


def test_a_conv1d_takes_its_weight_transposed() -> None:
    block = find_blocks(tiny("gpt2"))[0][1]
    assert is_conv1d(block, "mlp.c_fc.weight")
    W = block.mlp.c_fc.weight.detach().T.clone()
    N, K = W.shape
    linear = Linear("fc", N, K, "w", False, ("n",))
    part = block_matching._Part(
        linear, torch.ones(N, K, dtype=torch.bool), W, torch.zeros(N, 0), torch.zeros(0, K), True,
        [("mlp.c_fc.weight", 0, N)], True,
    )  # fmt: skip
    torch.testing.assert_close(part.weights()["mlp.c_fc.weight"], block.mlp.c_fc.weight.detach())


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_matching_brings_the_model_closer(
    tmp_path: Path, text: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    source: Source = request.getfixturevalue(kind)
    first = decomposed(source, tmp_path / "first.slr", text)
    seen: list[tuple[int, int]] = []
    matched = match_blocks(
        source, first, tmp_path / "matched.slr", text, steps=60,
        progress=lambda done, total, _: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(i, 120) for i in range(1, 121)]
    assert matched.meta.settings["match_blocks"] == 60
    assert matched.names == first.names
    # Nothing done gives 1; 0.64 and less is reached.
    assert distance(source, matched, text) < 0.8 * distance(source, first, text)
    for name in first.names:
        old, new = first.entry(name), matched.entry(name)
        assert (new.nnz, new.rank, new.order) == (old.nnz, old.rank, old.order)
        (old_index, old_value), (index, value) = first.sparse(name), matched.sparse(name)
        np.testing.assert_array_equal(np.sort(index), np.sort(old_index))
        inside = any(f".{i}." in rows.parameter for i in (0, 1) for rows in old.linear.sources)
        # A Linear in no block (lm_head) stays as it was.
        assert inside != np.array_equal(value, old_value)
        # Most important first, in the calibration's metric.
        weight = np.abs(value) * first.scale(name)[index % old.K]
        assert (weight[:-1] >= weight[1:]).all()
        W, scale = weight_array(source, new.linear), matched.scale(name)
        wanted = float(np.square((W - matched.dense(name)) * scale, dtype=np.float64).sum())
        # f32 sums of at most 160 × 64 products.
        assert matched.error(name) == pytest.approx(wanted, rel=1e-3)


def test_the_same_twice_and_rounded_values_stay_on_their_grid(
    tmp_path: Path, text: Path, bert: Source
) -> None:
    first = decomposed(bert, tmp_path / "first.slr", text, value_type="i4")
    matched, again = (
        match_blocks(bert, first, tmp_path / f"{i}.slr", text, steps=30) for i in range(2)
    )
    assert distance(bert, matched, text) < distance(bert, first, text)
    for name in first.names:
        np.testing.assert_array_equal(matched.dense(name), again.dense(name))
        old, new = first.grid(name), matched.grid(name)
        np.testing.assert_array_equal(old.scales, new.scales)
        np.testing.assert_array_equal(old.codebook, new.codebook)
        for a, b in zip(first.sparse(name), matched.sparse(name), strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(first.adapter(name)[0], matched.adapter(name)[0])


@pytest.mark.parametrize(("density", "rank"), [(0.0, 0), (0.0, 2), (0.4, 0), (1.0, 1)])
def test_parts_that_are_not_there(
    tmp_path: Path, text: Path, bert: Source, density: float, rank: int
) -> None:
    first = decomposed(bert, tmp_path / "first.slr", text, density=density, rank=rank)
    made = match_blocks(bert, first, tmp_path / "m.slr", text, steps=2)
    for name in made.names:
        assert made.entry(name).rank <= first.entry(name).rank  # an L of zeros has none
        assert np.isfinite(made.dense(name)).all()


def test_an_exported_model_is_matched(tmp_path: Path, text: Path, tiny_llama: Path) -> None:
    kept = tmp_path / "kept.slr"
    api.export(
        tiny_llama, tmp_path / "out", density=0.3, rank=3, calibrate=text, iterations=5,
        match_blocks=2, save_structured=kept,
    )  # fmt: skip
    matched = StructuredCheckpoint(kept)
    assert matched.meta.settings["match_blocks"] == 2
    first = api.structure(
        tiny_llama, tmp_path / "first.slr", density=0.3, rank=3, calibrate=text, iterations=5
    )
    name = matched.names[0]
    assert not np.array_equal(matched.dense(name), first.dense(name))
    shutil.rmtree(first.path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.slr", "out"]


def test_a_run_that_is_stopped_while_matching_goes_on(
    tmp_path: Path, text: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"density": 0.3, "rank": 3, "calibrate": text, "iterations": 5, "match_blocks": 2}

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(block_matching, "match_blocks", stop)
    with pytest.raises(KeyboardInterrupt):
        api.structure(tiny_llama, tmp_path / "m.slr", **options)
    assert [p.name for p in tmp_path.iterdir()] == [".m.slr.unmatched.slr"]
    monkeypatch.undo()
    monkeypatch.setattr(hessian, "decompose_matrix", stop)  # all of it is there already
    made = api.structure(tiny_llama, tmp_path / "m.slr", **options)
    assert made.meta.settings["match_blocks"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["m.slr"]


def test_what_can_not_be_matched(
    tmp_path: Path, text: Path, bert: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = decomposed(bert, tmp_path / "first.slr", text)
    out = tmp_path / "m.slr"
    with pytest.raises(RequestError, match="wanted a Hugging Face folder with safetensors"):
        match_blocks(bert, first, out, text.with_suffix(".npz"), steps=2)
    file = dataclasses.replace(bert, hf_folder=None)
    with pytest.raises(RequestError, match="wanted a Hugging Face folder with safetensors"):
        match_blocks(file, first, out, text, steps=2)
    nan = torch.tensor(np.nan, requires_grad=True)
    monkeypatch.setattr(block_matching, "_loss", lambda *_: nan)
    with pytest.raises(ModelError, match="not finite after 1 step"):
        match_blocks(bert, first, out, text, steps=2)
    monkeypatch.undo()
    elsewhere = dataclasses.replace(
        bert, linears=[dataclasses.replace(linear, sources=()) for linear in bert.linears]
    )
    with pytest.raises(RequestError, match="safetensors"):
        match_blocks(elsewhere, first, out, text, steps=2)
    monkeypatch.setattr(block_matching, "own_name", lambda *_: None)
    with pytest.raises(ModelError, match=r"no matrix of 'first\.slr' is a"):
        match_blocks(bert, first, out, text, steps=2)
    monkeypatch.undo()
    monkeypatch.setattr(block_matching, "load_model", lambda _: torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match="no list of blocks"):
        match_blocks(bert, first, out, text, steps=2)
    assert not out.exists()
