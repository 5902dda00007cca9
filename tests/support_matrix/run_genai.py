"""Generates greedily from model folders, with onnxruntime-genai and nothing of ours.

    python run_genai.py JOBS.json

JOBS: a list of {"folder", "adapter" (may be empty), "prompt", "length"}. Prints a line of JSON for
each as it is done: {"tokens"}, or {"error"} with what genai said.
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime_genai as og


def generate(folder: str, adapter: str, prompt: list, length: int) -> list:
    model = og.Model(folder)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=length, do_sample=False)
    generator = og.Generator(model, parameters)
    if adapter:
        adapters = og.Adapters(model)
        adapters.load(adapter, "name")
        generator.set_active_adapter(adapters, "name")
    generator.append_tokens(np.array([prompt], dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]


def main(jobs: str) -> None:
    for job in json.loads(pathlib.Path(jobs).read_text()):
        try:
            result = {"tokens": generate(**job)}
        except Exception as error:  # what is asked for is just what it says
            result = {"error": " ".join(str(error).split())}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
