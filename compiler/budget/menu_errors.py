"""The predicted output error of any Choices, from a menu: what the alternatives are compared by.

A menu prices S at a few sizes. Between two of them the logarithm of the error is interpolated, in
the number of values and then in the rank: a slice loses more and more quickly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

from slc.compiler.budget.choice import Choice, Encoding
from slc.compiler.budget.encodings import INT8_LEVEL

if TYPE_CHECKING:
    from slc.compiler.structure.menu import MenuLinear, MenuOption, Prices

_LEAST = 1e-300
# What f16 loses of what int8 loses, at most: rounding to steps of s loses s²/12 of a weight w, s
# being at most |w|/2^10 in f16 and max|w|/127 of the group in int8: a ratio of 127²/2^20 or less.
F16_PART = 0.016


def predicted_error(
    menu: Prices, choices: Iterable[Choice], structured: Collection[str] = ()
) -> float:
    """Σ sensitivity · error over the choices; what the menu does not know counts as exact.

    Args:
      menu: of the model.
      choices: of its Linears.
      structured: Linears whose weight the source has only as S + B·A, of a checkpoint: dense, they
        lose what that loses.
    """
    return sum(choice_error(menu, choice, structured) for choice in choices)


def choice_error(menu: Prices, choice: Choice, structured: Collection[str] = ()) -> float:
    """What one Choice adds to the output error; arguments as of `predicted_error`."""
    row = menu.linears.get(choice.shared_with or choice.linear)
    if row is None:
        return 0.0
    activations = row.activation_error if choice.accuracy_level == INT8_LEVEL else 0.0
    if choice.shared_with is not None:  # what the table's codes lose is counted with the table
        return row.sensitivity * activations
    whole = choice.encoding == "dense" or (choice.encoding, choice.value_type) == ("full", "f16")
    if whole and choice.linear in structured:
        own = whole_error(row)
    elif choice.encoding == "dense":
        own = 0.0
    elif choice.encoding == "full":
        own = _full_error(row, choice)
    else:
        own = _sparse_error(row, choice) if choice.sparse else _dense_error(row, choice)
    return row.sensitivity * (own + activations)


def whole_error(row: MenuLinear) -> float:
    """Of S + B·A with all that the checkpoint holds, in the most exact type that is priced."""
    return min((o.error for o in row.options if o.encoding == "bitmap"), default=0.0)


def _dense_error(row: MenuLinear, choice: Choice) -> float:
    """Of the option with the same or the nearest group, of no higher rank."""
    options = [o for o in row.options if o.encoding == choice.encoding and o.rank <= choice.rank]
    if not options:
        return 0.0
    nearest = min(options, key=lambda o: (abs(math.log2(o.group / max(1, choice.group))), -o.rank))
    return nearest.error


def _full_error(row: MenuLinear, choice: Choice) -> float:
    """Of the same codes in onnxruntime's layout; of f16, a part of int8's."""
    like: Encoding = "int4" if choice.value_type == "i4" else "int8"
    part = F16_PART if choice.value_type == "f16" else 1.0
    return part * _dense_error(row, dataclasses.replace(choice, encoding=like))


def _sparse_error(row: MenuLinear, choice: Choice) -> float:
    """Interpolated between slices; of a full S that was never decomposed, int8's."""
    slices = [o for o in row.options if o.encoding == "bitmap"]
    if not slices or (choice.density == 1.0 and choice.nnz > max(o.nnz for o in slices)):
        return min((o.error for o in row.options if o.encoding == "int8"), default=0.0)
    types = {o.value_type for o in slices}
    value_type = choice.value_type if choice.value_type in types else "i8"
    known = [o for o in slices if o.value_type == value_type]
    ranks = sorted({o.rank for o in known})
    errors = [_log_at([o for o in known if o.rank == rank], choice.nnz) for rank in ranks]
    return float(np.exp(np.interp(choice.rank, ranks, errors)))


def _log_at(options: list[MenuOption], nnz: int) -> float:
    """Log error of slices of one rank, interpolated in nnz."""
    ordered = sorted(options, key=lambda o: o.nnz)
    logs = [math.log(max(o.error, _LEAST)) for o in ordered]
    return float(np.interp(nnz, [o.nnz for o in ordered], logs))
