"""Gives every node a unique name: profilers, reports and the per-Linear checks go by it.

Rules:
  1. A node that has a name no other has keeps it.
  2. Others are called by their operator and a number, in graph order.
"""

from __future__ import annotations

import onnx_ir as ir


class NameNodes(ir.passes.InPlacePass):
    """The rules above."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Names nodes without a name or with one that is taken."""
        taken: set[str] = set()
        modified = False
        for node in model.graph.all_nodes():
            name, number = node.name or node.op_type, 0
            while name in taken:
                number += 1
                name = f"{node.name or node.op_type}_{number}"
            if name != node.name:
                node.name, modified = name, True
            taken.add(name)
        return ir.passes.PassResult(model, modified)
