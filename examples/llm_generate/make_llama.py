"""Makes a small Llama-family Hugging Face folder: config, weights, tokenizer, all from local text.

    python -m examples.llm_generate.make_llama OUT [--hidden 128] [--layers 2] [--steps 100]

The weights are random and then trained for a few steps on the standard library's sources: enough to
have the statistics of a real model's weights, far from enough to write sense.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from examples.docstrings import standard_library_files

SPECIAL = ["<s>", "</s>"]


def train_tokenizer(vocabulary: int, files: list[Path]) -> Any:
    """A byte-level BPE tokenizer trained on `files`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in files], trainer)
    return tokenizer


def make_llama(
    out: Path, *, hidden: int = 128, layers: int = 2, heads: int = 4, kv_heads: int = 2,
    intermediate: int = 352, vocabulary: int = 2048, steps: int = 100, seed: int = 0,
) -> None:  # fmt: skip
    """Writes a Hugging Face folder of a LlamaForCausalLM.

    Args:
      out: the folder to make.
      hidden: width of the residual stream.
      layers: number of blocks.
      heads: of the queries.
      kv_heads: of keys and values.
      intermediate: width of the MLP.
      vocabulary: size of the tokenizer and of the embedding.
      steps: training steps of 8 sequences of 128 tokens; 0 leaves the weights random.
      seed: of weights and of the choice of sequences.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    files = standard_library_files()[::16]
    tokenizer = train_tokenizer(vocabulary, files)
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, intermediate_size=intermediate,
        vocab_size=vocabulary, max_position_embeddings=2048, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if steps:
        text = "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in files[:40])
        _train(model, torch.tensor(tokenizer.encode(text).ids), steps)
    model.save_pretrained(out)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(out)


def _train(model: Any, ids: Any, steps: int) -> None:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    model.train()
    for step in range(steps):
        starts = torch.randint(0, len(ids) - 129, (8,))
        batch = torch.stack([ids[s : s + 128] for s in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 24:
            print(f"  step {step + 1}: loss {loss.item():.2f}", flush=True)
    model.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    for name, default in (
        ("hidden", 128), ("layers", 2), ("heads", 4), ("kv-heads", 2), ("intermediate", 352),
        ("vocabulary", 2048), ("steps", 100), ("seed", 0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = vars(parser.parse_args())
    make_llama(arguments.pop("out"), **arguments)
