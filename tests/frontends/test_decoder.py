"""Decoders through onnxruntime-genai's builder: sources by content, numerics against torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file

from slc.compiler.artifact.writer import write_model
from slc.compiler.frontends import load, weight_array
from slc.compiler.frontends.source import Source

# fp32 on both sides, sums of at most 512 terms, logits below 2: 2·512·2⁻²⁴ = 6e-5.
ATOL = 6e-5


def logits(source: Source, ids: np.ndarray, folder: Path) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    write_model(source.graph, folder)
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    head_size = source.genai_config["model"]["decoder"]["head_size"]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for value in session.get_inputs():
        if value.name.startswith("past"):
            shape = (len(ids), value.shape[1], 0, head_size)
            feeds[value.name] = np.zeros(shape, np.float32)
    return session.run(["logits"], feeds)[0]


def test_llama(llama_source: Source, tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    assert llama_source.kind == "decoder"
    assert llama_source.refusals == []
    assert {"genai_config.json", "tokenizer.json"} <= set(llama_source.assets)
    assert llama_source.hf_folder == tiny_llama
    assert "+" not in (llama_source.graph.producer_version or "")  # a commit: not ours to record
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama).float().eval()
    ids = np.random.default_rng(0).integers(0, 500, (2, 9))
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits(llama_source, ids, tmp_path), wanted, atol=ATOL, rtol=0)


def test_fused_qkv_is_three_sources(llama_source: Source, tiny_llama: Path) -> None:
    state = load_file(tiny_llama / "model.safetensors")
    fused = [linear for linear in llama_source.linears if "qkv" in linear.name]
    assert len(fused) == 2
    for index, linear in enumerate(fused):
        prefix = f"model.layers.{index}.self_attn."
        names = [prefix + f"{p}_proj.weight" for p in "qkv"]
        assert [rows.parameter for rows in linear.sources] == names
        W = weight_array(llama_source, linear)
        for rows in linear.sources:
            np.testing.assert_array_equal(W[rows.start : rows.stop], state[rows.parameter])


def test_every_weight_is_named_after_its_parameter(llama_source: Source) -> None:
    kinds = [linear.kind for linear in llama_source.linears]
    assert kinds.count("embedding") == kinds.count("lm_head") == 1
    for linear in llama_source.linears:
        assert sum(rows.stop - rows.start for rows in linear.sources) == linear.N
        if len(linear.sources) == 1:
            assert linear.sources[0].parameter == linear.name + ".weight"


def test_biased_qkv_and_tied_embeddings(tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=512,
        hidden_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=112,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = transformers.Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "qwen")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_llama / name, tmp_path / "qwen" / name)
    (tmp_path / "work").mkdir()
    source = load(tmp_path / "qwen", workdir=tmp_path / "work")
    table, head = (next(n for n in source.linears if n.kind == k) for k in ("embedding", "lm_head"))
    assert (table.name, head.name) == ("model.embed_tokens", "lm_head")
    assert table.weight == head.weight
    assert (table.N, table.K) == (head.N, head.K) == (512, 96)
    embedding = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(weight_array(source, table), embedding)
    np.testing.assert_array_equal(weight_array(source, head), embedding)
    ids = np.random.default_rng(0).integers(0, 500, (1, 7))
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits(source, ids, tmp_path / "whole"), wanted, atol=ATOL, rtol=0)


def test_a_genai_folder_is_a_decoder(llama_source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "genai"
    folder.mkdir()
    write_model(llama_source.graph, folder)
    for name, path in llama_source.assets.items():
        shutil.copy(path, folder / name)
    source = load(folder, workdir=tmp_path)
    assert source.kind == "decoder"
    assert source.genai_config == llama_source.genai_config
    assert [n.weight for n in source.linears] == [n.weight for n in llama_source.linears]
    assert [n.kind for n in source.linears] == [n.kind for n in llama_source.linears]
