"""Every kernel of the two kernels.inc on one thread, through the test library."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

import numpy as np
from machine import copies_of
from native_kernels import DENSE_DTYPES, NativeKernels
from timing import Array, Candidate, Step, best_of
from variants import Variant, is_worth_timing, isa_of_kernel, variant_of_kernel

COPIES_MAX = 24
GEMV_ROWS_MAX = 3  # kGemvRowsMax
ADAPTER_RANK = 64
POSITIONS_MAX = 1 << 26  # of one step: fewer rows of S beyond it, for the slowest kernels' sake
HOT_BYTES = 192 << 10  # weights that stay in a core's second cache
ROWS_MIN = 64
BELOW = {  # by SLC_ISA; for all others: any
    "generic": ("generic",),
    "avx2": ("generic", "avx2"),
    "neon": ("generic", "neon"),
}


def kernel_candidates(
    kernels: NativeKernels,
    m: int,
    S: Array,
    density: float | None,
    refuse: Callable[[str, Exception], None],
) -> list[Candidate]:
    """Every sparse kernel that takes m rows of X, then every adapter kernel.

    Args:
      kernels: the test library.
      m: rows of X.
      S: the weights.
      density: of S; None: full.
      refuse: called with the name of a kernel that can't be run, and why.
    """
    S = S[: max(ROWS_MIN, POSITIONS_MAX // (m * S.shape[1]))]
    X = np.random.default_rng(1).standard_normal((m, S.shape[1])).astype(np.float32)
    blobs: dict[Variant, Array] = {}
    found = []
    for name in kernels.names("sparse_gemv" if m <= GEMV_ROWS_MAX else "sparse_gemm"):
        try:
            variant = variant_of_kernel(name)
            if not is_worth_timing(variant, density):
                continue
            if variant not in blobs:
                blobs[variant] = variant.encode(S)
            found.append(_sparse_candidate(kernels, name, blobs[variant], X, S))
        except Exception as error:  # whatever the encoder or the test library refuses with
            refuse(name, error)
    return found + _adapter_candidates(kernels, X)


def _sparse_candidate(
    kernels: NativeKernels, name: str, blob: Array, X: Array, S: Array
) -> Candidate:
    """One kernel on cold weights; its floor is the rate at which it goes through hot ones."""
    work = X.shape[0] * S.size
    rows = int(min(S.shape[0], max(ROWS_MIN, HOT_BYTES * S.shape[0] // blob.nbytes // 16 * 16)))
    hot = variant_of_kernel(name).encode(S[:rows])
    run, call = (_step(kernels, name, [hot], X, count) for count in (rows, 0))
    floor_s = (best_of(lambda: run(0)) - best_of(lambda: call(0))) * S.shape[0] / rows
    copies = copies_of(blob.nbytes, COPIES_MAX)
    step = _step(kernels, name, [blob.copy() for _ in range(copies)], X, S.shape[0])
    return Candidate(name, blob.nbytes, work, 1, step, copies, floor_s=floor_s)


def _step(kernels: NativeKernels, name: str, blobs: list[Array], X: Array, rows: int) -> Step:
    """A kernel on the first `rows` rows of one of some equal blobs; X is put in order only once."""
    views = [kernels.open(blob) for blob in blobs]
    packed = kernels.pack(name, views[0], X)
    Y = np.empty((X.shape[0], rows), np.float32)

    def step(i: int) -> None:
        kernels.sparse_into(name, views[i], packed, None, Y)

    # The handles point into the arrays, so these live as long as the step.
    weakref.finalize(step, _release, kernels, views, packed, (blobs, X)).atexit = False
    return step


def _release(kernels: NativeKernels, views: list[int], packed: int, _arrays: object) -> None:
    kernels.free(packed)
    for view in views:
        kernels.close(view)


def floors(candidates: list[Candidate], positions: int) -> dict[Variant, float]:
    """Seconds that `positions` take at least, by variant: the best kernel that SLC_ISA allows."""
    allowed = BELOW.get(os.environ.get("SLC_ISA", ""))
    best: dict[Variant, float] = {}
    for candidate in candidates:
        if not candidate.name.startswith("sparse"):
            continue
        if allowed is None or isa_of_kernel(candidate.name) in allowed:
            variant = variant_of_kernel(candidate.name)
            floor = candidate.floor_s * positions / candidate.positions
            best[variant] = min(floor, best.get(variant, floor))
    return best


def _adapter_candidates(kernels: NativeKernels, X: Array) -> list[Candidate]:
    """Every adapter kernel with A: [ADAPTER_RANK, K], which is small and stays in the cache."""
    m, k = X.shape
    found = []
    for name in kernels.names("adapter_dot"):
        A = np.ones((ADAPTER_RANK, k), DENSE_DTYPES[name.split("_")[2]])

        def step(_: int, name: str = name, A: Array = A) -> None:
            kernels.dense(name, A, X)

        found.append(Candidate(name, A.nbytes, m * A.size, 1, step))
    return found
