"""Decides how each Linear is stored, so that the session fits its memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slc.compiler.budget.choice import Choice
from slc.compiler.budget.encodings import (
    Ceiling,
    SparseValues,
    Storage,
    dense_choice,
    i4_layout,
)
from slc.compiler.budget.memory import MemoryPlan, Workload, predict
from slc.compiler.budget.options import (
    DEFAULT_DENSITY,
    DEFAULT_RANK,
    BudgetOptions,
    check_options,
    chosen_adapter_type,
    chosen_context,
    chosen_level,
    too_small,
)
from slc.compiler.budget.sizes import format_size
from slc.compiler.budget.uniform import (
    RANK_MAX,
    Encoder,
    ceilings,
    choose_explicit,
    choose_hpa,
    choose_uniform,
)
from slc.compiler.errors import BudgetError
from slc.compiler.linear import Linear, Refusal

if TYPE_CHECKING:
    from slc.compiler.frontends.source import Source
    from slc.targets import Target

__all__ = ["BudgetOptions", "Choice", "Plan", "plan", "to_json"]

_VALUES: dict[str, SparseValues] = {"i8": "i8", "i4": "i4"}  # "auto" and "dense" are f16
INT8_HEAD_ORT = "1.23"  # MatMulNBits of 8 bits runs there and is refused by 1.19.2


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be exported, and what it will need.

    Attributes:
      choices: one per Linear, in graph order.
      memory: the predicted session memory, line by line.
      refusals: weights that can't be Linears, and why.
      context: tokens per sequence.
      batch: sequences at a time.
      values: value type of S, after "auto".
      accuracy_level: of our operator where it has a choice, after defaults.
      budget_bytes: of --mem; None when the user gave none.
      allowed_bytes: what the session must stay within: the budget, or what the device can spare.
      notes: decisions that the user did not ask for, a sentence each.
    """

    choices: tuple[Choice, ...]
    memory: MemoryPlan
    refusals: tuple[Refusal, ...]
    context: int
    batch: int
    values: SparseValues
    accuracy_level: int
    budget_bytes: int | None
    allowed_bytes: int
    notes: tuple[str, ...] = ()


def plan(source: Source, target: Target, options: BudgetOptions) -> Plan:
    """Chooses the encoding, density and rank of every Linear.

    By hand when density or rank are given, by `--mem` at one ratio for all otherwise, else at
    density 0.5 and rank 32, or at all that a checkpoint holds.

    Raises:
      RequestError: an option's value can't be.
      BudgetError: nothing fits, or what was asked for by hand does not; carries the smallest.
    """
    check_options(options)
    asked, options = options, _with_stored_values(source, options)
    workload = Workload(
        options.batch, chosen_context(source, options), source.genai_config, target.ort_min
    )
    storage = Storage(
        _VALUES.get(options.values, "f16"), options.group, i4_layout(target), chosen_level(options),
        chosen_adapter_type(options),
    )  # fmt: skip
    stage = _Stage(source, target, options, workload, storage)
    notes = stage.notes(asked)
    by_hand = options.density is not None or options.rank is not None or options.mem_bytes is None
    if options.values == "dense":
        choices = [dense_choice(li, "--values dense asked for it") for li in source.linears]
    else:
        choices = stage.by_hand() if by_hand else stage.by_budget()
    memory = stage.predict(choices)
    if memory.total_bytes > stage.allowed:
        raise stage.error(choices, memory)
    return Plan(
        tuple(choices), memory, tuple(source.refusals), workload.context, workload.batch,
        storage.values, storage.accuracy_level, options.mem_bytes, stage.allowed, notes,
    )  # fmt: skip


def _with_stored_values(source: Source, options: BudgetOptions) -> BudgetOptions:
    """`options` with the value type and group that a checkpoint's S was rounded for, if left open.

    Whoever names another value type gets it; the values are then rounded a second time.
    """
    checkpoint = source.checkpoint
    if options.values != "auto" or checkpoint is None:
        return options
    stored = {(e.value_type, e.group) for e in map(checkpoint.entry, checkpoint.names)}
    if len(stored) != 1:
        return options
    value_type, group = stored.pop()
    if value_type is None:
        return options
    return dataclasses.replace(options, values=value_type, group=group)


class _Stage:
    """One call of `plan`: what its steps share."""

    def __init__(
        self, source: Source, target: Target, options: BudgetOptions, workload: Workload,
        storage: Storage,
    ) -> None:  # fmt: skip
        self._source, self._target, self._options = source, target, options
        self._workload = workload
        self.allowed = options.mem_bytes or target.usable_bytes
        head = options.head if target.ort_at_least(INT8_HEAD_ORT) else "bitmap"
        self._encoder = Encoder(
            storage, self._ceilings(), options.extra_adapter_ranks, head, _tied(source.linears),
            frozenset(source.checkpoint.names if source.checkpoint else ()),
        )  # fmt: skip

    def _ceilings(self) -> dict[str, Ceiling]:
        """What a checkpoint holds; without one, everything up to density 1 and rank 64."""
        rank = self._options.rank if self._options.rank is not None else RANK_MAX
        most = ceilings(self._source.linears, 1.0, max(rank, RANK_MAX))
        checkpoint = self._source.checkpoint
        if checkpoint is not None:
            for name in checkpoint.names:
                entry = checkpoint.entry(name)
                most[name] = Ceiling(entry.nnz, entry.rank)
        return most

    def notes(self, asked: BudgetOptions) -> tuple[str, ...]:
        """What was decided by default, in place of what was `asked`."""
        options, notes = self._options, []
        if asked.values == "auto" and options.values != "auto":
            notes.append(f"--values auto: {options.values}, which the checkpoint was rounded for")
        elif asked.values == "auto":
            notes.append("--values auto: f16, the most exact that is offered")
        if options.mem_bytes is None and (options.density is None or options.rank is None):
            missing = f"density {DEFAULT_DENSITY}, rank {DEFAULT_RANK}"
            if self._source.checkpoint is not None:
                missing = "all that the checkpoint holds"
            notes.append(
                "neither --mem nor both of --density and --rank were given: what is missing is "
                + missing
            )
        return (*notes, *self._beyond_the_checkpoint())

    def _beyond_the_checkpoint(self) -> list[str]:
        """A density or rank by hand that an .slr does not hold."""
        options, checkpoint = self._options, self._source.checkpoint
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

    def by_hand(self) -> list[Choice]:
        """The density and the rank that were given, or their defaults.

        Those of a checkpoint are what it holds: whoever trained S and L chose their sizes there.
        """
        options = self._options
        density, rank = DEFAULT_DENSITY, DEFAULT_RANK
        if self._source.checkpoint is not None:
            density, rank = 1.0, max((c.rank for c in self._encoder.ceilings.values()), default=0)
        return choose_explicit(
            self._source.linears,
            density=density if options.density is None else options.density,
            rank=rank if options.rank is None else int(options.rank),
            encoder=self._encoder,
        )

    def by_budget(self) -> list[Choice]:
        """The largest common ratio whose predicted memory is within what is allowed.

        What is not weights depends on the ranks (an adapter's sum is a buffer of its own): it is
        reckoned at full rank first, then at what that gave, then without any adapter.
        """
        smallest = self._at(self._encoder, 0.0)
        memory = self.predict(smallest)
        if memory.total_bytes > self.allowed:
            raise self.error(smallest, memory)
        bare = dataclasses.replace(
            self._encoder,
            ceilings={name: Ceiling(c.nnz, 0) for name, c in self._encoder.ceilings.items()},
        )
        found = [smallest]
        like = self._at(self._encoder, 1.0, 1.0)
        for encoder in (self._encoder, self._encoder, bare):
            like = like if encoder is not bare else smallest
            try:
                like = self._uniform(encoder, like)
            except BudgetError:
                continue  # this much beside the weights leaves too little for them
            if self.predict(like).total_bytes <= self.allowed:
                found.append(like)
        return max(found, key=self._worth)

    def _worth(self, choices: list[Choice]) -> tuple[bool, int, int]:
        """Nothing left over first (to one percent of the weights), then rank, then bytes."""
        weights = sum(choice.weight_bytes for choice in choices)
        left = self.allowed - self.predict(choices).total_bytes
        return left <= 0.01 * weights, sum(choice.rank for choice in choices), weights

    def _at(self, encoder: Encoder, ratio: float, rank_ratio: float | None = None) -> list[Choice]:
        return [encoder.at(linear, ratio, rank_ratio) for linear in self._source.linears]

    def _uniform(self, encoder: Encoder, like: list[Choice]) -> list[Choice]:
        memory = self.predict(like)
        fixed = memory.total_bytes - sum(choice.weight_bytes for choice in like)
        linears, gamma = self._source.linears, self._options.gamma
        if gamma is not None:
            return choose_hpa(linears, self.allowed, fixed, gamma=gamma, encoder=encoder)
        return choose_uniform(linears, self.allowed, fixed, encoder=encoder)

    def predict(self, choices: list[Choice]) -> MemoryPlan:
        """The session's memory."""
        return predict(
            self._source.graph, self._source.linears, choices, self._workload,
            self._options.extra_adapter_ranks,
        )  # fmt: skip

    def error(self, choices: list[Choice], memory: MemoryPlan) -> BudgetError:
        """That `choices` do not fit, and what would."""
        parts = ", ".join(
            f"{line.name} {format_size(line.bytes)}" for line in memory.lines if line.bytes
        )
        options = self._options
        by_mem = options.mem_bytes is not None
        what = "--mem" if by_mem else f"usable memory of {self._target.name}"
        hints = ["lower --context or --batch"]
        if options.density is not None or options.rank is not None or not by_mem:
            hints = [
                "lower --density or --rank",
                "leave both out to have them chosen by --mem",
            ]
        need = memory.total_bytes
        return BudgetError(too_small(self.allowed, need, what, parts, ", or ".join(hints)), need)


def _span(values: Sequence[float]) -> str:
    """One number, or the least and the most."""
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _tied(linears: list[Linear]) -> dict[str, str]:
    """lm_head -> embedding where both read one graph value."""
    tables = {linear.weight: linear.name for linear in linears if linear.kind == "embedding"}
    return {
        linear.name: tables[linear.weight]
        for linear in linears
        if linear.kind == "lm_head" and linear.weight in tables
    }


def to_json(result: Plan) -> dict[str, Any]:
    """`result` as JSON values."""
    document = dataclasses.asdict(result)
    document["memory"]["total_bytes"] = result.memory.total_bytes
    return document
