"""Siblings that read one X (gate and up; q, k and v) share one down-projection.

    H1 = ConcatAdapterDown(X, A1)         ->  H  = ConcatAdapterDown(X, A1, A2)
    Y1 = ConcatAdapterUp(Z1, H1, B1)          Y1 = ConcatAdapterUp(Z1, H, B1), offset 0
    H2 = ConcatAdapterDown(X, A2)             Y2 = ConcatAdapterUp(Z2, H, B2), offset r1
    Y2 = ConcatAdapterUp(Z2, H2, B2)

Rules:
  1. X is read and converted once, and one GEMM of r1 + r2 rows keeps more threads busy than two.
  2. Every A stays an initializer of its own; the scales of int8 ones are joined in their order.
  3. Only Downs whose A's have the same types are joined, without a gate, read by nothing but Ups.
  4. A Down with a slot (an overridable A) keeps its own: its rank, and so the offset of whatever
     came behind it, is known only at run time.
  5. H takes the first one's place, name and type; where its rank was known it becomes the sum.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

import slc.ops
from slc.compiler.passes.lowering import add_initializer

_Key = tuple[ir.Value, frozenset[ir.DataType]]


@dataclasses.dataclass(frozen=True)
class _Down:
    """A ConcatAdapterDown that may be joined with others of its key."""

    node: ir.Node
    key: _Key
    parts: tuple[ir.Value, ...]  # the A's
    rank: int


class ShareAdapterDown(ir.passes.InPlacePass):
    """The rules above."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Joins the Downs of every X that has several."""
        groups: dict[_Key, list[_Down]] = {}
        for node in model.graph:
            down = _match(node)
            if down is not None:
                groups.setdefault(down.key, []).append(down)
        several = [downs for downs in groups.values() if len(downs) > 1]
        for downs in several:
            _join(model, downs)
        return ir.passes.PassResult(model, bool(several))


def _match(node: ir.Node) -> _Down | None:
    """The Down of `node`, None where rules 3 and 4 leave it alone."""
    if node.domain != slc.ops.DOMAIN or node.op_type != "ConcatAdapterDown":
        return None
    x, scale, gate, *inputs = node.inputs
    parts = tuple(part for part in inputs if part is not None)
    h = node.outputs[0]
    only_ups = not h.is_graph_output() and all(
        use.node.op_type == "ConcatAdapterUp" and use.idx == 1 for use in h.uses()
    )
    fixed = all(_is_constant(part) for part in parts)
    if x is None or gate is not None or not only_ups or not fixed:
        return None
    if scale is not None and not _is_constant(scale):
        return None
    tensors = [part.const_value for part in parts]
    rank = sum(int(tensor.shape.numpy()[0]) for tensor in tensors if tensor is not None)
    types = frozenset(tensor.dtype for tensor in tensors if tensor is not None)
    return _Down(node, (x, types), parts, rank)


def _is_constant(value: ir.Value) -> bool:
    return value.const_value is not None and not value.is_graph_input()


def _join(model: ir.Model, downs: list[_Down]) -> None:
    first = downs[0].node
    joined = ir.node(
        "ConcatAdapterDown",
        [downs[0].key[0], _scale(model, downs), None, *(a for down in downs for a in down.parts)],
        domain=slc.ops.DOMAIN,
        version=slc.ops.OP_VERSION,
        name=first.name,
    )
    h = joined.outputs[0]
    h.name, h.type = first.outputs[0].name, first.outputs[0].type
    shape = first.outputs[0].shape
    if shape is not None:
        # Where the first Down's rank stood, the sum of all ranks stands now.
        rank = sum(down.rank for down in downs) if isinstance(shape[-1], int) else None
        h.shape = ir.Shape([*shape.dims[:-1], rank])
    model.graph.insert_before(first, joined)
    offset = 0
    for down in downs:
        for use in list(down.node.outputs[0].uses()):
            up = use.node
            before = up.attributes["offset"].as_int() if "offset" in up.attributes else 0
            up.attributes["offset"] = ir.AttrInt64("offset", before + offset)
            up.replace_input_with(use.idx, h)
        offset += down.rank
        scale = down.node.inputs[1]
        model.graph.remove(down.node, safe=True)
        if scale is not None and not scale.uses():
            model.graph.initializers.pop(str(scale.name), None)


def _scale(model: ir.Model, downs: list[_Down]) -> ir.Value | None:
    """The scales of all int8 rows, one Down's behind the other's."""
    scales = [down.node.inputs[1] for down in downs]
    arrays = [s.const_value.numpy() for s in scales if s is not None and s.const_value is not None]
    if not arrays:
        return None
    joined = np.concatenate([array.reshape(-1) for array in arrays])
    return add_initializer(model, f"{downs[0].node.name}.scales", ir.tensor(joined))
