"""Make a small Llama, export it, generate from the artifact with onnxruntime-genai.

python -m examples.llm_generate
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import onnxruntime_genai as og

from examples.llm_generate.make_llama import make_llama
from slc.compiler import export

PROMPT = "def __init__(self"
TOKENS = 48


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "llama", Path(folder) / "out"
        print("making a small Llama folder ...", flush=True)
        make_llama(model)
        print("exporting at density 0.5, rank 16, i8 values ...", flush=True)
        start = time.perf_counter()
        export(model, out, density=0.5, rank=16, values="i8", context=256)
        files = json.loads((out / "manifest.json").read_text())["files"]
        size = files["model.onnx.data"]["bytes"]
        print(f"  took {time.perf_counter() - start:.0f} s, {size:,} bytes of weights")
        print(generate(out))


def generate(artifact: Path) -> str:
    """Greedy text from the artifact: og.Model(folder) is all there is to it."""
    model = og.Model(str(artifact))
    tokenizer = og.Tokenizer(model)
    prompt = tokenizer.encode(PROMPT)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + TOKENS, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt)
    start = time.perf_counter()
    while not generator.is_done():
        generator.generate_next_token()
    count = len(generator.get_sequence(0)) - len(prompt)
    print(f"  {count} tokens, {count / (time.perf_counter() - start):.0f} tok/s")
    return str(tokenizer.decode(generator.get_sequence(0)))


if __name__ == "__main__":
    main()
