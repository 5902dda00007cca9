"""The lowered graph as a list of steps that make and read values: what memory planning needs of it.

The graph is still dense when memory is predicted, so what the passes will do to it is done here to
the steps:

    MatMul, Gemm of a sparse Linear + Add of a bias   -> one step
    any Linear with an adapter                        -> base, Down (H), Up (Y beside Y0)
    several that read one X                           -> one Down, with the ranks of all
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from slc.compiler.budget.choice import Choice
from slc.compiler.budget.folding import folded_nodes
from slc.compiler.budget.shapes import Shape
from slc.compiler.linear import Linear

# onnxruntime hands the input's buffer on under a new shape.
_ALIASES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Dropout"})
# Kernels that onnxruntime lets write over a dying input. Binary operators, Erf, Sigmoid and Tanh
# are not among them: measured, MatMul -> Softmax holds one matrix of scores, MatMul -> Erf two.
_IN_PLACE = frozenset({"Softmax", "LogSoftmax", "Relu", "Clip"})


@dataclasses.dataclass(frozen=True)
class Made:
    """A value that a step makes: its name, shape and bytes per element."""

    name: str
    shape: Shape
    itemsize: int

    @property
    def bytes(self) -> int:
        """Size of the value."""
        return math.prod(self.shape) * self.itemsize


@dataclasses.dataclass(frozen=True)
class Step:
    """One operator as memory planning sees it.

    Attributes:
      label: for people.
      reads: names of values; constants and the KV cache are left out.
      makes: values.
      alias: the first made value lies in the buffer of the first one read, whatever follows.
      in_place: it may, if nothing else still reads that one.
      workspace: bytes that the operator allocates for itself while it runs.
    """

    label: str
    reads: tuple[str, ...]
    makes: tuple[Made, ...]
    alias: bool = False
    in_place: bool = False
    workspace: int = 0


@dataclasses.dataclass(frozen=True)
class Steps:
    """A whole run: what is fed, done and kept; `unknown` values have no known shape."""

    inputs: tuple[Made, ...]
    steps: tuple[Step, ...]
    outputs: frozenset[str]
    unknown: int


def graph_steps(
    model: ir.Model,
    shapes: Mapping[str, Shape],
    linears: Sequence[Linear] = (),
    choices: Sequence[Choice] = (),
    extra_ranks: Mapping[str, int] | None = None,
    skip: Collection[str] = (),
    *,
    by_blocks: bool = False,
) -> Steps:
    """The steps of `model` once each Linear is stored by its Choice.

    Args:
      model: in topological order.
      shapes: of `shapes.concrete_shapes`.
      linears: with `choices`, in the same order.
      choices: one for each.
      extra_ranks: of task adapters, by Linear name.
      skip: names of values that are counted elsewhere: KV cache, weights that are fed.
      by_blocks: GroupQueryAttention walks the scores in blocks.
    """
    folded = folded_nodes(model)
    constant = {str(o.name) for n in model.graph if str(n.name) in folded for o in n.outputs}
    skipped = set(skip) | {str(name) for name in model.graph.initializers} | constant
    by_node = {
        node: (choice, choice.rank + (extra_ranks or {}).get(linear.name, 0))
        for linear, choice in zip(linears, choices, strict=True)
        for node in linear.nodes
    }
    biased = _bias_adds(model, {n for n, (c, _) in by_node.items() if c.packed})
    unknown = sum(
        1
        for node in model.graph
        for o in node.outputs
        if o.name and o.name not in shapes and o.name not in skipped
    )
    shared = _SharedDowns(model, {name: rank for name, (_, rank) in by_node.items() if rank})
    steps: list[Step] = []
    for node in model.graph:
        if str(node.name) in folded:
            continue
        step = _step(node, shapes, skipped, biased)
        step = dataclasses.replace(step, workspace=_workspace_bytes(node, shapes, by_blocks))
        steps += shared.adapted(node, step)
    inputs = [_made(v, shapes) for v in model.graph.inputs if str(v.name) not in skipped]
    outputs = frozenset(str(v.name) for v in model.graph.outputs) - skipped
    return Steps(tuple(inputs), tuple(steps), outputs, unknown)


def _made(value: ir.Value, shapes: Mapping[str, Shape]) -> Made:
    itemsize = max(1, int(value.dtype.bitwidth) // 8) if value.dtype is not None else 4
    return Made(str(value.name), shapes.get(str(value.name), (0,)), itemsize)


def _step(
    node: ir.Node, shapes: Mapping[str, Shape], skipped: Collection[str], biased: Collection[str]
) -> Step:
    reads = tuple(
        str(v.name) for v in node.inputs if v is not None and v.name and v.name not in skipped
    )
    makes = tuple(_made(o, shapes) for o in node.outputs if o.name and o.name not in skipped)
    standard = node.domain in ("", "ai.onnx")
    return Step(
        f"{node.op_type} {node.name or ''}".strip(),
        reads,
        makes,
        alias=(standard and node.op_type in _ALIASES) or str(node.name) in biased,
        in_place=standard and node.op_type in _IN_PLACE,
    )


def _bias_adds(model: ir.Model, sparse: Collection[str]) -> set[str]:
    """Names of the Adds of a constant that will move into the sparse operator before them."""
    found = set()
    for node in model.graph:
        if node.op_type != "Add" or len(node.inputs) != 2:
            continue
        for base, bias in (node.inputs, node.inputs[::-1]):
            producer = base.producer() if base is not None else None
            if (
                producer is not None
                and str(producer.name) in sparse
                and bias is not None
                and bias.is_initializer()
                and len(list(base.uses() if base is not None else ())) == 1
            ):
                found.add(str(node.name))
    return found


class _SharedDowns:
    """Y = base(x)  ->  y0 = base(x); h = Down(x), once for all that read x; y = Up(y0, h)."""

    def __init__(self, model: ir.Model, rank_of: Mapping[str, int]) -> None:
        self._adapted = frozenset(rank_of)
        self._ranks: Counter[ir.Value | None] = Counter()  # of all that read a value
        self._h: dict[ir.Value | None, Made] = {}
        for node in model.graph:
            self._ranks[_input(node)] += rank_of.get(str(node.name), 0)

    def adapted(self, node: ir.Node, base: Step) -> list[Step]:
        """The steps of one node: itself, where it has no adapter."""
        if str(node.name) not in self._adapted:
            return [base]
        y, x = base.makes[0], _input(node)
        y0 = dataclasses.replace(y, name=f"{y.name}/base")
        steps = [dataclasses.replace(base, makes=(y0,))]
        if x not in self._h:
            h = Made(f"{y.name}/H", (*y.shape[:-1], self._ranks[x]), y.itemsize)
            self._h[x] = h
            steps.append(Step(f"ConcatAdapterDown of {base.label}", base.reads[:1], (h,)))
        reads = (y0.name, self._h[x].name)
        return [*steps, Step(f"ConcatAdapterUp of {base.label}", reads, (y,))]


def _input(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if node.inputs else None


def _workspace_bytes(node: ir.Node, shapes: Mapping[str, Shape], by_blocks: bool) -> int:
    """What an operator allocates for itself while it runs.

    onnxruntime's fused attention operators hold the scores of every head, [batch, heads, length,
    length] f32, and query, key and value by head; GroupQueryAttention of recent releases walks the
    scores in blocks, so that nothing grows with the square of the length.
    """
    if node.op_type not in ("GroupQueryAttention", "MultiHeadAttention", "Attention"):
        return 0
    inputs = [shapes.get(str(v.name)) if v is not None else None for v in node.inputs[:3]]
    query = inputs[0]
    if query is None or len(query) < 3 or "num_heads" not in node.attributes:
        return 0
    copies = 4 * sum(math.prod(shape) for shape in inputs if shape is not None)
    if node.op_type == "GroupQueryAttention" and by_blocks:
        return copies
    return copies + 4 * query[0] * int(node.attributes["num_heads"].as_int()) * query[1] ** 2
