"""The steps of one plan: Choices by hand, by one ratio, or the best by measured errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from slc.compiler.budget.best import Best, Chooser
from slc.compiler.budget.candidates import INT8_ORT, Offer, structured_names
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.cost import CostModel, cost_model, decode_cost, not_modelled
from slc.compiler.budget.cost_plan import CostPlan
from slc.compiler.budget.encodings import FLOAT_LEVEL, INT8_LEVEL, Ceiling, SparseValues, Storage
from slc.compiler.budget.memory import (
    MARGIN,
    MemoryPlan,
    Workload,
    predict,
    scratch_bytes,
    workload_shapes,
)
from slc.compiler.budget.options import (
    DEFAULT_DENSITY,
    DEFAULT_RANK,
    BudgetOptions,
    too_small,
)
from slc.compiler.budget.shapes import Shape
from slc.compiler.budget.sizes import format_size
from slc.compiler.budget.uniform import (
    RANK_MAX,
    Encoder,
    ceilings,
    choose_explicit,
    choose_hpa,
    choose_uniform,
    spend,
)
from slc.compiler.errors import BudgetError, RequestError
from slc.compiler.linear import Linear

if TYPE_CHECKING:
    import onnx_ir as ir

    from slc.compiler.frontends.source import Source
    from slc.compiler.structure.menu import Prices
    from slc.targets import Target

DEFAULT_GAMMA = 0.5  # of SALAAD's allocation


class Stage:
    """What the steps of one plan share: the model, the target, the options, the memory model."""

    def __init__(
        self, source: Source, target: Target, options: BudgetOptions, workload: Workload,
        storage: Storage,
    ) -> None:  # fmt: skip
        """Keeps what does not change from one budget to the next.

        Args:
          source: the model.
          target: the device.
          options: after defaults.
          workload: batch and context.
          storage: of S and adapters where one is used for all Linears.
        """
        self._source, self._target, self._options = source, target, options
        self._workload, self._storage = workload, storage
        self.allowed = options.mem_bytes or target.usable_bytes
        head = options.head if target.ort_at_least(INT8_ORT) else "bitmap"
        self._encoder = Encoder(
            storage, self._ceilings(), options.extra_adapter_ranks, head,
            tied_heads(source.linears),
            structured_names(source),
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

    def chooser(self, menu: Prices) -> Chooser:
        """Of the best Choices by the errors of `menu`, for any budget."""
        level = self._options.accuracy_level or self.nbits_level
        offer = Offer(
            self._source, self._target, menu,
            dataclasses.replace(self._storage, accuracy_level=level),
            self._options.extra_adapter_ranks, tied_heads(self._source.linears), self._scratch,
        )  # fmt: skip
        return Chooser(
            self.linears, offer.items(), lambda c: self.predict(c).total_bytes,
            None if self._options.max_latency_ms is None else self.linear_us,
        )  # fmt: skip

    def _scratch(self, linear: Linear, choice: Choice) -> int:
        """What operators of ours share, as far as one Linear needs it."""
        return round((1 + MARGIN) * scratch_bytes([linear], [choice], self._workload))

    def best(self, menu: Prices) -> Best:
        """The best Choices by the errors of `menu`.

        Raises:
          RequestError: time is bounded and nobody can tell how long the model takes.
          BudgetError: nothing fits the bytes, or nothing that fits them is quick enough.
        """
        chooser = self.chooser(menu)
        found = chooser.best(self.allowed, self._max_us(chooser.smallest()))
        if found is not None:
            return found
        smallest = chooser.smallest()
        memory = self.predict(smallest)
        if memory.total_bytes > self.allowed or self._options.max_latency_ms is None:
            raise self.error(smallest, memory)
        raise self._too_slow(chooser)

    def linear_us(self, linear: Linear, choice: Choice) -> float:
        """Microseconds of a token that `linear` takes on the target, adapters included."""
        return self._cost.linear_us(linear, choice, self.extra_ranks.get(linear.name, 0))

    @cached_property
    def _cost(self) -> CostModel:
        return cost_model(self._target)

    def speed(self, choices: list[Choice]) -> CostPlan | None:
        """What a token takes; None where nobody can tell: of an encoder, say."""
        return decode_cost(
            self.graph, self.linears, choices, self._workload, self._target, self.extra_ranks
        )

    def _max_us(self, choices: list[Choice]) -> float:
        """What the latency leaves for the Linears; adapters share Downs, so that is cautious."""
        limit = self._options.max_latency_ms
        if limit is None:
            return math.inf
        cost = self.speed(choices)
        if cost is None:
            raise RequestError(
                f"--max-latency: got {limit} ms, wanted a decoder: {not_modelled(self._workload)}"
            )
        beside = cost.us_per_token - cost.us_of("Linears") - cost.us_of("adapters")
        return 1000 * limit - beside

    def _too_slow(self, chooser: Chooser) -> BudgetError:
        """That time binds, what the quickest is at these bytes, and what would do."""
        quickest = chooser.quickest(self.allowed)
        cost = None if quickest is None else self.speed(list(quickest.choices))
        what = f"--max-latency: got {self._options.max_latency_ms} ms"
        if cost is None or quickest is None:
            return BudgetError(f"{what}, nothing is that quick", self.allowed)
        limit = 1.01 * cost.us_per_token / 1000
        return BudgetError(
            f"{what} and {format_size(self.allowed)}: the time binds, the quickest within those "
            f"bytes takes {cost.us_per_token / 1000:.3g} ms a token; pass --max-latency "
            f"{limit:.3g}, a larger --mem, or a shorter --context",
            quickest.session_bytes,
        )

    @property
    def linears(self) -> list[Linear]:
        """Of the model, in graph order."""
        return self._source.linears

    @property
    def graph(self) -> ir.Model:
        """Of the model."""
        return self._source.graph

    @property
    def target(self) -> Target:
        """The device."""
        return self._target

    @property
    def nbits_level(self) -> int:
        """Activations of onnxruntime's MatMulNBits: int8 where it makes a difference, on CPUs."""
        return FLOAT_LEVEL if self._storage.gpu else INT8_LEVEL

    @property
    def structured(self) -> frozenset[str]:
        """Linears whose weight the source has only as S + B·A."""
        return structured_names(self._source)

    @property
    def values(self) -> SparseValues:
        """Value type of S where one is used for all Linears."""
        return self._storage.values

    @property
    def tied(self) -> Mapping[str, str]:
        """lm_head -> embedding where both read one graph value."""
        return self._encoder.tied

    @property
    def extra_ranks(self) -> Mapping[str, int]:
        """Of task adapters, by Linear name."""
        return self._options.extra_adapter_ranks

    def by_budget(self) -> list[Choice]:
        """One ratio for all, or SALAAD's allocation, where that was asked for.

        Raises:
          BudgetError: nothing fits.
        """
        smallest = self._at(self._encoder, 0.0)
        memory = self.predict(smallest)
        if memory.total_bytes > self.allowed:
            raise self.error(smallest, memory)
        gamma = self._options.gamma
        if gamma is None and self._options.allocation == "hpa":
            gamma = DEFAULT_GAMMA
        return self._by_ratio(smallest, gamma)

    def uniform(self) -> list[Choice]:
        """The largest common ratio; where nothing fits, the smallest of its kind."""
        return self._by_ratio(self._at(self._encoder, 0.0), None)

    def hpa(self) -> list[Choice]:
        """SALAAD's allocation at its own γ; where nothing fits, the smallest of its kind."""
        return self._by_ratio(self._at(self._encoder, 0.0), self._options.gamma or DEFAULT_GAMMA)

    def _by_ratio(self, smallest: list[Choice], gamma: float | None) -> list[Choice]:
        """The largest ratio whose predicted memory is within what is allowed, or `smallest`.

        What is not weights depends on the ranks (an adapter's sum is a buffer of its own): it is
        reckoned at full rank first, then at what that gave, then without any adapter.
        """
        bare = dataclasses.replace(
            self._encoder,
            ceilings={name: Ceiling(c.nnz, 0) for name, c in self._encoder.ceilings.items()},
        )
        found = [smallest]
        like = self._at(self._encoder, 1.0, 1.0)
        for encoder in (self._encoder, self._encoder, bare):
            like = like if encoder is not bare else smallest
            try:
                like = self._shrunk(encoder, like, gamma)
            except BudgetError:
                continue  # this much beside the weights leaves too little for them
            if (left := self._left(like)) >= 0:
                # With fewer ranks than were reckoned with more is left, which S may have.
                weights = sum(choice.weight_bytes for choice in like)
                more = spend(self.linears, encoder, list(like), weights + left)
                found.append(more if self._left(more) >= 0 else like)
        return max(found, key=self._worth)

    def _worth(self, choices: list[Choice]) -> tuple[bool, int, int]:
        """Nothing left over first (to one percent of the weights), then rank, then bytes."""
        weights = sum(choice.weight_bytes for choice in choices)
        left = self._left(choices)
        return left <= 0.01 * weights, sum(choice.rank for choice in choices), weights

    def _left(self, choices: list[Choice]) -> int:
        """Bytes of what is allowed; below 0 where they do not fit."""
        return self.allowed - self.predict(choices).total_bytes

    def _at(self, encoder: Encoder, ratio: float, rank_ratio: float | None = None) -> list[Choice]:
        return [encoder.at(linear, ratio, rank_ratio) for linear in self._source.linears]

    def _shrunk(self, encoder: Encoder, like: list[Choice], gamma: float | None) -> list[Choice]:
        """At the ratio that fits if all but the weights takes what it takes with `like`."""
        memory = self.predict(like)
        fixed = memory.total_bytes - sum(choice.weight_bytes for choice in like)
        if gamma is not None:
            return choose_hpa(self.linears, self.allowed, fixed, gamma=gamma, encoder=encoder)
        return choose_uniform(self.linears, self.allowed, fixed, encoder=encoder)

    def predict(self, choices: list[Choice]) -> MemoryPlan:
        """The session's memory."""
        return predict(
            self._source.graph, self._source.linears, choices, self._workload,
            self._options.extra_adapter_ranks, self._shapes,
        )  # fmt: skip

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        return workload_shapes(self._source.graph, self._workload)

    def error(self, choices: list[Choice], memory: MemoryPlan) -> BudgetError:
        """That `choices` do not fit, and what would."""
        parts = ", ".join(
            f"{line.name} {format_size(line.bytes)}" for line in memory.lines if line.bytes
        )
        options = self._options
        by_mem = options.mem_bytes is not None
        what = "--mem" if by_mem else f"usable memory of {self._target.name}"
        hints = ["lower --context or --batch"]
        if options.density is not None or options.rank is not None:
            hints = [
                "lower --density or --rank",
                "leave both out to have them chosen by --mem",
            ]
        need = memory.total_bytes
        return BudgetError(too_small(self.allowed, need, what, parts, ", or ".join(hints)), need)


def tied_heads(linears: list[Linear]) -> dict[str, str]:
    """lm_head -> embedding where both read one graph value."""
    tables = {linear.weight: linear.name for linear in linears if linear.kind == "embedding"}
    return {
        linear.name: tables[linear.weight]
        for linear in linears
        if linear.kind == "lm_head" and linear.weight in tables
    }
