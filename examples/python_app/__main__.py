"""An app of onnxruntime and numpy alone: loads an artifact that slc exported, and runs it.

    python examples/python_app ARTIFACT [TOKEN_ID ...]

Without token ids it draws eight. Nothing of slc is imported: this file works where it is copied.
"""

import json
import pathlib
import sys
import time

import numpy as np
import onnxruntime as ort

TYPES = {"float": "float32", "double": "float64"}  # others are named as in numpy
DIMENSIONS = {"batch": 1, "batch_size": 1, "past_sequence_length": 0}  # others: the ids' length


def load(folder: pathlib.Path) -> ort.InferenceSession:
    """This is all that an artifact asks of an app."""
    options = ort.SessionOptions()
    library = folder.resolve() / "libslc_ops.so"  # whole: a bare name is looked up elsewhere
    if library.is_file():
        options.register_custom_ops_library(str(library))
    provider = json.loads((folder / "manifest.json").read_text())["provider"]  # cpu or cuda
    providers = [f"{provider.upper()}ExecutionProvider"]
    return ort.InferenceSession(str(folder / "model.onnx"), options, providers=providers)


def make_inputs(session: ort.InferenceSession, folder: pathlib.Path, ids: list) -> dict:
    """As declared: one sequence of `ids`, an empty cache, random numbers for everything else."""
    draw, feeds, sizes = np.random.default_rng(0).standard_normal, {}, dict(DIMENSIONS)
    if (folder / "genai_config.json").is_file():  # a decoder's graph leaves this one open
        config = json.loads((folder / "genai_config.json").read_text())
        sizes["kv_cache_dim"] = config["model"]["decoder"]["head_size"]
    for declared in session.get_inputs():
        name, kind = declared.name, declared.type[len("tensor(") : -1]
        shape = [n if isinstance(n, int) else sizes.get(n, len(ids)) for n in declared.shape]
        known = {"input_ids": ids, "attention_mask": 1, "position_ids": np.arange(len(ids))}
        value = known.get(name, draw(shape) if "float" in kind else 0)  # token types are 0
        feeds[name] = np.broadcast_to(value, shape).astype(TYPES.get(kind, kind))
    return feeds


def main(folder: str, *words: str) -> None:
    session = load(pathlib.Path(folder))
    ids = [int(word) for word in words] or np.random.default_rng(0).integers(1, 200, 8).tolist()
    feeds, times = make_inputs(session, pathlib.Path(folder), ids), []
    for _ in range(11):
        start = time.perf_counter()
        outputs = session.run(None, feeds)
        times.append(1000 * (time.perf_counter() - start))
    for declared, value in zip(session.get_outputs(), outputs):  # noqa: B905 (Python 3.8)
        print(declared.name, value.dtype, list(value.shape), value.reshape(-1)[:5].tolist())
    print(f"{np.median(times[1:]):.2f} ms, the first {times[0]:.2f}, {session.get_providers()[0]}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("got no artifact, wanted: python examples/python_app ARTIFACT [TOKEN_ID ...]")
    main(*sys.argv[1:])
