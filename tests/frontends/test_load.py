"""What load() says about paths that are not models, and about broken Hugging Face folders."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.frontends import load
from slc.compiler.frontends.huggingface import parameters, safetensors_files
from slc.targets import load as load_target


def check(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(path, workdir=path.parent)
    assert "\n" not in str(caught.value)


@pytest.fixture
def llama(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


def test_typo(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    check(tmp_path / "my-modle", "did you mean 'my-model'")


def test_nothing_like_it(tmp_path: Path) -> None:
    check(tmp_path / "model", r"there is no file or folder .*: check the path")


def test_folder_without_a_model(tmp_path: Path) -> None:
    check(tmp_path, r"is not a model: it has no config\.json")
    (tmp_path / "encoder.onnx").touch()
    check(tmp_path, r"give the file, such as 'encoder\.onnx'")


def test_file_inside_a_folder(llama: Path) -> None:
    check(llama / "model.safetensors", f"give the folder, '{llama}'")


def test_config_is_not_json(llama: Path) -> None:
    (llama / "config.json").write_text("{")
    check(llama, r"config\.json' can't be read as JSON")


def test_config_of_something_else(llama: Path) -> None:
    (llama / "config.json").write_text('{"name": "my-app"}')
    check(llama, "neither a model_type nor architectures")


def test_truncated_weights(llama: Path) -> None:
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    check(llama, r"truncated or damaged \(tensor .* ends at byte")
    file.write_bytes(file.read_bytes()[:50])
    check(llama, "its header alone needs")


def test_header_that_contradicts_itself(llama: Path) -> None:
    header = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}}
    text = json.dumps(header).encode()
    (llama / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    check(llama, r"tensor 'w' has 12 bytes for shape \[2, 2\]")


def test_no_weights(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    check(llama, r"no model\.safetensors")
    (llama / "pytorch_model.bin").touch()
    check(llama, "pickle")


def test_missing_shard(llama: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    (llama / "model.safetensors").rename(llama / "model-1.safetensors")
    check(llama, r"lacks 'model-2\.safetensors'")
    shutil.copy(llama / "model-1.safetensors", llama / "model-2.safetensors")
    assert [p.name for p in safetensors_files(llama)] == list(index["weight_map"].values())


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(llama: Path, dtype: type, value: float) -> None:
    bad = np.full((9, 7), 3e4, np.float32).astype(dtype)
    save_file({"good": bad.copy(), "bad": bad}, llama / "model.safetensors")
    assert set(parameters(llama)) == {"good", "bad"}
    bad[8, 6] = value
    save_file({"good": np.ones((2, 2), dtype), "bad": bad}, llama / "model.safetensors")
    check(llama, "parameter 'bad' .* holds NaN or infinity")


def test_encoder_decoders_are_refused(tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, vocab_size=100
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    check(tmp_path / "t5", r"encoder-decoder \(T5ForConditionalGeneration\)")


def test_unknown_architecture(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    config |= {"architectures": ["NovelForCausalLM"], "model_type": "novel"}
    (llama / "config.json").write_text(json.dumps(config))
    check(llama, "builder can't build .*ValueError: .*`novel`")


def test_head_size_that_the_attention_refuses(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"head_dim": 20}))
    check(llama, "heads of size 20.* multiples of 8")


def test_decoder_for_an_old_onnxruntime(llama: Path, tmp_path: Path) -> None:
    device = tmp_path / "old.toml"
    device.write_text('inherits = "x86-64-avx2"\nname = "old"\nort_min = "1.19.2"\n')
    with pytest.raises(RequestError, match=r"'old' promises onnxruntime 1\.19\.2 .* needs 1\.21"):
        load(llama, workdir=tmp_path, target=load_target(str(device)))


def test_a_model_of_two_towers_is_no_encoder(tmp_path: Path) -> None:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**sizes, "intermediate_size": 32, "vocab_size": 100},
        vision_config={**sizes, "intermediate_size": 32, "image_size": 32, "patch_size": 16},
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    check(tmp_path / "clip", r"CLIPModel in .* does not run on \['input_ids', 'attention_mask'\]")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, minilm: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else found(name)
    )
    with pytest.raises(RequestError, match=r"needs torch: .*slc-compiler\[export\]"):
        load(minilm, workdir=minilm)
