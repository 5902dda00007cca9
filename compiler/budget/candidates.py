"""What each Linear may become on a target: the menu's options as Choices, with bytes and error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import onnx_ir as ir

from slc.compiler.budget.choice import Choice
from slc.compiler.budget.encodings import (
    FLOAT_LEVEL,
    INT8_LEVEL,
    SparseValues,
    Storage,
    adapter_bytes,
    dense_choice,
    full_choice,
    nbits_choice,
    sparse_choice,
)
from slc.compiler.budget.memory import resident_bytes
from slc.compiler.budget.menu_errors import choice_error
from slc.compiler.linear import Linear
from slc.compiler.structure.dense_codes import BITS_OF

if TYPE_CHECKING:
    from slc.compiler.frontends.source import Source
    from slc.compiler.structure.menu import MenuLinear, MenuOption, Prices
    from slc.targets import Target

INT4_ORT = "1.17"  # MatMulNBits of 4 bits
INT8_ORT = "1.22"  # and of 8: 1.21.1 refuses it
NBITS_GROUPS = (16, 32, 64, 128)
FULL_GROUP = 64  # columns per scale of our blobs, or a multiple


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to store a Linear, or a tied table and head together.

    Attributes:
      choices: of the item's Linears, in the item's order.
      error: that it adds to the model's output (sensitivity.py says in which unit).
      resident_bytes: that it adds to the session: its part of the data file and what onnxruntime
        keeps beside that.
      scratch_bytes: that its operators need and share with all others: a session holds the most
        that any chosen one needs.
    """

    choices: tuple[Choice, ...]
    error: float
    resident_bytes: int
    scratch_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Item:
    """Linears that are chosen together, and their candidates, at least one."""

    linears: tuple[Linear, ...]
    candidates: tuple[Candidate, ...]


class Offer:
    """Makes the items of one model for one target."""

    def __init__(
        self, source: Source, target: Target, menu: Prices, storage: Storage,
        extra_ranks: Mapping[str, int], tied: Mapping[str, str],
        scratch: Callable[[Linear, Choice], int] | None = None,
    ) -> None:  # fmt: skip
        """Keeps what all Linears share.

        Args:
          source: the model.
          target: decides which of onnxruntime's operators may be used.
          menu: of the source's checkpoint, or of the one that was made for this export.
          storage: layout of packed blobs and the accuracy level of integer values.
          extra_ranks: of task adapters, by Linear name.
          tied: lm_head -> embedding, where both hold the same weight.
          scratch: bytes that one Linear's operators share with others, margin included; None: none.
        """
        self._scratch = scratch
        self._source, self._menu, self._storage = source, menu, storage
        self._extra, self._tied = extra_ranks, tied
        self._target = target
        self._structured = structured_names(source)

    def items(self) -> list[Item]:
        """Of all Linears, in graph order."""
        by_name = {linear.name: linear for linear in self._source.linears}
        heads = {table: by_name[head] for head, table in self._tied.items()}
        return [
            self._item(linear, heads.get(linear.name))
            for linear in self._source.linears
            if linear.name not in self._tied
        ]

    def _item(self, linear: Linear, head: Linear | None) -> Item:
        linears = (linear,) if head is None else (linear, head)
        row = self._menu.linears.get(linear.name)
        options = [] if row is None else [
            (choice, (option.error + self._activation_error(row, choice, head)) * row.sensitivity)
            for option in row.options
            if (choice := self._choice(linear, option, head)) is not None
        ]  # fmt: skip
        mapped = not self._storage.gpu  # blobs of every weight are for CPUs
        if mapped and row is not None and head is None and linear.kind != "embedding":
            options += [
                (choice, choice_error(self._menu, choice, self._structured))
                for choice in self._full(linear, row)
            ]
        extra = adapter_bytes(linear.N, linear.K, self._extra.get(linear.name, 0))
        exact = dense_choice(linear, "there is room for it")
        exact = dataclasses.replace(exact, weight_bytes=exact.weight_bytes + extra)
        candidates = [self._candidate(linears, choice, error) for choice, error in options]
        lost = 0.0 if row is None else choice_error(self._menu, exact, self._structured)
        candidates.append(self._candidate(linears, exact, lost))
        return Item(linears, tuple(candidates))

    def _candidate(self, linears: tuple[Linear, ...], choice: Choice, error: float) -> Candidate:
        choices = [choice]
        for head in linears[1:]:  # reads what the table stores
            shared = dataclasses.replace(
                choice, linear=head.name, weight_bytes=0, shared_with=choice.linear,
                accuracy_level=FLOAT_LEVEL if self._storage.gpu else INT8_LEVEL,
            )  # fmt: skip
            if choice.encoding == "dense":
                # The graph reads one constant twice; the memory model counts it with the table.
                shared = dataclasses.replace(dense_choice(head, str(choice.reason)), weight_bytes=0)
            choices.append(shared)
        size = sum(resident_bytes(li, ch) for li, ch in zip(linears, choices, strict=True))
        shared_bytes = 0
        if self._scratch is not None:
            shared_bytes = max(map(self._scratch, linears, choices))
        return Candidate(tuple(choices), error, size, shared_bytes)

    def _choice(self, linear: Linear, option: MenuOption, head: Linear | None) -> Choice | None:
        """The Choice of an option; None where the target, the graph or the sizes forbid it."""
        extra = self._extra.get(linear.name, 0)
        if option.encoding == "bitmap":
            storage = dataclasses.replace(
                self._storage, values=_sparse_values(option), group=option.group,
                accuracy_level=self._level(option), adapter_type=option.adapter_type,
            )  # fmt: skip
            choice = sparse_choice(linear, option.nnz, option.rank, storage, extra)
            return choice if choice.sparse else None
        if not self._runs(linear, option, head):
            return None
        whole = self._storage.accuracy_level == FLOAT_LEVEL and not self._storage.gpu
        if whole and (head or linear.kind != "embedding"):
            return None  # at level 1 onnxruntime may decode the whole matrix in every call
        exact = self._storage.gpu or linear.kind == "embedding"
        level = FLOAT_LEVEL if exact else self._storage.accuracy_level
        encoding: Literal["int8", "int4"] = "int8" if option.encoding == "int8" else "int4"
        choice = nbits_choice(
            linear, encoding, option.group, rank=option.rank, adapter_type=option.adapter_type,
            level=level, extra_rank=extra,
        )  # fmt: skip
        smaller = choice.weight_bytes < dense_choice(linear, "").weight_bytes
        return choice if smaller else None

    def _full(self, linear: Linear, row: MenuLinear) -> Iterator[Choice]:
        """The row's codes in blobs of ours, whose groups are of 64 columns or a multiple.

        Of a weight that the source has only as S + B·A nothing else is exact enough.
        """
        extra = self._extra.get(linear.name, 0)
        there = linear.name not in self._structured
        made = [full_choice(linear, "f16", 0, extra_rank=extra)] if there else []
        for option in row.options:
            fits = option.group % FULL_GROUP == 0
            if option.encoding not in BITS_OF or not (
                fits or (there and option.encoding == "int8")
            ):
                continue
            group = option.group if fits else FULL_GROUP
            made.append(
                full_choice(
                    linear,
                    "i8" if option.encoding == "int8" else "i4",
                    group,
                    rank=option.rank,
                    adapter_type=option.adapter_type,
                    level=self._storage.accuracy_level,
                    extra_rank=extra,
                )
            )
        dense = dense_choice(linear, "").weight_bytes
        yield from (choice for choice in made if choice.weight_bytes < dense)

    def _level(self, option: MenuOption) -> int:
        """f16 values are multiplied with f32 activations only, and GPUs have no int8 ones."""
        exact = option.value_type == "f16" or self._storage.gpu
        return FLOAT_LEVEL if exact else self._storage.accuracy_level

    def _runs(self, linear: Linear, option: MenuOption, head: Linear | None) -> bool:
        """Whether onnxruntime's own operators take this option, of a tied table both ways."""
        readers = [linear] if head is None else [linear, head]
        return all(
            runs_nbits(self._target, self._source.graph, one, option.encoding, option.group)
            for one in readers
        )

    def _activation_error(self, row: MenuLinear, choice: Choice, head: Linear | None) -> float:
        """What int8 activations lose; on CPUs those of a head tied to a table are always int8."""
        tied = head is not None and not self._storage.gpu
        return row.activation_error if tied or choice.accuracy_level == INT8_LEVEL else 0.0


def structured_names(source: Source) -> frozenset[str]:
    """Linears whose weight the source has only as S + B·A."""
    return frozenset(source.checkpoint.names if source.checkpoint is not None else ())


def runs_nbits(target: Target, graph: ir.Model, linear: Linear, encoding: str, group: int) -> bool:
    """Whether every onnxruntime of the target computes `linear` in 8 or 4 bits."""
    if linear.kind == "embedding":  # standard operators put a row together from whole groups
        return linear.K % group == 0 and (encoding == "int8" or group % 2 == 0)
    wanted = ir.DataType.FLOAT16 if target.provider == "cuda" else ir.DataType.FLOAT
    if group not in NBITS_GROUPS or not _reads(graph, linear, wanted):
        return False
    return target.ort_at_least(INT4_ORT if encoding == "int4" else INT8_ORT)


def _reads(graph: ir.Model, linear: Linear, wanted: ir.DataType) -> bool:
    """Whether every node that reads the weight multiplies this type, as MatMulNBits' scales are."""
    tensor = graph.graph.initializers[linear.weight].const_value
    stored = None if tensor is None else tensor.dtype  # what x is where a file states no types
    names = set(linear.nodes)
    types = [node.inputs[0].dtype for node in graph.graph if node.name in names and node.inputs[0]]
    return all((dtype or stored) == wanted for dtype in types)


def _sparse_values(option: MenuOption) -> SparseValues:
    """The value type of a blob."""
    return "f16" if option.value_type == "f16" else "i8" if option.value_type == "i8" else "i4"


def smallest(items: Sequence[Item]) -> list[Candidate]:
    """Of each item the candidate of fewest bytes."""
    return [min(item.candidates, key=lambda c: c.resident_bytes) for item in items]


def choices_in_order(linears: list[Linear], chosen: Iterator[Candidate]) -> list[Choice]:
    """The Choices of candidates, in the order of the graph."""
    by_name = {choice.linear: choice for candidate in chosen for choice in candidate.choices}
    return [by_name[linear.name] for linear in linears]
