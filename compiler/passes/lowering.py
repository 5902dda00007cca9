"""What the passes read: the chosen encoding and the tensors of each Linear."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from slc.compiler.budget.choice import Choice
from slc.compiler.linear import Linear
from slc.ops.bitmap import Grid

if TYPE_CHECKING:
    from slc.compiler.structure.checkpoint import StructuredCheckpoint

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
      adapter_slots: pairs of overridable initializers per Linear for adapters loaded at run time.
    """

    linears: list[Linear]
    choices: dict[str, Choice]
    checkpoint: StructuredCheckpoint | None
    weight: Callable[[Linear], F32Array]
    adapters: dict[str, list[Adapter]] = dataclasses.field(default_factory=dict)
    adapter_slots: int = 0

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
            return matrix, np.ones(matrix.shape, dtype=np.bool_)
        index, value = self.checkpoint.sparse(linear.name, choice.nnz, choice.rank)
        matrix = np.zeros(linear.numel, dtype=np.float32)
        mask = np.zeros(linear.numel, dtype=np.bool_)
        matrix[index] = value
        mask[index] = True
        shape = (linear.N, linear.K)
        return matrix.reshape(shape), mask.reshape(shape)

    def grid(self, linear: Linear, choice: Choice) -> Grid | None:
        """The grid that S was rounded to for just this choice; None: encoding finds its own."""
        if self.checkpoint is None or linear.name not in self.checkpoint.names:
            return None
        entry = self.checkpoint.entry(linear.name)
        fits = (choice.value_type, choice.group) == (entry.value_type, entry.group)
        # A cut adapter gives S back what it loses, which takes the values off the grid.
        if choice.encoding != "bitmap" or not fits or choice.rank < entry.rank:
            return None
        stored = self.checkpoint.grid(linear.name)
        return None if stored is None else Grid(stored.scales, stored.codebook)

    def residual(self, linear: Linear, choice: Choice) -> list[Adapter]:
        """The residual adapter at the chosen rank, as a list of none or one."""
        if choice.rank == 0 or self.checkpoint is None:
            return []
        return [self.checkpoint.adapter(linear.name, choice.rank)]


def nodes_by_name(model: ir.Model) -> dict[str, ir.Node]:
    """Every node of the main graph by its name."""
    return {node.name: node for node in model.graph if node.name}


def add_initializer(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Registers `tensor` as an initializer called `name`, or `name.1`, … where that is taken."""
    taken = {str(value.name) for node in model.graph for value in node.outputs}
    taken |= {*map(str, model.graph.initializers), *(str(v.name) for v in model.graph.inputs)}
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
    return value
