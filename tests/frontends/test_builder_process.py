"""Weights that stay in the model's files: the graph is the one that the builder alone makes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file

from slc.compiler.errors import ModelError
from slc.compiler.frontends import builder_process, decoder, load, weight_array
from slc.compiler.frontends.parameter_tensor import FileRows, ParameterTensor

COMMON = {
    "vocab_size": 512, "num_hidden_layers": 2, "max_position_embeddings": 256, "bos_token_id": 0,
    "eos_token_id": 1, "hidden_size": 96, "intermediate_size": 136, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
# What each adds to rows of a file that are transposed and converted.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("float16", {"tie_word_embeddings": True}),
    "Mistral": ("float32", {}),
    # biases, which are joined as well
    "Qwen2": ("bfloat16", {"tie_word_embeddings": True}),
    # norms inside of heads
    "Qwen3": ("float16", {"head_dim": 48}),
    # 1 added to every norm in the type on disk, embeddings scaled and tied
    "Gemma": ("bfloat16", {"head_dim": 48}),
    "Gemma2": ("float32", {"head_dim": 48, "sliding_window": 64}),
    # QKV and gate_up fused on disk; the builder cuts the latter
    "Phi3": ("bfloat16", {"pad_token_id": 0, "original_max_position_embeddings": 256}),
    # multipliers on every branch
    "Granite": ("float16", {"embedding_multiplier": 2.0, "residual_multiplier": 0.7}),
}
# Builds each folder twice in one process: what takes long is importing torch.
BUILD = """
import runpy, sys
import onnx_ir as ir
from slc.compiler.errors import ModelError
from slc.compiler.frontends import builder_process

def build(folder, out):
    sys.argv = ["builder", "-i", folder, "-o", out, "-p", "fp32", "-e", "cpu", "-c", out + "/cache"]
    sys.argv += ["--extra_options", "hf_token=false"]
    runpy.run_module(builder_process.BUILDER, run_name="__main__", alter_sys=True)

folders = sys.argv[1:]
for folder in folders:
    build(folder, folder + "-whole")
whole = ir.save
make = None
for folder in folders:
    if make is None:
        import onnxruntime_genai.models, builders.base
        make = builders.base.Model.make_initializer
    ir.save, builders.base.Model.make_initializer = whole, make
    builder_process.leave_out(builder_process.LeftOut())
    build(folder, folder + "-left")
"""


@pytest.fixture(scope="module")
def built(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAME, NAME-whole and NAME-left of every family."""
    import torch
    import transformers

    root = tmp_path_factory.mktemp("families")
    for name, (dtype, options) in FAMILIES.items():
        torch.manual_seed(3)
        config = getattr(transformers, f"{name}Config")(**COMMON | options)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
        for bias in (p for n, p in model.named_parameters() if n.endswith(("bias", "norm.weight"))):
            torch.nn.init.normal_(bias, std=0.1)
        model.to(getattr(torch, dtype)).save_pretrained(root / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_llama / file, root / name)
    folders = [str(root / name) for name in FAMILIES]
    subprocess.run([sys.executable, "-c", BUILD, *folders], check=True, capture_output=True)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_other_than_the_builder_makes_it(built: Path, name: str) -> None:
    whole = ir.load(built / f"{name}-whole" / "model.onnx")
    folder = built / f"{name}-left"
    elsewhere = decoder.left_out(folder)
    left = decoder.onnx_file.read(folder / "model.onnx", elsewhere)
    initializers = left.graph.initializers
    assert list(initializers) == list(whole.graph.initializers)
    for key, value in whole.graph.initializers.items():
        given, wanted = initializers[key].const_value, value.const_value
        assert (given.dtype, given.shape) == (wanted.dtype, wanted.shape), key
        assert given.tobytes() == wanted.tobytes(), key
        if isinstance(given, ParameterTensor):
            blocks = b"".join(np.ascontiguousarray(p()).tobytes() for p in given.pieces())
            assert blocks == wanted.tobytes(), key
    # All that multiplies is read from the model's own files: nothing holds the weights twice.
    assert {key for key, value in whole.graph.initializers.items()
            if len(value.shape) == 2 and "cache" not in key} == set(elsewhere)  # fmt: skip
    for model in (whole, left):
        for value in model.graph.initializers.values():
            value.const_value = None
        model.graph.initializers.clear()
    assert ir.to_proto(left) == ir.to_proto(whole)
    for file in sorted((built / f"{name}-whole").iterdir()):
        if file.suffix == ".json":
            assert (folder / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_weight_is_read_from_the_models_own_file(tiny_llama: Path, tmp_path: Path) -> None:
    """No copy of any matrix is made on the disk, and no graph stands for zeros or old weights."""
    source = load(tiny_llama, workdir=tmp_path)
    stored = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    matrices = {li.weight: li for li in source.linears}
    assert stored < sum(4 * li.numel for li in matrices.values()) / 2
    assert not (tmp_path / builder_process.LEFT_OUT_FILE).exists()
    for linear in matrices.values():
        tensor = source.graph.graph.initializers[linear.weight].const_value
        assert isinstance(tensor, ParameterTensor)
        assert {part.path for part in tensor.parts} == {tiny_llama.resolve() / "model.safetensors"}
        np.testing.assert_array_equal(
            weight_array(source, linear), tensor.numpy().T if linear.transposed else tensor.numpy()
        )


def test_weights_changed_in_memory_are_not_left_out(tmp_path: Path) -> None:
    """A private mapping that was written to holds something else than its file."""
    code = """
import sys
import torch
from safetensors.torch import safe_open, save_file
from slc.compiler.frontends.builder_process import LeftOut, written_to
save_file({"w": torch.arange(4096.).reshape(64, 64)}, sys.argv[1])
with safe_open(sys.argv[1], framework="pt") as file:
    w = file.get_tensor("w")
assert LeftOut().take("w", w, None) and LeftOut().take("w", w.T, None)
assert LeftOut().take("w", w[8:40], None) and not LeftOut().take("w", w[:, 8:40], None)
assert not LeftOut().take("w", w + 0, None) and not written_to()
w[3, 5] = -1
assert written_to()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "w.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_who_reads_what_was_left_out_finds_no_zeros(tiny_llama: Path, tmp_path: Path) -> None:
    import onnxruntime as ort

    load(tiny_llama, workdir=tmp_path)
    with pytest.raises(Exception, match=builder_process.ABSENT):
        ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_and_columns_of_joined_parameters(tmp_path: Path, transposed: bool) -> None:
    """Three parts of two types in two files, in ranges that begin and end anywhere."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 11)) for n in (5, 1, 7)]
    parts = []
    for index, (array, dtype) in enumerate(zip(arrays, ("<f2", "<f4", "<f4"), strict=True)):
        path = tmp_path / f"{index % 2}.bin"
        before = path.read_bytes() if path.exists() else b"head"
        path.write_bytes(before + array.astype(dtype).tobytes())
        name = np.dtype(dtype).name
        parts.append(FileRows(path, len(before), name, len(array)))
    W = np.concatenate([arrays[0].astype(np.float16), *(a.astype(np.float32) for a in arrays[1:])])
    tensor = ParameterTensor(parts, 11, ir.DataType.FLOAT, transposed=transposed)
    stored = W.T if transposed else W
    assert tuple(tensor.shape) == stored.shape
    np.testing.assert_array_equal(tensor.numpy(), stored)
    for start, stop in [(0, 13), (4, 6), (5, 6), (2, 9), (12, 13)]:
        np.testing.assert_array_equal(tensor.source_rows(start, stop), W[start:stop])
    for start, stop in [(0, 11), (3, 4), (2, 9)]:
        np.testing.assert_array_equal(tensor.source_columns(start, stop), W[:, start:stop].T)
    document = json.loads(json.dumps(builder_process.to_json(parts, 11, transposed=transposed)))
    again = decoder.parameter_tensor.from_json(document, ir.DataType.FLOAT, "w")
    np.testing.assert_array_equal(again.numpy(), stored)


def test_a_file_that_shrinks_or_goes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(np.ones((8, 16), np.float32).tobytes())
    parts = [FileRows(path, 0, "float32", 8)]
    for transposed in (False, True):
        tensor = ParameterTensor(parts, 16, ir.DataType.FLOAT, transposed=transposed)
        tensor.numpy()
        path.write_bytes(b"\0" * 500)
        with pytest.raises(ModelError, match=r"model\.safetensors.*can't be read"):
            tensor.numpy()
        path.unlink()
        with pytest.raises(ModelError, match=r"model\.safetensors.*can't be read"):
            tensor.numpy()
        path.write_bytes(np.ones((8, 16), np.float32).tobytes())


def test_weights_that_the_loader_converts_are_copied_and_it_is_said(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """A config that asks for another type than the file has: values are the loader's."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "work").mkdir()
    said: list[str] = []
    source = load(
        folder, workdir=tmp_path / "work", progress=lambda done, total, what: said.append(what)
    )
    assert "copied" in said[-1]
    stored = load_file(tiny_llama / "model.safetensors")["model.embed_tokens.weight"]
    table = next(linear for linear in source.linears if linear.kind == "embedding")
    np.testing.assert_array_equal(
        weight_array(source, table), stored.astype(ml_dtypes.bfloat16).astype(np.float32)
    )
