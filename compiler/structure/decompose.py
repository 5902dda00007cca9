"""Decomposes every Linear of a model, several at a time, into a structured checkpoint."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear
from slc.compiler.progress import Progress
from slc.compiler.request import METHODS
from slc.compiler.structure import hessian, oats, salr
from slc.compiler.structure.balance import Size, balanced
from slc.compiler.structure.calibration import Moments
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decomposition import F32, Decomposition
from slc.compiler.structure.records import CheckpointMeta
from slc.compiler.structure.stored_grid import IntegerType
from slc.compiler.structure.writer import CheckpointWriter

SEED = 0
MAGNITUDE_MAX = 1e15  # squares of weights up to here add up in f32 without overflow

GRAMS_BYTES_MAX = 1 << 30  # of the matrices H that wait for their Linears at one time

_Statistic = npt.NDArray[np.float64] | Moments  # E[x²] of each column, or E[x·xᵀ]

_BITS: dict[IntegerType, int] = {"i8": 8, "i4": 4}

Statistics = Mapping[str, npt.NDArray[np.float64]]
MomentsOf = Callable[[list[Linear]], Mapping[str, Moments]]


def decompose(
    source: Source,
    path: Path,
    *,
    method: str,
    density: float,
    rank: int,
    statistics: Statistics | None = None,
    moments: MomentsOf | None = None,
    iterations: int | None = None,
    value_type: IntegerType | None = None,
    group: int = 64,
    balance: bool = False,
    jobs: int | None = None,
    read: Callable[[Linear], F32] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> StructuredCheckpoint:
    """Makes the structured checkpoint `path` of all Linears of kind "linear".

    Each worker holds one matrix and up to five times its f32 bytes beside it; of `hessian` ten
    times, and 4·K² numbers.

    Args:
      source: the dense model.
      path: NAME.slr; must not exist unless `replace`. A NAME.slr.partial that a killed run left
        is gone on with.
      method: "salr", "oats" or "hessian".
      density: of S, 0 to 1.
      rank: of the adapter.
      statistics: E[x²] of every input column by Linear name, f64 [K]; `oats` wants it.
      moments: gives E[x·xᵀ] of some Linears by name; `hessian` wants it. Called for as many at a
        time as `GRAMS_BYTES_MAX` holds.
      iterations: of `oats` or `hessian`; None is what each takes by itself.
      value_type: of blobs that S is rounded for, by `hessian` only; None leaves it in f32.
      group: columns that share a scale of i8 and i4 values.
      balance: each matrix chooses its rank, and the density that then takes the bytes of
        `density` and `rank`; of `hessian` only (balance.py).
      jobs: matrices worked on at once; None is one per CPU. The bytes written do not depend on it.
      read: gives a Linear's weight f32 [N, K], which is then overwritten; None reads the source.
      replace: a checkpoint at `path` gives way to the new one once that is whole.
      progress: called as progress(done, total, name of the Linear).

    Raises:
      RequestError: an option is out of range, `path` exists or another process writes it.
      ModelError: a weight is not finite, or its statistics are missing.
    """
    _check_request(method, density, rank, iterations)
    if {"oats": statistics, "hessian": moments}.get(method, ()) is None:
        raise RequestError(f"method {method!r} needs activation statistics: give calibration text")
    linears = [linear for linear in source.linears if linear.kind == "linear"]
    settings = _settings(method, density, rank, iterations)
    if method == "hessian" and value_type is not None:
        settings |= {"bits": _BITS[value_type], "group": group}
    if method == "hessian" and balance:
        settings |= {"balance": 1}
    meta = CheckpointMeta(
        method, settings, source.kind, source.path.name, source.find_sha256(), slc_version()
    )
    if read is None:
        from slc.compiler.frontends import weight_array

        read = partial(weight_array, source)
    with CheckpointWriter(path, meta, source, replace=replace) as writer:
        done = 0
        for some in in_turns(linears) if moments is not None else [linears]:
            given = statistics if moments is None else moments(some)
            work = partial(_structure, read=read, writer=writer, statistics=given)
            run_all(work, some, jobs, progress, done, len(linears))
            done += len(some)
        return writer.finish()


def _settings(
    method: str, density: float, rank: int, iterations: int | None
) -> dict[str, float | int]:
    """The numbers that decide what a method makes of a matrix."""
    settings: dict[str, float | int] = {"density": density, "rank": rank, "seed": SEED}
    if method == "oats":
        settings |= {"iterations": iterations or oats.ITERATIONS, "damping": oats.DAMPING}
    elif method == "hessian":
        settings |= {"iterations": iterations or hessian.ITERATIONS}
    return settings


def in_turns(linears: list[Linear]) -> Iterator[list[Linear]]:
    """Runs of Linears in graph order whose matrices H fit in memory together."""
    some: list[Linear] = []
    held = 0
    for linear in linears:
        size = 8 * linear.K**2
        if some and held + size > GRAMS_BYTES_MAX:
            yield some
            some, held = [], 0
        some.append(linear)
        held += size
    if some:
        yield some


def run_all(
    work: Callable[[Linear], None],
    linears: list[Linear],
    jobs: int | None,
    progress: Progress | None,
    done: int,
    total: int,
) -> None:
    """Calls `work` for every Linear, `jobs` at once, large ones first; stops at the first error.

    BLAS gets one thread, since the matrices are what runs in parallel; that also makes the
    results independent of the machine's number of cores.
    """
    from threadpoolctl import threadpool_limits

    workers = max(1, min(jobs or os.cpu_count() or 1, len(linears)))
    order = sorted(linears, key=lambda linear: -linear.numel * linear.K)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        pending: dict[Future[None], str] = {pool.submit(work, one): one.name for one in order}
        try:
            while pending:
                finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in sorted(finished, key=lambda f: pending[f]):
                    name = pending.pop(future)
                    future.result()
                    done += 1
                    if progress is not None:
                        progress(done, total, name)
        finally:
            for future in pending:
                future.cancel()


def _structure(
    linear: Linear,
    *,
    read: Callable[[Linear], F32],
    writer: CheckpointWriter,
    statistics: Mapping[str, _Statistic] | None,
) -> None:
    """One Linear, from its weight to its file."""
    W = np.ascontiguousarray(read(linear), dtype=np.float32)
    if W.shape != (linear.N, linear.K):
        raise ModelError(
            f"the weight of {linear.name!r} has shape {list(W.shape)} where the graph says "
            f"[{linear.N}, {linear.K}]: the model's files do not belong together"
        )
    if not max(W.max(), -W.min()) <= MAGNITUDE_MAX:  # false for NaN
        raise ModelError(
            f"the weight of {linear.name!r} holds NaN, infinity or a number above "
            f"{MAGNITUDE_MAX:g}, where finite weights are wanted: repair or retrain the model"
        )
    moments = _moments(linear, writer.meta.method, statistics)
    seen = moments.H if isinstance(moments, Moments) else moments
    fingerprint = writer.fingerprint(linear, W, seen)
    if writer.keep(linear, fingerprint):
        return
    if not W.flags.writeable:
        W = W.copy()
    made = _decomposition(W, moments, writer.meta.method, writer.meta.settings)
    writer.write(linear, made, fingerprint)


def _decomposition(
    W: F32, moments: _Statistic | None, method: str, settings: dict[str, float | int]
) -> Decomposition:
    density, rank = float(settings["density"]), int(settings["rank"])
    if moments is None:
        return salr.decompose_matrix(W, density=density, rank=rank, seed=SEED)
    iterations = int(settings["iterations"])
    if not isinstance(moments, Moments):
        return oats.decompose_matrix(
            W, moments, density=density, rank=rank, iterations=iterations, seed=SEED
        )
    bits = {bits: value_type for value_type, bits in _BITS.items()}
    value_type = bits.get(int(settings.get("bits", 0)))
    group = int(settings.get("group", 64))
    size = Size(density, rank)
    damping = hessian.chosen_damping(W, moments.H, moments.held_out, density)
    if settings.get("balance"):
        size = balanced(
            W, moments.H, size, seed=SEED, value_type=value_type, group=group, damping=damping,
            judge=moments.judge,
        )  # fmt: skip
    return hessian.decompose_matrix(
        W, moments.H, density=size.density, rank=size.rank, iterations=iterations, seed=SEED,
        value_type=value_type, group=group, damping=damping,
    )  # fmt: skip


def _moments(
    linear: Linear, method: str, statistics: Mapping[str, _Statistic] | None
) -> _Statistic | None:
    """The statistics of one Linear, where the method uses them."""
    if method == "salr" or statistics is None:
        return None
    moments = statistics.get(linear.name)
    if moments is None:
        raise ModelError(
            f"calibration gave no statistics for {linear.name!r}: its nodes were not reached, "
            "use --method salr or calibration inputs that reach it"
        )
    arrays = [moments.H, moments.judge] if isinstance(moments, Moments) else [moments]
    squares = [np.diag(array) if array.ndim == 2 else array for array in arrays]
    if (
        any(square.shape != (linear.K,) or (square < 0).any() for square in squares)
        or not all(np.isfinite(array).all() for array in arrays)
    ):  # fmt: skip
        raise ModelError(
            f"the activation statistics of {linear.name!r} are not {linear.K} finite non-negative "
            "mean squares: the model overflows on the calibration text, or the text is another "
            "model's"
        )
    return moments


def _check_request(method: str, density: float, rank: int, iterations: int | None) -> None:
    if method not in METHODS:
        raise RequestError(f"method {method!r} is unknown: use one of {', '.join(METHODS)}")
    if not 0.0 <= density <= 1.0:
        raise RequestError(f"density {density} is out of range: give a number from 0 to 1")
    if rank < 0:
        raise RequestError(f"rank {rank} is negative: give 0 or more")
    if iterations is not None and iterations < 1:
        raise RequestError(f"{iterations} iterations of {method} are asked for: give 1 or more")


def slc_version() -> str:
    """The version of slc that writes a checkpoint."""
    try:
        return importlib.metadata.version("slc-compiler")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
