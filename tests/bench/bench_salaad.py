"""What SALAAD adds to a training step: ratio to plain AdamW, both sides in turns.

    python tests/bench/bench_salaad.py [--json FILE] [--rounds 9] [--threads 1]

The model and the text of examples/salaad_pretrain. A round is K = 10 steps of each on the same
sequences, hence one pass of SALAAD's. Measured before rank and support are held (`refit_from`),
when a pass is one of ADMM, and after, when it is a retraction.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.salaad_pretrain.__main__ import Plan, structure
from examples.salaad_pretrain.corpus import make_corpus
from examples.salaad_pretrain.model import make_model
from examples.salaad_pretrain.train import Run, make_optimizer, train_step

EVERY = 10


@dataclasses.dataclass
class Side:
    """One model in training."""

    model: Any
    optimizer: Any
    structure: Any


def main() -> None:
    """Measures both phases and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder), Plan(Run(1)).shape.vocabulary, every=8)
        rows = {
            "ADMM": _seconds(corpus, arguments.rounds, refit=False),
            "refit": _seconds(corpus, arguments.rounds, refit=True),
        }
    for name, (dense, salaad) in rows.items():
        median = statistics.median(s / d for s, d in zip(salaad, dense, strict=True))
        best = _fastest(salaad) / _fastest(dense)
        print(f"{name}: median {median:.3f} × AdamW, fastest tenth {best:.3f}")
    if arguments.json:
        document = {"every": EVERY, "threads": arguments.threads, "seconds": rows}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def _fastest(seconds: list[float]) -> float:
    """Mean of the fastest tenth."""
    return statistics.mean(sorted(seconds)[: max(1, len(seconds) // 10)])


def _seconds(corpus: Any, rounds: int, *, refit: bool) -> tuple[list[float], list[float]]:
    """Of every round, dense and SALAAD; which goes first alternates."""
    run = Run(steps=1 if refit else 10**6)
    plan = Plan(run, refit_from=1.0)
    sides = _side(plan, None), _side(plan, structure)
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for i in (0, 1) if number % 2 else (1, 0):
            took = _round(sides[i], corpus, run, number)
            if number:  # the first warms up, and starts the refit
                seconds[i].append(took)
    return seconds


def _side(plan: Plan, salaad: Any) -> Side:
    model = make_model(plan.shape, plan.run.seed)
    optimizer = make_optimizer(model, plan.run)
    return Side(model, optimizer, salaad(model, plan) if salaad else None)


def _round(side: Side, corpus: Any, run: Run, number: int) -> float:
    start = time.perf_counter()
    for i in range(EVERY):
        batch = corpus.batch(number * EVERY + i, run.batch, run.seed)
        train_step(side.model, side.optimizer, side.structure, run, batch)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
