"""One common shrink ratio for all Linears: SALAAD's homomorphic parameter allocation.

arXiv 2602.00942 splits what is to be removed, γ to L and 1 − γ to S, and shrinks every block's rank
by one ratio and every block's density by another (`choose_hpa`); without a γ both shrink by the
same ratio (`choose_uniform`). Here ratios are found in exact bytes, not parameters, and what
bisection leaves over is given to S row by row. Prefixes of a checkpoint are all it needs: no new
SVD. It ignores that some matrices matter more than others; it is the baseline for what does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from slc.compiler.budget.choice import Choice
from slc.compiler.budget.encodings import (
    FLOAT_LEVEL,
    Ceiling,
    SparseValues,
    Storage,
    dense_choice,
    int8_choice,
    sparse_choice,
)
from slc.compiler.errors import BudgetError
from slc.compiler.linear import Linear

# At ratio 1/2 this gives what `--density 0.5 --rank 32` gives.
RANK_MAX = 64
_BISECTIONS = 48  # of [0, 1]: below one value of any matrix that fits in memory


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What is the same for all Linears of one plan.

    Attributes:
      storage: of S.
      ceilings: most nnz and rank by Linear name.
      extra_ranks: rank that task adapters add, by Linear name.
      head: "bitmap" stores lm_head as i8 at density 1, "int8" for onnxruntime's MatMulNBits.
      tied: lm_head -> embedding, where both hold the same weight.
      structured: Linears beside those of kind "linear" that a checkpoint holds S and L of: lm_head.
    """

    storage: Storage
    ceilings: Mapping[str, Ceiling]
    extra_ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    head: str = "bitmap"
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    structured: frozenset[str] = frozenset()

    def sliced(self, linear: Linear) -> bool:
        """Whether `linear` can have any density and rank."""
        return linear.kind == "linear" or linear.name in self.structured

    def choice(self, linear: Linear, nnz: int, rank: int) -> Choice:
        """The Choice at `nnz` and `rank`; embedding and dense head have only one."""
        extra = self.extra_ranks.get(linear.name, 0)
        if self.sliced(linear):
            return sparse_choice(linear, nnz, rank, self.storage, extra)
        if linear.kind == "lm_head" and (self.head == "bitmap" or linear.K % 16):
            full = dataclasses.replace(self.storage, values="i8")
            return sparse_choice(linear, linear.numel, 0, full, extra)
        choice = int8_choice(linear)
        if self.storage.gpu:
            choice = dataclasses.replace(choice, accuracy_level=FLOAT_LEVEL)
        if choice.weight_bytes >= dense_choice(linear, "").weight_bytes:
            return dense_choice(linear, "dense it is no larger than in 8 bits with a scale per row")
        if linear.name in self.tied:
            return dataclasses.replace(choice, weight_bytes=0, shared_with=self.tied[linear.name])
        return choice

    def at(self, linear: Linear, ratio: float, rank_ratio: float | None = None) -> Choice:
        """Density and rank both at `ratio` of their ceilings, or the rank at its own ratio."""
        ceiling = self.ceilings[linear.name]
        nnz = round(ratio * ceiling.nnz)
        rank = int((ratio if rank_ratio is None else rank_ratio) * ceiling.rank)
        # A full S has nothing left for the adapter to hold.
        return self.choice(linear, nnz, 0 if nnz == linear.numel else rank)


def ceilings(linears: Sequence[Linear], density: float, rank: int) -> dict[str, Ceiling]:
    """The same density and rank for each; no rank is above min(N, K)."""
    return {
        linear.name: Ceiling(round(density * linear.numel), min(rank, linear.N, linear.K))
        for linear in linears
    }


def choose_explicit(
    linears: Sequence[Linear],
    *,
    density: float,
    rank: int,
    values: SparseValues = "f16",
    encoder: Encoder | None = None,
) -> list[Choice]:
    """The Choices at a density and a rank given by hand.

    Args:
      linears: in graph order.
      density: nnz / (N·K) of every S; below it where a checkpoint holds less.
      rank: of every residual adapter, likewise.
      values: value type of S, without an encoder.
      encoder: storage, ceilings and ties; None: no ceilings but 1 and min(N, K).
    """
    encoder = encoder or Encoder(Storage(values), ceilings(linears, 1.0, max(1, rank)))
    chosen = []
    for linear in linears:
        ceiling = encoder.ceilings[linear.name]
        nnz = min(round(density * linear.numel), ceiling.nnz)
        chosen.append(encoder.choice(linear, nnz, min(rank, ceiling.rank, linear.N, linear.K)))
    return chosen


def choose_uniform(
    linears: Sequence[Linear],
    budget_bytes: int,
    fixed_bytes: int,
    *,
    values: SparseValues = "f16",
    rank_max: int = RANK_MAX,
    density_max: float = 1.0,
    encoder: Encoder | None = None,
) -> list[Choice]:
    """The Choices at the largest common ratio whose weights fit into budget_bytes − fixed_bytes.

    Args:
      linears: in graph order.
      budget_bytes: for the whole session.
      fixed_bytes: of it, what no choice here changes.
      values: value type of S, without an encoder.
      rank_max: rank at ratio 1.
      density_max: density at ratio 1.
      encoder: storage, ceilings and ties; None: made of density_max and rank_max.

    Raises:
      BudgetError: not even density 0 and rank 0 fit.
    """
    encoder = encoder or Encoder(Storage(values), ceilings(linears, density_max, rank_max))
    allowed = budget_bytes - fixed_bytes

    def at(ratio: float, rank_ratio: float | None = None) -> list[Choice]:
        return [encoder.at(linear, ratio, rank_ratio) for linear in linears]

    smallest = at(0.0)
    if _total(smallest) > allowed:
        need = fixed_bytes + _total(smallest)
        raise BudgetError(f"--mem: got {budget_bytes} bytes, wanted at least {need}", need)
    best = at(1.0)
    if _total(best) <= allowed:
        return best
    ratio = _bisect(lambda r: _total(at(r)) <= allowed)
    # Every rank steps at once: where the next step does not fit, density alone still may grow.
    density_ratio = _bisect(lambda r: _total(at(r, ratio)) <= allowed)
    return spend(linears, encoder, at(max(ratio, density_ratio), ratio), allowed)


def choose_hpa(
    linears: Sequence[Linear],
    budget_bytes: int,
    fixed_bytes: int,
    *,
    gamma: float,
    encoder: Encoder,
) -> list[Choice]:
    """The Choices whose weights fit after removing γ of the surplus from L and the rest from S.

    Where one of the two has less than its part, it goes and the other gives what is missing.

    Args:
      linears: in graph order.
      budget_bytes: for the whole session.
      fixed_bytes: of it, what no choice here changes.
      gamma: part of the removed bytes that L gives, 0 … 1.
      encoder: storage, ceilings (where shrinking starts) and ties.

    Raises:
      BudgetError: not even density 0 and rank 0 fit.
    """
    allowed = budget_bytes - fixed_bytes

    def total(density: float, rank: float) -> int:
        return _total([encoder.at(linear, density, rank) for linear in linears])

    full, smallest = total(1.0, 1.0), total(0.0, 0.0)
    if smallest > allowed:
        need = fixed_bytes + smallest
        raise BudgetError(f"--mem: got {budget_bytes} bytes, wanted at least {need}", need)
    if full <= allowed:
        return [encoder.at(linear, 1.0, 1.0) for linear in linears]
    after = full - gamma * (full - allowed)  # once L has given its part
    rank = 1.0 if gamma == 0 else _bisect(lambda r: total(1.0, r) <= after)
    if total(0.0, rank) > allowed:  # S alone can't give the rest
        rank = _bisect(lambda r: total(0.0, r) <= allowed)
    density = _bisect(lambda d: total(d, rank) <= allowed)
    chosen = [encoder.at(linear, density, rank) for linear in linears]
    return spend(linears, encoder, chosen, allowed)


def _total(choices: Sequence[Choice]) -> int:
    return sum(choice.weight_bytes for choice in choices)


def _bisect(fits: Callable[[float], bool]) -> float:
    """The largest ratio found in [0, 1) that fits; 0 fits."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def spend(
    linears: Sequence[Linear], encoder: Encoder, chosen: list[Choice], allowed: int
) -> list[Choice]:
    """Gives what is left to S, a row of values at a time, matrix by matrix, while anything fits.

    Args:
      linears: in graph order.
      encoder: storage and ceilings.
      chosen: by Linear, no more than `allowed`; the list is changed.
      allowed: bytes of weights.
    """
    left = allowed - _total(chosen)
    growing = [i for i, choice in enumerate(chosen) if choice.sparse]
    while growing:
        still = []
        for i in growing:
            linear, choice = linears[i], chosen[i]
            ceiling = encoder.ceilings[linear.name]
            nnz = min(choice.nnz + linear.K, ceiling.nnz)
            if not encoder.sliced(linear) or nnz == choice.nnz:
                continue
            larger = encoder.choice(linear, nnz, choice.rank)
            extra = larger.weight_bytes - choice.weight_bytes
            if larger.sparse and extra <= left:
                chosen[i], left = larger, left - extra
                still.append(i)
        growing = still
    return chosen
