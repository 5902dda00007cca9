"""GGUF files of a Hugging Face Llama folder, for llama.cpp rows where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

QUANTIZED = {"Q8_0": 7, "Q4_0": 2}  # llama.cpp's LLAMA_FTYPE_MOSTLY_*
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def missing() -> list[str]:
    """The packages that are not installed: nobody needs them but these rows."""
    return [name for name in ("llama_cpp", "gguf") if importlib.util.find_spec(name) is None]


def make(model: Path, folder: Path) -> dict[str, Path]:
    """{"F16": its GGUF file, "Q8_0": ..., "Q4_0": ...}, made if not there."""
    import llama_cpp
    from llama_cpp._logger import set_verbose

    set_verbose(False)
    files = {name: folder / f"{name}.gguf" for name in ("F16", *QUANTIZED)}
    if not files["F16"].exists():
        write_f16(model, files["F16"])
    for name, ftype in QUANTIZED.items():
        if not files[name].exists():
            parameters = llama_cpp.llama_model_quantize_default_params()
            parameters.ftype = ftype
            failed = llama_cpp.llama_model_quantize(
                bytes(files["F16"]), bytes(files[name]), parameters
            )
            if failed:
                raise SystemExit(f"llama.cpp could not make {files[name]}: {failed}")
    return files


def write_f16(model: Path, file: Path) -> None:
    """The weights as f16, the norms as f32, and no tokenizer."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(1)
    writer.add_tokenizer_model("none")
    for name, value in _tensors(load_file(model / "model.safetensors")).items():
        if "attn_q" in name or "attn_k" in name:
            value = _interleave_rotary(value, heads if "attn_q" in name else kv_heads)
        writer.add_tensor(name, value.astype(np.float32 if value.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(weights: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """By llama.cpp's names."""
    found = {}
    for name, value in weights.items():
        stem = name.removesuffix(".weight")
        prefix = ""
        if stem.startswith("model.layers."):
            _, _, layer, stem = stem.split(".", 3)
            prefix = f"blk.{layer}."
        found[f"{prefix}{NAMES[stem]}.weight"] = value
    return found


def _interleave_rotary(W: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of a head in pairs (0, half), (1, half + 1), ...: llama.cpp rotates neighbours."""
    halves = W.reshape(heads, 2, W.shape[0] // heads // 2, W.shape[1])
    return halves.swapaxes(1, 2).reshape(W.shape)
