"""Moves a constant bias into the sparse operator's epilogue: one pass over Y less.

    Add(BitmapSparseGemm(X, packed), b: [N])  -> BitmapSparseGemm(X, packed, b)

Rules:
  1. The operator has no bias yet and its output has no other reader and is no graph output.
  2. b is a constant f32 vector of exactly N elements, on either side of the Add.
"""

from __future__ import annotations

import onnx_ir as ir

import slc.ops


class FuseBias(ir.passes.InPlacePass):
    """The rules above."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuses every Add that follows."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "BitmapSparseGemm" and node.domain == slc.ops.DOMAIN:
                modified |= _fuse(model, node)
        return ir.passes.PassResult(model, modified)


def _fuse(model: ir.Model, node: ir.Node) -> bool:
    output = node.outputs[0]
    uses = list(output.uses())
    if len(node.inputs) > 2 or len(uses) != 1 or output.is_graph_output():
        return False
    add = uses[0].node
    if add.op_type != "Add" or add.domain != "" or add.inputs[0] is add.inputs[1]:
        return False
    bias = add.inputs[1 - uses[0].idx]
    size = node.attributes["N"].value
    if bias is None or bias.const_value is None or bias.is_graph_input():
        return False
    if tuple(bias.const_value.shape) != (size,) or bias.const_value.dtype != ir.DataType.FLOAT:
        return False
    fused = ir.Node(
        node.domain,
        node.op_type,
        [node.inputs[0], node.inputs[1], bias],
        node.attributes,
        version=node.version,
        name=node.name,
    )
    ir.convenience.replace_nodes_and_values(
        model.graph, add, [add, node], [fused], [add.outputs[0]], [fused.outputs[0]]
    )
    return True
