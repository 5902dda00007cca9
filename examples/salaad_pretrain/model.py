"""The model: a Llama of 8 million parameters, and its Hugging Face folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from examples.llm_generate.make_llama import SPECIAL


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of the model; heads of 64, which onnxruntime-genai's builder wants a multiple of 16."""

    hidden: int = 384
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 1032
    vocabulary: int = 2048


def make_model(shape: Shape, seed: int) -> Any:
    """A LlamaForCausalLM with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate, vocab_size=shape.vocabulary,
        max_position_embeddings=1024, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Writes a Hugging Face folder."""
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(folder)
    start, end = SPECIAL
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token=end)
    fast.save_pretrained(folder)
    return folder
