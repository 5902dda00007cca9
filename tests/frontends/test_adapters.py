"""PEFT adapters: W + B·A equals PEFT's own merge, and what can't be compiled is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from slc.compiler.errors import ModelError
from slc.compiler.frontends import weight_array
from slc.compiler.frontends.adapters import load_peft
from slc.compiler.frontends.source import Source
from slc.compiler.request import Request
from slc.compiler.request_plan import asked_adapters


def save_adapter(base: Path, folder: Path, **options: Any) -> dict[str, np.ndarray]:
    """Saves a LoRA with random B, and returns the weights that PEFT merges it into."""
    import peft
    import torch
    import transformers

    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_pretrained(base).float()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**options))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    wrapped.save_pretrained(folder)
    merged = wrapped.merge_and_unload()
    return {name: value.detach().numpy() for name, value in merged.state_dict().items()}


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"r": 5, "lora_alpha": 8, "use_rslora": True, "target_modules": "all-linear"},
        {
            "r": 3,
            "lora_alpha": 4,
            "target_modules": ["k_proj", "v_proj", "lm_head"],
            "rank_pattern": {"v_proj": 7},
            "alpha_pattern": {"layers.1.self_attn.v_proj": 2},
        },
    ],
)
def test_against_pefts_merge(
    llama_source: Source, tiny_llama: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    merged = save_adapter(tiny_llama, tmp_path, **options)
    adapter = load_peft(tmp_path, "mine", llama_source)
    changed = 0
    for linear in llama_source.linears:
        W = weight_array(llama_source, linear)
        wanted = np.concatenate([merged[rows.parameter] for rows in linear.sources])
        if linear.name in adapter.modules:
            A, B = adapter.modules[linear.name]
            assert A.dtype == B.dtype == np.float32
            assert (A.shape[1], B.shape[0]) == (linear.K, linear.N)
            W = W + B @ A
            changed += 1
        # B·A has at most 17 terms of about 0.03, each rounded to 2⁻²⁴: 17·0.03·2⁻²³ = 6e-8; W
        # itself (|W| < 0.2) rounds once more on either side.
        np.testing.assert_allclose(W, wanted, atol=1.5e-7, rtol=0)
    assert changed == len(adapter.modules) > 0


def test_modules_of_a_fused_linear_share_its_rank(
    llama_source: Source, tiny_llama: Path, tmp_path: Path
) -> None:
    save_adapter(
        tiny_llama, tmp_path, r=2, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 3}
    )
    adapter = load_peft(tmp_path, "mine", llama_source)
    assert list(adapter.modules) == [n.name for n in llama_source.linears if "qkv" in n.name]
    for linear in llama_source.linears:
        if linear.name not in adapter.modules:
            continue
        A, B = adapter.modules[linear.name]
        q, k, v = linear.sources
        assert A.shape == (5, linear.K)
        assert not B[k.start : k.stop].any()
        assert not B[q.start : q.stop, 2:].any()
        assert not B[v.start : v.stop, :2].any()


@pytest.fixture
def plain(tiny_llama: Path, tmp_path: Path) -> Path:
    """A good adapter that a test may break."""
    save_adapter(tiny_llama, tmp_path, r=2, target_modules=["q_proj"])
    return tmp_path


def check(path: Path, source: Source, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_peft(path, "mine", source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "of type IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "trains biases"),
        ({"lora_bias": True}, "trains biases"),
    ],
)
def test_kinds_that_are_refused(
    llama_source: Source, plain: Path, change: dict[str, Any], message: str
) -> None:
    file = plain / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    check(plain, llama_source, message)


def test_not_an_adapter(llama_source: Source, tmp_path: Path) -> None:
    check(tmp_path, llama_source, "not a PEFT adapter")
    (tmp_path / "adapter_config.json").write_text("{}")
    check(tmp_path, llama_source, "not a PEFT configuration")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    check(tmp_path, llama_source, r"no adapter_model\.safetensors")


def test_damaged_tensors(llama_source: Source, plain: Path) -> None:
    file = plain / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    check(plain, llama_source, "truncated")
    file.write_bytes(whole)
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name][0, 0] = np.inf
    save_file(tensors, file)
    check(plain, llama_source, "NaN or infinity")
    del tensors[name]
    save_file(tensors, file)
    check(plain, llama_source, "wants A .* and B")


def rename(file: Path, old: str, new: str) -> None:
    save_file({k.replace(old, new): v for k, v in load_file(file).items()}, file)


def test_tensors_that_fit_nothing(llama_source: Source, plain: Path) -> None:
    file = plain / "adapter_model.safetensors"
    rename(file, "q_proj", "k_proj")
    check(plain, llama_source, r"for a \d+×64 .*k_proj', and this model's is")
    rename(file, "k_proj", "z_proj")
    check(plain, llama_source, "z_proj', which is no Linear")
    rename(file, "lora_A.weight", "lora_embedding_A")
    check(plain, llama_source, "no lora_A or lora_B of a Linear")


def test_embeddings_saved_beside_an_adapted_head_must_be_the_models(
    llama_source: Source, tiny_llama: Path, tmp_path: Path
) -> None:
    save_adapter(tiny_llama, tmp_path, r=2, target_modules=["lm_head"])
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    saved = [name for name in tensors if "lora" not in name]
    assert saved
    assert list(load_peft(tmp_path, "mine", llama_source).modules) == ["lm_head"]
    tensors[saved[0]][3, 3] += 1
    save_file(tensors, file)
    check(tmp_path, llama_source, "trained beside LoRA")


def test_an_export_with_slots_takes_no_adapted_head(
    llama_source: Source, tiny_llama: Path, tmp_path: Path
) -> None:
    """A file for a slot that the graph has not would be refused by every session."""
    path = tmp_path / "head"
    save_adapter(tiny_llama, path, r=2, target_modules=["lm_head", "q_proj"])
    assert len(asked_adapters(llama_source, Request(adapters=[str(path)]))) == 1
    with pytest.raises(ModelError, match="adapts 'lm_head', which has no slot"):
        asked_adapters(llama_source, Request(adapters=[str(path)], adapter_slots=1))
