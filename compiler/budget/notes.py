"""What was decided that the user did not ask for: a sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slc.compiler.budget.options import DEFAULT_DENSITY, DEFAULT_RANK, BudgetOptions
from slc.compiler.budget.warnings import above_device

if TYPE_CHECKING:
    from slc.compiler.frontends.source import Source
    from slc.compiler.structure.menu import Prices
    from slc.targets import Target


def plan_notes(
    source: Source,
    target: Target,
    asked: BudgetOptions,
    options: BudgetOptions,
    menu: Prices | None,
    *,
    by_hand: bool,
) -> tuple[str, ...]:
    """The notes of a plan.

    Args:
      source: the model.
      target: the device.
      asked: the options as given.
      options: after defaults.
      menu: that the budget is divided by; None where it is not.
      by_hand: density and rank are the user's, or their defaults.
    """
    notes = []
    if source.weightless:
        notes.append("no weights are there: the sizes are those of config.json")
    if menu is not None:
        notes.append(f"predicted errors: {menu.calibration}")
    elif asked.values == "auto" and options.values != "auto":
        notes.append(f"--values auto: {options.values}, which the checkpoint was rounded for")
    elif asked.values == "auto":
        notes.append("--values auto: f16, the most exact that is offered")
    no_wish = options.mem_bytes is None and (options.density is None or options.rank is None)
    if by_hand and no_wish:
        missing = f"density {DEFAULT_DENSITY}, rank {DEFAULT_RANK}"
        if source.checkpoint is not None:
            missing = "all that the checkpoint holds"
        notes.append(
            "neither --mem nor both of --density and --rank were given: what is missing is "
            + missing
        )
    notes += _beyond_the_checkpoint(source, options)
    warning = above_device(target, options.mem_bytes) if options.mem_bytes is not None else None
    return (*notes, *([warning] if warning else []))


def _beyond_the_checkpoint(source: Source, options: BudgetOptions) -> list[str]:
    """A density or rank by hand that an .slr does not hold."""
    checkpoint = source.checkpoint
    if checkpoint is None or not checkpoint.names or options.values == "dense":
        return []
    entries = [checkpoint.entry(name) for name in checkpoint.names]
    notes = []
    wanted = options.density or 0.0
    less = [e for e in entries if e.nnz < int(wanted * e.linear.numel)]
    if less:
        held = _span([e.nnz / e.linear.numel for e in less])
        notes.append(f"asked for density {wanted:g}, {len(less)} Linears hold {held}")
    less = [e for e in entries if e.rank < min(options.rank or 0, e.N, e.K)]
    if less:
        held = _span([e.rank for e in less])
        notes.append(f"asked for rank {options.rank}, {len(less)} Linears hold {held}")
    return notes


def _span(values: Sequence[float]) -> str:
    """One number, or the least and the most."""
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"
