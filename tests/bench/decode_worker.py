"""One engine in a process of its own, for bench_decode.py: generates when told to, else sleeps.

    python tests/bench/decode_worker.py KIND PATH PROMPT_TOKENS NEW_TOKENS VOCABULARY

KIND is "genai" (PATH: a folder of onnxruntime-genai) or "llama.cpp" (PATH: a GGUF file). Every line
of stdin asks for one generation, every line of stdout answers with its speeds; the first line of
stdout says that the model is loaded, the last, after stdin is closed, what memory it took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Prompt = npt.NDArray[np.int32]
Generate = Callable[[Prompt, int], tuple[float, list[float]]]  # prefill tokens/s, µs of each token


def main(kind: str, path: str, prompt_tokens: int, new_tokens: int, vocabulary: int) -> None:
    """Loads, then serves stdin."""
    prepare = {"genai": genai, "llama.cpp": llama_cpp}[kind]
    load = prepare()
    before = memory("VmRSS")
    generate = load(path, prompt_tokens + new_tokens)
    prompt = np.random.default_rng(0).integers(2, vocabulary, prompt_tokens).astype(np.int32)
    say({"loaded": True})
    for _ in sys.stdin:
        prefill, token_us = generate(prompt, new_tokens)
        speed = 1e6 * len(token_us) / sum(token_us)
        say({"prefill_tokens_per_s": prefill, "decode_tokens_per_s": speed, "token_us": token_us})
    say({"session_rss_bytes": memory("VmHWM") - before})


def genai() -> Callable[[str, int], Generate]:
    """Imports onnxruntime-genai; what loads a model of it."""
    import onnxruntime_genai as og

    def load(path: str, length: int) -> Generate:
        model = og.Model(path)

        def generate(prompt: Prompt, _: int) -> tuple[float, list[float]]:
            parameters = og.GeneratorParams(model)
            parameters.set_search_options(max_length=length, do_sample=False)
            generator = og.Generator(model, parameters)
            start = time.perf_counter()
            generator.append_tokens(prompt[None])
            generator.generate_next_token()
            stamps = [time.perf_counter()]
            while not generator.is_done():
                generator.generate_next_token()
                stamps.append(time.perf_counter())
            return len(prompt) / (stamps[0] - start), (np.diff(stamps) * 1e6).tolist()

        return generate

    return load


def llama_cpp() -> Callable[[str, int], Generate]:
    """Imports llama-cpp-python; what loads a model of it, on as many threads as onnxruntime."""
    import psutil
    from llama_cpp import Llama

    def load(path: str, length: int) -> Generate:
        threads = psutil.cpu_count(logical=False)
        model = Llama(path, n_ctx=length, n_threads=threads, n_threads_batch=threads, verbose=False)

        def generate(prompt: Prompt, new_tokens: int) -> tuple[float, list[float]]:
            model.reset()
            start = time.perf_counter()
            model.eval(prompt.tolist())
            token = model.sample(temp=0)
            stamps = [time.perf_counter()]
            for _ in range(new_tokens - 1):
                model.eval([token])
                token = model.sample(temp=0)
                stamps.append(time.perf_counter())
            return len(prompt) / (stamps[0] - start), (np.diff(stamps) * 1e6).tolist()

        return generate

    return load


def memory(field: str) -> int:
    """Bytes that /proc counts for this process: VmRSS now, VmHWM at the highest."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def say(answer: dict[str, object]) -> None:
    """One line of JSON on stdout."""
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
