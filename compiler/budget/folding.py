"""Nodes that read constants alone: onnxruntime computes them once, while it makes the session.

Of a Linear's weight they fall away altogether when its nodes are lowered (frontends.linears sees
through them): the Transpose of a table that is tied to the head, say.
"""

from __future__ import annotations

import onnx_ir as ir

_RANDOM = frozenset({"RandomNormal", "RandomUniform"})  # no inputs, and another result each time


def folded_nodes(model: ir.Model) -> frozenset[str]:
    """The names of the nodes of the main graph that depend on no input of the model."""
    found: set[str] = set()
    constant: set[ir.Value] = {
        value for value in model.graph.initializers.values() if not value.is_graph_input()
    }
    for node in model.graph:
        read = [value for value in node.inputs if value is not None]
        if node.op_type in _RANDOM or not all(value in constant for value in read):
            continue
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
               for a in node.attributes.values()):  # fmt: skip
            continue
        found.add(str(node.name))
        constant.update(node.outputs)
    return frozenset(found)


def final_readers(value: ir.Value, folded: frozenset[str]) -> set[str]:
    """The names of the nodes that read a constant when the model runs, through folded ones."""
    found: set[str] = set()
    for node, _ in value.uses():
        if str(node.name) in folded:
            found.update(*(final_readers(made, folded) for made in node.outputs))
        else:
            found.add(str(node.name))
    return found
