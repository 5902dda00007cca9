"""What an export may take: never the model, and of a large matrix never more than a few copies."""

from __future__ import annotations

import filecmp
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

PEAK = """
import resource, sys
children = resource.RUSAGE_CHILDREN
peak = lambda who=resource.RUSAGE_SELF: resource.getrusage(who).ru_maxrss * 1024
"""


def grown(script: str, *arguments: str | Path) -> int:
    """The number that `script` prints, in a process of its own: bytes that it grew by."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def save_table(path: Path, rows: int, columns: int) -> None:
    """An ONNX file of one embedding, its data beside it."""
    table = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    (path.parent / f"{path.name}.data").write_bytes(table.tobytes())
    tensor = TensorProto(name="table", dims=[rows, columns], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=f"{path.name}.data")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])
    node = helper.make_node("Gather", ["table", "ids"], ["y"], name="rows")
    graph = helper.make_graph([node], "table", [ids], [y], [tensor])
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opset), path)


def test_an_embedding_is_rounded_in_pieces(tmp_path: Path) -> None:
    """Of 160 MB in f32 less than half is ever in memory; whole, rounding takes five times it."""
    rows, columns = 160_000, 256
    save_table(tmp_path / "small.onnx", 1000, columns)
    save_table(tmp_path / "large.onnx", rows, columns)
    script = """
from slc.compiler import export
small, large, out = sys.argv[1:]
options = {"density": 0.5, "rank": 0, "device": "x86-64-avx2"}
export(small, out + "-small", **options)
before = peak()
export(large, out, **options)
print(peak() - before)
"""
    out = tmp_path / "out"
    assert grown(script, tmp_path / "small.onnx", tmp_path / "large.onnx", out) < 80e6
    manifest = json.loads((out / "manifest.json").read_text())
    assert [entry["choice"]["encoding"] for entry in manifest["linears"]] == ["int8"]
    data = (out / "model.onnx.data").stat().st_size
    assert rows * columns < data < 1.1 * rows * columns


@pytest.mark.slow
def test_the_builder_never_holds_the_model(tiny_llama: Path, tmp_path: Path) -> None:
    """268 MB of f32: by itself the builder maps all of the file and copies a matrix twice."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=120_000, hidden_size=512, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=4, intermediate_size=1024, max_position_embeddings=256,
        bos_token_id=0, eos_token_id=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).half()
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    model.save_pretrained(tmp_path / "large")
    assert torch.float16 == model.dtype
    del model
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_llama / file, tmp_path / "large")
    script = """
from pathlib import Path
from slc.compiler.frontends import decoder
small, large, work = map(Path, sys.argv[1:])
for name in ("small", "large"):
    (work / name).mkdir(parents=True)
decoder.build(small, work / "small")
before = peak(children)
decoder.build(large, work / "large")
print(peak(children) - before)
"""
    assert size > 250e6
    assert grown(script, tiny_llama, tmp_path / "large", tmp_path / "work") < 0.3 * size


@pytest.mark.large
def test_a_billion_parameters(tiny_llama: Path, tmp_path: Path) -> None:
    """From Hugging Face at most 0.6 of the fp32 size, from a structured checkpoint 3 GB."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "tie_word_embeddings": True, "hidden_act": "silu",
        "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float16",
    }  # fmt: skip
    model, checkpoint = tmp_path / "model", tmp_path / "model.slr"
    numel = save_random(model, config)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_llama / file, model)
    assert numel > 1.2e9
    slc = [sys.executable, "-m", "slc.compiler.cli"]
    options = ["--density", ".4", "--rank", "0", "--values", "i4", "--context", "256"]
    export = [*slc, "export", *options]
    kept = ["--save-structured", str(checkpoint)]
    script = """
import subprocess
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(peak(children))
"""
    from_model = grown(script, *export, model, "-o", tmp_path / "a", *kept)
    from_checkpoint = grown(script, *export, checkpoint, "-o", tmp_path / "b")
    assert from_model < 0.6 * 4 * numel
    assert from_checkpoint < 3e9
    for name in ("model.onnx", "model.onnx.data"):
        assert filecmp.cmp(tmp_path / "a" / name, tmp_path / "b" / name, shallow=False), name


def save_random(folder: Path, config: dict[str, Any]) -> int:
    """A Llama of random f16 weights, layer by layer; the number of its parameters."""
    from safetensors.numpy import save_file

    folder.mkdir()
    rng = np.random.default_rng(0)
    H, M, V = (config[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    kv = config["num_key_value_heads"] * config["head_dim"]
    index: dict[str, str] = {}
    numel = 0

    def save(shapes: dict[str, tuple[int, ...]]) -> None:
        nonlocal numel
        tensors = {
            name: (rng.standard_normal(shape, np.float32) * np.float32(0.02)).astype(np.float16)
            for name, shape in shapes.items()
        }
        file = f"model-{len(set(index.values())):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, file))
        numel += sum(tensor.size for tensor in tensors.values())

    save({"model.embed_tokens.weight": (V, H), "model.norm.weight": (H,)})
    attention = {"q": (H, H), "k": (kv, H), "v": (kv, H), "o": (H, H)}
    mlp = {"gate": (M, H), "up": (M, H), "down": (H, M)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        save({
            **{f"{at}.self_attn.{name}_proj.weight": shape for name, shape in attention.items()},
            **{f"{at}.mlp.{name}_proj.weight": shape for name, shape in mlp.items()},
            f"{at}.input_layernorm.weight": (H,),
            f"{at}.post_attention_layernorm.weight": (H,),
        })  # fmt: skip
    document = {"metadata": {"total_size": 2 * numel}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(document))
    (folder / "config.json").write_text(json.dumps(config))
    return numel
