"""A 409 M-parameter Llama end to end: export time, bytes, peak RSS, decode and prefill speed.

    python tests/bench/bench_decode.py [--folder DIR] [--json FILE]

The model has random weights (hidden 960, 32 layers, 15 heads, 5 kv heads, vocabulary 49152).
Beside the slc artifact run what onnxruntime-genai's builder makes of the same folder in fp32 and
int4; all of them in one process, in turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

ROOT = Path(__file__).resolve().parents[2]
PROMPT_TOKENS = 128
NEW_TOKENS = 32
ROUNDS = 5
SHAPE = {
    "hidden": 960, "layers": 32, "heads": 15, "kv-heads": 5, "intermediate": 2560,
    "vocabulary": 49152, "steps": 0,
}  # fmt: skip


def main() -> None:
    """Makes what is not there yet, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the models here")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        document = {"export": make(folder)}
        document["engines"] = measure(folder)
    print_table(document["engines"])
    print(json.dumps(document["export"], indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def make(folder: Path) -> dict[str, float]:
    """The Hugging Face folder and three exports of it; returns what the slc export took."""
    model = folder / "llama"
    if not model.exists():
        flags = [text for key, value in SHAPE.items() for text in (f"--{key}", str(value))]
        _run("-m", "examples.llm_generate.make_llama", str(model), *flags)
    for precision in ("fp32", "int4"):
        if not (folder / precision).exists():
            _run(
                "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-p", precision,
                "-e", "cpu", "-o", str(folder / precision),
            )  # fmt: skip
    start = time.perf_counter()
    script = (
        "import sys, resource; from slc.compiler import export;"
        "export(sys.argv[1], sys.argv[2], density=0.5, rank=16, values='i8', force=True);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,"
        " resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    printed = _run("-c", script, str(model), str(folder / "slc"))
    own, builder = (int(text) * 1024 for text in printed.split()[-2:])
    return {
        "seconds": time.perf_counter() - start,
        "peak_rss_bytes": own,
        "builder_peak_rss_bytes": builder,
        "artifact_bytes": sum(p.stat().st_size for p in (folder / "slc").rglob("*") if p.is_file()),
    }


def _run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def measure(folder: Path) -> dict[str, dict[str, object]]:
    """Tokens per second of each engine, in turns."""
    models = {name: og.Model(str(folder / name)) for name in ("fp32", "int4", "slc")}
    rng = np.random.default_rng(0)
    prompt = rng.integers(2, SHAPE["vocabulary"], PROMPT_TOKENS).astype(np.int32)
    results: dict[str, dict[str, object]] = {
        name: {
            "weight_bytes": (folder / name / "model.onnx.data").stat().st_size,
            "prefill_tokens_per_s": [],
            "decode_tokens_per_s": [],
        }
        for name in models
    }
    for _ in range(ROUNDS):
        for name, model in models.items():
            prefill, decode = _generate(model, prompt)
            results[name]["prefill_tokens_per_s"].append(prefill)  # type: ignore[attr-defined]
            results[name]["decode_tokens_per_s"].append(decode)  # type: ignore[attr-defined]
    return results


def _generate(model: og.Model, prompt: np.ndarray) -> tuple[float, float]:
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=PROMPT_TOKENS + NEW_TOKENS, do_sample=False)
    generator = og.Generator(model, parameters)
    start = time.perf_counter()
    generator.append_tokens(prompt[None])
    generator.generate_next_token()
    middle = time.perf_counter()
    count = 0
    while not generator.is_done():
        generator.generate_next_token()
        count += 1
    return PROMPT_TOKENS / (middle - start), count / (time.perf_counter() - middle)


def print_table(engines: dict[str, dict[str, object]]) -> None:
    """Median and best of the rounds."""
    print(f"{'engine':<8}{'weights MB':>12}{'decode tok/s':>22}{'prefill tok/s':>22}")
    for name, row in engines.items():
        decode, prefill = row["decode_tokens_per_s"], row["prefill_tokens_per_s"]
        print(
            f"{name:<8}{row['weight_bytes'] / 1e6:>12.1f}"  # type: ignore[operator]
            f"{np.median(decode):>12.1f} / {np.max(decode):<7.1f}"  # type: ignore[call-overload]
            f"{np.median(prefill):>12.1f} / {np.max(prefill):<7.1f}"  # type: ignore[call-overload]
        )


if __name__ == "__main__":
    main()
