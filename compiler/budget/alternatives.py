"""What else would fit: one ratio for all, SALAAD's allocation, dense int8 and dense int4.

Each at the same budget, with its session and weight bytes and the error that the menu predicts. The
dense ones take every Linear in one way; of int4 the group and correction of least error that fits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from slc.compiler.budget.candidates import INT8_ORT, runs_nbits
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.encodings import FLOAT_LEVEL, dense_choice, nbits_choice
from slc.compiler.budget.menu_errors import predicted_error
from slc.compiler.linear import Linear
from slc.compiler.structure.dense_codes import int8_group

if TYPE_CHECKING:
    from slc.compiler.budget.stage import Stage
    from slc.compiler.structure.menu import Prices

GROUPS = (32, 64, 128)
RANKS = (0, 4, 8, 16, 32)
TABLE_GROUPS = (128, 64, 32, 16)


@dataclasses.dataclass(frozen=True)
class Alternative:
    """One way to divide the budget.

    Attributes:
      name: "uniform", "hpa", "dense_int8" or "dense_int4".
      how: for people.
      session_bytes: predicted; above the budget where not even the smallest of its kind fits.
      weight_bytes: of the Linears, in the data file.
      error: predicted error of the model's output; None without a menu.
      fits: whether it is within the budget.
      choices: one per Linear.
    """

    name: str
    how: str
    session_bytes: int
    weight_bytes: int
    error: float | None
    fits: bool
    choices: tuple[Choice, ...] = dataclasses.field(repr=False)


def alternatives(stages: Sequence[Stage], menu: Prices | None) -> list[Alternative]:
    """All four, in that order; one that does not fit at all is its smallest.

    Args:
      stages: of the same model and budget, one for each value type that S may have.
      menu: predicts errors; without one the first of what fits is taken.
    """
    stage = stages[0]
    uniform = [
        _rated(one, menu, "uniform", f"one ratio for density and rank, {one.values}", one.uniform())
        for one in stages
    ]
    hpa = [
        _rated(one, menu, "hpa", f"SALAAD's allocation, {one.values}", one.hpa()) for one in stages
    ]
    return [_least(uniform), _least(hpa), dense_int8(stage, menu), dense_int4(stage, menu)]


def dense_int8(stage: Stage, menu: Prices | None) -> Alternative:
    """Every Linear in 8 bits, fitting or not."""
    choices = _dense(stage, "int8", 0, 0)
    return _rated(stage, menu, "dense_int8", "every weight in 8 bits", choices)


def dense_int4(stage: Stage, menu: Prices | None) -> Alternative:
    """Every Linear in 4 bits, with the group and correction of least error that fits."""
    int4 = [
        _rated(
            stage, menu, "dense_int4", _described(group, rank), _dense(stage, "int4", group, rank)
        )
        for group in GROUPS
        for rank in (RANKS if menu is not None else (0,))
    ]
    return _least(int4)


def _least(kind: Sequence[Alternative]) -> Alternative:
    """Of least error among those that fit; the smallest where none does."""
    fitting = [one for one in kind if one.fits]
    if not fitting:
        return min(kind, key=lambda one: one.session_bytes)
    return min(fitting, key=lambda one: (one.error or 0.0, one.session_bytes))


def _rated(
    stage: Stage, menu: Prices | None, name: str, how: str, choices: list[Choice]
) -> Alternative:
    session = stage.predict(choices).total_bytes
    return Alternative(
        name, how, session, sum(c.weight_bytes for c in choices),
        None if menu is None else predicted_error(menu, choices, stage.structured),
        session <= stage.allowed, tuple(choices),
    )  # fmt: skip


def _described(group: int, rank: int) -> str:
    return f"groups of {group}" + (f", correction of rank {rank}" if rank else "")


def _dense(stage: Stage, encoding: Literal["int8", "int4"], group: int, rank: int) -> list[Choice]:
    """Every Linear in 8 or 4 bits; what onnxruntime can't take so stays dense."""
    made: dict[str, Choice] = {}
    by_name = {linear.name: linear for linear in stage.linears}
    heads = {table: by_name[head] for head, table in stage.tied.items()}
    for linear in stage.linears:
        shared = stage.tied.get(linear.name)
        if shared is not None and made[shared].encoding == encoding:
            made[linear.name] = dataclasses.replace(
                made[shared], linear=linear.name, weight_bytes=0, shared_with=shared,
                accuracy_level=stage.nbits_level,
            )  # fmt: skip
            continue
        width = group if encoding == "int4" else int8_group(linear.K)
        head = heads.get(linear.name)
        made[linear.name] = _nbits(stage, linear, head, encoding, width, rank)
        if shared is not None:  # both dense, on one constant
            made[linear.name] = dataclasses.replace(made[linear.name], weight_bytes=0)
    return [made[linear.name] for linear in stage.linears]


def _nbits(
    stage: Stage, linear: Linear, head: Linear | None, encoding: Literal["int8", "int4"],
    group: int, rank: int,
) -> Choice:  # fmt: skip
    if linear.kind == "embedding" and linear.K % group:
        group = next((g for g in TABLE_GROUPS if linear.K % g == 0), linear.K)
    readers = [linear] if head is None else [linear, head]
    if not all(runs_nbits(stage.target, stage.graph, one, encoding, group) for one in readers):
        old = encoding == "int8" and not stage.target.ort_at_least(INT8_ORT)
        reason = f"MatMulNBits of 8 bits wants onnxruntime {INT8_ORT}" if old else None
        return dense_choice(linear, reason or f"onnxruntime has no {encoding} for it")
    own = min(rank, linear.N, linear.K) if linear.kind == "linear" else 0
    return nbits_choice(
        linear, encoding, group, rank=own, adapter_type="i8",
        level=FLOAT_LEVEL if linear.kind == "embedding" else stage.nbits_level,
        extra_rank=stage.extra_ranks.get(linear.name, 0),
    )  # fmt: skip
