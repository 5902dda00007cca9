"""Pretrain a small Llama densely and with SALAAD, export many sizes of the latter, and compare.

python -m examples.salaad_pretrain [--quick] [-o FOLDER] [--steps N] [--budgets N]

A run that was stopped goes on where it was, when it is given the same folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from examples.salaad_pretrain.corpus import make_corpus
from examples.salaad_pretrain.model import Shape, make_model, save
from examples.salaad_pretrain.onnx_perplexity import perplexity as onnx_perplexity
from examples.salaad_pretrain.onnx_perplexity import text
from examples.salaad_pretrain.report import write_report
from examples.salaad_pretrain.spectrum import CONTEXT, spectrum, weight_bytes, write
from examples.salaad_pretrain.train import Run, perplexity, read_log, train
from slc.compiler import export
from slc.compiler.structure.salaad import Salaad
from slc.compiler.structure.salaad_export import write_salaad

ROOT = Path(__file__).resolve().parents[2]
STACKS = [("q_proj", "k_proj", "v_proj")]  # one matrix in the graph: they share one L
GAMMA = 0.5
PROMPT = "def __init__(self"


@dataclasses.dataclass(frozen=True)
class Plan:
    """All sizes of the experiment.

    Attributes:
      run: of both trainings.
      shape: of the model.
      refit_from: part of the steps after which SALAAD holds rank and support.
      head: whether SALAAD takes lm_head too.
      every_file: the corpus takes one file in so many.
      held_out: sequences of the final perplexities.
      every_held_out: of those, the spectrum and the engines take one in so many.
      budgets: of the spectrum.
      rounds: of timed decoding; 0 leaves it out.
    """

    run: Run
    shape: Shape = dataclasses.field(default_factory=Shape)
    refit_from: float = 0.6
    head: bool = False
    every_file: int = 1
    held_out: int = 10_000
    every_held_out: int = 4
    budgets: int = 16
    rounds: int = 7


QUICK = Plan(
    Run(steps=24, batch=4, warmup=4),
    Shape(hidden=64, layers=1, heads=1, kv_heads=1, intermediate=128, vocabulary=512),
    every_file=40, held_out=8, every_held_out=1, budgets=3, rounds=0,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps: does it run at all")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--rate", type=float, default=Run.rate, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budgets", type=int, default=Plan.budgets)
    parser.add_argument("--head", action="store_true", help="SALAAD takes lm_head too")
    parser.add_argument("--bf16", action="store_true", help="multiply in bfloat16; see Run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, help="keeps states, models and artifacts")
    arguments = parser.parse_args()
    if arguments.budgets < 2:
        parser.error(f"--budgets: got {arguments.budgets}, wanted at least 2")
    torch.set_num_threads(arguments.threads)
    run = Run(
        steps=arguments.steps, rate=arguments.rate, seed=arguments.seed, autocast=arguments.bf16
    )  # fmt: skip
    plan = QUICK if arguments.quick else Plan(run, budgets=arguments.budgets)
    plan = dataclasses.replace(plan, head=arguments.head)
    with tempfile.TemporaryDirectory() as scratch:
        print(compare(arguments.out or Path(scratch), plan))


def compare(out: Path, plan: Plan) -> str:
    """The whole experiment; what it leaves in `out` is in the report's docstring."""
    out.mkdir(parents=True, exist_ok=True)
    corpus = make_corpus(out / "corpus", plan.shape.vocabulary, every=plan.every_file)
    held_out = corpus.held_out[: plan.held_out]
    print(f"training dense, {plan.run.steps} steps ...", flush=True)
    dense, _ = train(plan.run, plan.shape, corpus, out / "dense")
    print(f"training with SALAAD, {plan.run.steps} steps ...", flush=True)
    model, salaad = train(
        plan.run, plan.shape, corpus, out / "salaad", salaad=lambda m: structure(m, plan)
    )
    save(dense, corpus.tokenizer, out / "dense" / "model")
    save(model, corpus.tokenizer, out / "salaad" / "model")
    checkpoint = out / "salaad.slr"
    write_salaad(salaad, out / "salaad" / "model", checkpoint, replace=checkpoint.exists())
    trained = {"dense": {"perplexity": perplexity(dense, held_out)}}
    trained["salaad"] = {"vanilla": perplexity(model, held_out)}
    with salaad.surrogate():
        trained["salaad"]["surrogate"] = perplexity(model, held_out)
        print(f"slicing to {plan.budgets} budgets ...", flush=True)
        copy = make_model(plan.shape, plan.run.seed)
        copy.load_state_dict(model.state_dict())
    _write_training(out, plan, salaad, trained)
    folder = out / "artifacts"
    some = held_out[:: plan.every_held_out]
    found = spectrum(checkpoint, copy, some, folder, count=plan.budgets, gamma=GAMMA)
    write(found, out / "spectrum.json")
    _write_engines(out, checkpoint, some, folder, plan)
    return write_report(out)


def structure(model: Any, plan: Plan) -> Salaad:
    """SALAAD as this example sets it.

    The embedding stays dense: it is looked up, not multiplied, and its table is stored in 8 bits
    whatever structure it has. So does lm_head, unless `plan` says otherwise: its softmax has a use
    for every direction. α and β rise gently, in steps that suit a few hundred passes.
    """
    exclude = ["*embed_tokens*"] if plan.head else ["*embed_tokens*", "*lm_head*"]
    return Salaad(
        model, exclude=exclude, stacks=STACKS, target_rank=0.15, target_density=0.10,
        k_alpha=0.005, k_beta=0.005, late_from=0,
        refit_from=round(plan.refit_from * plan.run.steps),
    )  # fmt: skip


def _write_training(out: Path, plan: Plan, salaad: Salaad, trained: dict[str, Any]) -> None:
    for name in ("dense", "salaad"):
        seconds = [row["seconds"] for row in read_log(out / name / "log.jsonl") if "loss" in row]
        trained[name]["minutes"] = sum(seconds) / 60
    trained["salaad"]["blocks"] = [
        dataclasses.asdict(f) | {"rank_ratio": f.rank_ratio, "density": f.density}
        for f in salaad.figures()
    ]
    document = {
        "run": dataclasses.asdict(plan.run),
        "shape": dataclasses.asdict(plan.shape),
        "settings": salaad.settings,
        **trained,
    }
    (out / "training.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _write_engines(out: Path, checkpoint: Path, held_out: Any, folder: Path, plan: Plan) -> None:
    """Dense in f32 and int4, L + S in three value types: bytes, perplexity and decode speed."""
    print("exporting the dense model in f32 and int4, L + S in f16, i8 and i4 ...", flush=True)
    dense = out / "dense" / "model"
    export(dense, folder / "dense-f32", values="dense", context=CONTEXT, logits="all", force=True)
    _build_int4(dense, folder / "dense-int4")
    titles = {"dense-f32": "dense, f32", "dense-int4": "dense, int4 (genai's builder)"}
    for values in ("f16", "i8", "i4"):
        name = f"salaad-{values}"
        export(checkpoint, folder / name, values=values, context=CONTEXT, logits="all", force=True)
        titles[name] = f"SALAAD, L + S, {values}"
    rows = []
    for name, title in titles.items():
        artifact = folder / name
        rows.append(
            {
                "name": name,
                "title": title,
                "weight_bytes": weight_bytes(artifact),
                "perplexity": onnx_perplexity(artifact, held_out),
                "text": text(artifact, PROMPT, 24),
            }
        )
    (out / "engines.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (out / "decode.json").unlink(missing_ok=True)  # of an earlier run's models
    if plan.rounds:
        _time_decode(out, {name: folder / name for name in titles}, plan.rounds)


def _build_int4(model: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model)]
    command += ["-o", str(out), "-p", "int4", "-e", "cpu", "-c", str(out.parent / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"onnxruntime-genai's builder failed:\n{done.stderr}")


def _time_decode(out: Path, artifacts: dict[str, Path], rounds: int) -> None:
    """Every engine in a process of its own, in turns (tests/bench/bench_decode.py)."""
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "tests" / "bench" / "bench_decode.py")]
    for name, folder in artifacts.items():
        command += ["--engine", f"{name}={folder}"]
    command += ["--rounds", str(rounds), "--json", str(out / "decode.json")]
    subprocess.run(command, check=True)
    print(f"  timed decode for {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
