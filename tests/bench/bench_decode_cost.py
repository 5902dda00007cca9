"""Predicted against measured decode speed of a 100 M-parameter Llama, in mixes of encodings.

    python tests/bench/bench_decode_cost.py --device mine.toml [--folder DIR] [--json FILE]

mine.toml is what `slc devices --calibrate` printed on this machine, before any of the artifacts was
made. The model has random weights (hidden 768, 12 layers, 12 heads, 4 kv heads, vocabulary 16384).
Every mix is predicted, exported and then run by onnxruntime-genai beside all others, in turns, as
bench_decode.py does, on as many threads as the profile has cores (onnxruntime-genai by itself takes
half of them); "builder int4" is the model of onnxruntime-genai's own builder. The error is that of
the predicted microseconds per token against the median of all tokens; the tokens a second of whole
rounds, which a neighbour's bursts lower, stand beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench_decode import NEW_TOKENS, PROMPT_TOKENS, measure
from decode_engines import Engine, run
from machine import describe

from slc.compiler import export, plan
from slc.compiler.budget import Choice
from slc.compiler.budget.cost import CostPlan, decode_cost
from slc.compiler.budget.encodings import dense_choice
from slc.compiler.budget.memory import Workload
from slc.compiler.frontends import load as load_model
from slc.compiler.frontends.source import Source
from slc.targets import Target, load

SHAPE = {
    "hidden": 768, "layers": 12, "heads": 12, "kv-heads": 4, "intermediate": 2048,
    "vocabulary": 16384, "steps": 0,
}  # fmt: skip
CONTEXT = 2 * (PROMPT_TOKENS + NEW_TOKENS // 2)  # decode_cost takes half
MIXES: dict[str, dict[str, Any]] = {
    "dense": {"values": "dense"},
    "f16 .4 r24": {"values": "f16", "density": 0.4, "rank": 24},
    "f16 .08 r48": {"values": "f16", "density": 0.08, "rank": 48},
    "i8 .5 r16 i8": {"values": "i8", "density": 0.5, "rank": 16, "adapter_values": "i8"},
    "i4 .5 r32": {"values": "i4", "density": 0.5, "rank": 32},
    "int4": {"mem": "135MB", "allocation": "dense_int4"},
    "best, 85 MB": {"mem": "85MB"},
    "best, 100 MB": {"mem": "100MB"},
    "best, 120 MB": {"mem": "120MB"},
    "best, 180 MB": {"mem": "180MB"},
}
COMMON = {"context": CONTEXT, "calibrate": "none"}  # speed does not depend on the errors
BUILDER = "builder int4"
BUILDER_GROUP = 32


def main() -> None:
    """Predicts, makes, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", required=True, help="a calibrated profile of this machine")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=SHAPE["layers"], help="fewer for a trial")
    parser.add_argument("--folder", type=Path, help="keep the models here")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    target, shape = load(arguments.device), SHAPE | {"layers": arguments.layers}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        model = folder / "llama"
        if not model.exists():
            flags = [text for key, value in shape.items() for text in (f"--{key}", str(value))]
            run("-m", "examples.llm_generate.make_llama", str(model), *flags)
        predicted = predictions(model, arguments.device, folder)
        engines = [
            artifact(name, model, folder, arguments.device, target.cores) for name in predicted
        ]
        measure(engines, arguments.rounds, shape["vocabulary"])
    rows = [row(engine, predicted[engine.name]) for engine in engines]
    print_rows(rows)
    if arguments.json:
        document = {
            "machine": describe(threads=target.cores),
            "model": shape,
            "context": CONTEXT // 2,
            "bandwidth_bytes_per_s": target.bandwidth_bytes_per_s,
            "kernels": target.kernels,
            "kernels_source": target.sources.get("kernels", ""),
            "mixes": rows,
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def predictions(model: Path, device: str, folder: Path) -> dict[str, CostPlan]:
    """What each mix should take, by name. No artifact exists yet that could be looked at."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    target = load(device)
    source = load_model(model, workdir=work, target=target)
    found = {}
    for name, options in MIXES.items():
        found[name] = _predict(
            source, plan(model, device=device, **COMMON, **options)[0].choices, target
        )
    found[BUILDER] = _predict(source, builder_choices(source), target)
    return found


def _predict(source: Source, choices: Any, target: Target) -> CostPlan:
    workload = Workload(1, CONTEXT, source.genai_config, target.ort_min)
    result = decode_cost(source.graph, source.linears, choices, workload, target)
    assert result is not None
    return result


def builder_choices(source: Source) -> list[Choice]:
    """What onnxruntime-genai's builder does at int4: all but the table, level 4."""
    return [
        dense_choice(linear, "a table")
        if linear.kind == "embedding"
        else Choice(linear.name, "int4", "i4", group=BUILDER_GROUP, accuracy_level=4)
        for linear in source.linears
    ]


def artifact(name: str, model: Path, folder: Path, device: str, threads: int) -> Engine:
    """The folder of a mix, made unless it is there, and told to run on so many threads."""
    out = folder / name.replace(" ", "-").replace(".", "")
    if not out.exists() and name == BUILDER:
        run("-m", "onnxruntime_genai.models.builder", "-i", str(model), "-p", "int4", "-e", "cpu",
            "-o", str(out))  # fmt: skip
    elif not out.exists():
        export(model, out, device=device, **COMMON, **MIXES[name])
    path = out / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config), encoding="utf-8")
    return Engine(name, "genai", out)


def row(engine: Engine, predicted: CostPlan) -> dict[str, Any]:
    """One mix for the table and for JSON."""
    us = float(np.median(engine.token_us))
    span = predicted.tokens_per_s_range
    return {
        "name": engine.name,
        "weight_bytes": engine.weight_bytes,
        "predicted_tokens_per_s": predicted.tokens_per_s,
        "predicted_range": list(span) if span else None,
        "measured_tokens_per_s": 1e6 / us,
        "measured_rounds": engine.decode_tokens_per_s,
        "error": predicted.us_per_token / us - 1,
        "within_range": span is not None and span[0] <= 1e6 / us <= span[1],
        "lines": [dataclasses.asdict(line) for line in predicted.lines],
    }


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A line a mix."""
    print(
        f"{'mix':<14}{'MB':>7}{'predicted tok/s':>26}{'measured':>10}{'rounds':>8}{'error':>8}"
        "   us by line"
    )
    for one in rows:
        low, high = one["predicted_range"] or (float("nan"), float("nan"))
        lines = ", ".join(f"{line['name']} {line['us']:.0f}" for line in one["lines"])
        print(
            f"{one['name']:<14}{one['weight_bytes'] / 1e6:>7.0f}"
            f"{one['predicted_tokens_per_s']:>10.1f} ({low:.1f} to {high:.1f})"
            f"{one['measured_tokens_per_s']:>10.1f}{np.median(one['measured_rounds']):>8.1f}"
            f"{one['error']:>+8.1%}   {lines}"
        )


if __name__ == "__main__":
    main()
