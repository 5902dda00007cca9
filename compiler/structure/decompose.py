"""Decomposes every Linear of a model, several at a time, into a structured checkpoint."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear
from slc.compiler.progress import Progress
from slc.compiler.structure import oats, salr
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decomposition import F32, Decomposition
from slc.compiler.structure.records import CheckpointMeta
from slc.compiler.structure.writer import CheckpointWriter

METHODS = ("salr", "oats")
SEED = 0
MAGNITUDE_MAX = 1e15  # squares of weights up to here add up in f32 without overflow

Statistics = Mapping[str, npt.NDArray[np.float64]]


def decompose(
    source: Source,
    path: Path,
    *,
    method: str,
    density: float,
    rank: int,
    statistics: Statistics | None = None,
    iterations: int = oats.ITERATIONS,
    jobs: int | None = None,
    read: Callable[[Linear], F32] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> StructuredCheckpoint:
    """Makes the structured checkpoint `path` of all Linears of kind "linear".

    Each worker holds one matrix and up to five times its f32 bytes beside it.

    Args:
      source: the dense model.
      path: NAME.slr; must not exist unless `replace`. A NAME.slr.partial that a killed run left
        is gone on with.
      method: "salr" or "oats".
      density: of S, 0 to 1.
      rank: of the adapter.
      statistics: E[x²] of every input column by Linear name, f64 [K]; `oats` wants it.
      iterations: of `oats`.
      jobs: matrices worked on at once; None is one per CPU. The bytes written do not depend on it.
      read: gives a Linear's weight f32 [N, K], which is then overwritten; None reads the source.
      replace: a checkpoint at `path` gives way to the new one once that is whole.
      progress: called as progress(done, total, name of the Linear).

    Raises:
      RequestError: an option is out of range, `path` exists or another process writes it.
      ModelError: a weight is not finite, or its statistics are missing.
    """
    _check_request(method, density, rank, iterations, statistics)
    linears = [linear for linear in source.linears if linear.kind == "linear"]
    settings: dict[str, float | int] = {"density": density, "rank": rank, "seed": SEED}
    if method == "oats":
        settings |= {"iterations": iterations, "damping": oats.DAMPING}
    meta = CheckpointMeta(
        method, settings, source.kind, source.path.name, source.source_sha256, slc_version()
    )
    if read is None:
        from slc.compiler.frontends import weight_array

        read = partial(weight_array, source)
    with CheckpointWriter(path, meta, source, replace=replace) as writer:
        work = partial(_structure, read=read, writer=writer, statistics=statistics)
        _run(work, linears, jobs, progress)
        return writer.finish()


def _run(
    work: Callable[[Linear], None],
    linears: list[Linear],
    jobs: int | None,
    progress: Progress | None,
) -> None:
    """Calls `work` for every Linear, `jobs` at once, large ones first; stops at the first error.

    BLAS gets one thread, since the matrices are what runs in parallel; that also makes the
    results independent of the machine's number of cores.
    """
    from threadpoolctl import threadpool_limits

    workers = max(1, min(jobs or os.cpu_count() or 1, len(linears)))
    order = sorted(linears, key=lambda linear: -linear.numel)
    done = 0
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
                        progress(done, len(linears), name)
        finally:
            for future in pending:
                future.cancel()


def _structure(
    linear: Linear,
    *,
    read: Callable[[Linear], F32],
    writer: CheckpointWriter,
    statistics: Statistics | None,
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
    fingerprint = writer.fingerprint(linear, W, moments)
    if writer.keep(linear, fingerprint):
        return
    if not W.flags.writeable:
        W = W.copy()
    writer.write(linear, _decomposition(W, moments, writer.meta.settings), fingerprint)


def _decomposition(
    W: F32, moments: npt.NDArray[np.float64] | None, settings: dict[str, float | int]
) -> Decomposition:
    density, rank = float(settings["density"]), int(settings["rank"])
    if moments is None:
        return salr.decompose_matrix(W, density=density, rank=rank, seed=SEED)
    iterations = int(settings["iterations"])
    return oats.decompose_matrix(
        W, moments, density=density, rank=rank, iterations=iterations, seed=SEED
    )


def _moments(
    linear: Linear, method: str, statistics: Statistics | None
) -> npt.NDArray[np.float64] | None:
    """The statistics of one Linear, where the method uses them."""
    if method != "oats" or statistics is None:
        return None
    moments = statistics.get(linear.name)
    if moments is None:
        raise ModelError(
            f"calibration gave no statistics for {linear.name!r}: its nodes were not reached, "
            "use --method salr or calibration inputs that reach it"
        )
    if moments.shape != (linear.K,) or not np.isfinite(moments).all() or (moments < 0).any():
        raise ModelError(
            f"the activation statistics of {linear.name!r} are not {linear.K} finite non-negative "
            "numbers: the model overflows on the calibration text, or the text is another model's"
        )
    return moments


def _check_request(
    method: str, density: float, rank: int, iterations: int, statistics: Statistics | None
) -> None:
    if method not in METHODS:
        raise RequestError(f"method {method!r} is unknown: use one of {', '.join(METHODS)}")
    if not 0.0 <= density <= 1.0:
        raise RequestError(f"density {density} is out of range: give a number from 0 to 1")
    if rank < 0:
        raise RequestError(f"rank {rank} is negative: give 0 or more")
    if iterations < 1:
        raise RequestError(f"{iterations} iterations of oats are asked for: give 1 or more")
    if method == "oats" and statistics is None:
        raise RequestError("method 'oats' needs activation statistics: give calibration text")


def slc_version() -> str:
    """The version of slc that writes a checkpoint."""
    try:
        return importlib.metadata.version("slc-compiler")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
