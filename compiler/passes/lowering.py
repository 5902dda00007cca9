"""What the passes read: the chosen encoding and the tensors of each Linear."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from slc.compiler.budget.choice import Choice
from slc.compiler.linear import Linear
from slc.compiler.structure.dense_codes import BITS_OF, DenseCodes, round_matrix
from slc.ops.bitmap import Grid

if TYPE_CHECKING:
    from slc.compiler.structure.checkpoint import StructuredCheckpoint
    from slc.compiler.structure.menu import Menu

F32Array = npt.NDArray[np.float32]
Adapter = tuple[F32Array, F32Array]  # A: [r, K], B: [N, r]


@dataclasses.dataclass(frozen=True)
class Lowering:
    """The plan of one export.

    Attributes:
      linears: in graph order.
      choices: by Linear name.
      checkpoint: S and the residual adapter of every sparse Linear; None when there is none.
      weight: reads W: [N, K] f32 of a Linear from the source.
      adapters: task adapters that are concatenated statically, by Linear name.
      menu: codes of the dense options, and corrections of theirs; None when there is none.
      pieces: each reads some rows of a Linear's W, rows below rows; None where there is `weight`
        alone.
      adapter_slots: pairs of overridable initializers per Linear for adapters loaded at run time.
    """

    linears: list[Linear]
    choices: dict[str, Choice]
    checkpoint: StructuredCheckpoint | None
    weight: Callable[[Linear], F32Array]
    adapters: dict[str, list[Adapter]] = dataclasses.field(default_factory=dict)
    menu: Menu | None = None
    adapter_slots: int = 0
    pieces: Callable[[Linear], Iterator[Callable[[], F32Array]]] | None = None

    def chosen(self, *encodings: str) -> Iterator[tuple[Linear, Choice]]:
        """Linears with one of the encodings, in graph order."""
        for linear in self.linears:
            choice = self.choices.get(linear.name)
            if choice is not None and choice.encoding in encodings:
                yield linear, choice

    def sparse(self, linear: Linear, choice: Choice) -> tuple[F32Array, npt.NDArray[np.bool_]]:
        """S: [N, K] at the chosen nnz and the mask of what it stores."""
        if self.checkpoint is None or linear.name not in self.checkpoint.names:
            matrix = self.weight(linear)  # density 1 of a weight that was never decomposed
            return matrix, np.broadcast_to(np.True_, matrix.shape)  # no memory yet
        return self.checkpoint.placed(linear.name, choice.nnz, choice.rank)

    def stored(self, linear: Linear, choice: Choice) -> npt.NDArray[np.bool_]:
        """The mask of `sparse` alone."""
        if self.checkpoint is None or linear.name not in self.checkpoint.names:
            return np.broadcast_to(np.True_, (linear.N, linear.K))
        return self.checkpoint.mask(linear.name, choice.nnz)

    def word_counts(self, linear: Linear, choice: Choice) -> npt.NDArray[np.uint8] | None:
        """How much each 64 columns of a row store, u8 [N, K/64]: quicker to have than `stored`.

        None where the rest of a row, or a whole matrix, would have to be looked at by itself.
        """
        if self.checkpoint is None or linear.name not in self.checkpoint.names or linear.K % 64:
            return None
        return self.checkpoint.word_counts(linear.name, choice.nnz)

    def grid(self, linear: Linear, choice: Choice) -> Grid | None:
        """The grid that S was rounded to for just this choice; None: encoding finds its own."""
        if self.checkpoint is None or linear.name not in self.checkpoint.names:
            return None
        if choice.encoding != "bitmap":
            return None
        stored = self.checkpoint.slice_grid(
            linear.name, choice.value_type, choice.group, choice.rank
        )
        return None if stored is None else Grid(stored.scales, stored.codebook)

    def codes(self, linear: Linear, choice: Choice) -> DenseCodes:
        """Every weight in the bits of the choice: as the menu rounded it, else to the nearest."""
        if self.menu is not None:
            stored = self.menu.codes(linear.name, choice.encoding, choice.group, linear.K)
            if stored is not None:
                return stored
        bits = BITS_OF[choice.encoding]
        return round_matrix(self.weight(linear), bits=bits, group=choice.group)

    def code_pieces(self, linear: Linear, choice: Choice) -> Iterator[Callable[[], DenseCodes]]:
        """The same, some rows each: an embedding's W need never be whole in memory."""
        stored = self.menu is not None and linear.name in self.menu.linears
        if stored or self.pieces is None:
            yield partial(self.codes, linear, choice)
            return
        bits = BITS_OF[choice.encoding]
        for piece in self.pieces(linear):
            yield partial(_rounded, piece, bits, choice.group)

    def residual(self, linear: Linear, choice: Choice) -> list[Adapter]:
        """The residual adapter at the chosen rank, as a list of none or one."""
        if choice.rank == 0:
            return []
        if choice.encoding in (*BITS_OF, "full") and self.menu is not None:
            correction = self.menu.correction(linear.name, choice.rank)
            return [] if correction is None else [correction]
        if self.checkpoint is None:
            return []
        return [self.checkpoint.adapter(linear.name, choice.rank)]


def _rounded(W: Callable[[], F32Array], bits: int, group: int) -> DenseCodes:
    return round_matrix(W(), bits=bits, group=group)


def nodes_by_name(model: ir.Model) -> dict[str, ir.Node]:
    """Every node of the main graph by its name."""
    return {node.name: node for node in model.graph if node.name}


def add_initializer(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Registers `tensor` as an initializer called `name`, or `name.1`, … where that is taken."""
    taken = _taken_names(model.graph)
    unique, number = name, 0
    while unique in taken:
        number += 1
        unique = f"{name}.{number}"
    value = ir.Value(
        name=unique,
        shape=ir.Shape(list(tensor.shape.numpy())),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.register_initializer(value)
    taken.add(unique)
    return value


_taken: weakref.WeakKeyDictionary[ir.Graph, set[str]] = weakref.WeakKeyDictionary()


def _taken_names(graph: ir.Graph) -> set[str]:
    """Of the values in `graph`, collected once: a model has thousands, and so do its initializers.

    What passes name later follows from names of nodes, which no initializer of theirs has; were it
    otherwise, the checker that runs over every written graph would say so.
    """
    if graph not in _taken:
        _taken[graph] = {
            *(str(value.name) for node in graph for value in node.outputs),
            *map(str, graph.initializers),
            *(str(value.name) for value in graph.inputs),
        }
    return _taken[graph]
