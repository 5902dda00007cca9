"""Rank against density at equal bytes, matrix by matrix.

A component of the adapter costs N + K numbers in f16, and the same bytes hold so many more values
of S. What is worth more depends on the matrix: on how flat its spectrum is in the metric of H, on
what a support leaves of it, and on the value type (an i4 value is a quarter of an adapter's
number). Short runs of the decomposition itself decide: the rank is halved as long as the loss
falls, or else doubled.
"""

from __future__ import annotations

import dataclasses

from slc.compiler.structure import hessian
from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.metric import DAMPING, Metric
from slc.compiler.structure.stored_grid import IntegerType

TRIAL_ITERATIONS = 60  # order the sizes as the whole run does; their losses are about twice its
_ADAPTER_BITS = 16
_VALUE_BITS: dict[IntegerType | None, int] = {None: 16, "i8": 8, "i4": 4}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of a matrix is stored: density of S and rank of the adapter."""

    density: float
    rank: int


def balanced(
    W: F32,
    H: F32,
    size: Size,
    *,
    seed: int,
    value_type: IntegerType | None,
    group: int,
    damping: float = DAMPING,
    judge: F32 | None = None,
) -> Size:
    """The size of least loss among those whose values and adapter take the bytes of `size`.

    Args:
      W: f32 [N, K], finite; kept.
      H: E[x·xᵀ], f32 [K, K].
      size: what may be spent.
      seed: of the decomposition.
      value_type: as of `hessian.decompose_matrix`.
      group: likewise.
      damping: likewise.
      judge: E[x·xᵀ] that the loss is measured with; None: H.
    """
    metric = Metric.of(H if judge is None else judge, damping)

    def loss(size: Size) -> float:
        made = hessian.decompose_matrix(
            W.copy(), H, density=size.density, rank=size.rank, iterations=TRIAL_ITERATIONS,
            seed=seed, value_type=value_type, group=group, damping=damping,
        )  # fmt: skip
        E = W - made.B @ made.A
        E.reshape(-1)[made.index] -= made.value
        return metric.loss(E * metric.scale)

    start = min(size.rank, *W.shape)
    first = dataclasses.replace(size, rank=start)
    best, least = first, loss(first)
    for down in (True, False):
        rank = start
        while (rank := rank // 2 if down else max(1, 2 * rank)) != best.rank:
            tried = at_rank(W.shape, first, rank, value_type)
            if tried is None or (found := loss(tried)) >= least:
                break
            best, least = tried, found
        if best is not first:
            break
    return best


def at_rank(
    shape: tuple[int, ...], size: Size, rank: int, value_type: IntegerType | None
) -> Size | None:
    """The size of another rank in as many bytes; None where there is none.

    A density above 1 is 1: then some bytes are left over.
    """
    N, K = shape
    if not 0 <= rank <= min(N, K):
        return None
    freed = (size.rank - rank) * (N + K) * _ADAPTER_BITS / _VALUE_BITS[value_type]
    density = size.density + freed / (N * K)
    return Size(min(1.0, density), rank) if density >= 0 else None
