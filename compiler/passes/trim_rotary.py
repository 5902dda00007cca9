"""Tables of rotary embeddings end where the context does.

    cos_cache [positions, width / 2] f32  ->  [context, width / 2]

Rules:
  1. Of GroupQueryAttention and RotaryEmbedding (com.microsoft), which read row by row: a Llama of
     131 072 positions carries 34 MB of them, whatever context is asked for.
  2. A table that anything else reads is left alone; so is one that is chosen at run time.
"""

from __future__ import annotations

import onnx_ir as ir

_TABLES = {"GroupQueryAttention": (7, 8), "RotaryEmbedding": (2, 3)}  # places of cos and sin


class TrimRotary(ir.passes.InPlacePass):
    """The rules above.

    Args:
      context: positions that the artifact must serve.
    """

    def __init__(self, context: int) -> None:
        self._context = context

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Cuts every table that is longer."""
        found: set[ir.Value] = set()
        for node in model.graph:
            if node.domain == "com.microsoft":
                for place in _TABLES.get(node.op_type, ()):
                    value = node.inputs[place] if place < len(node.inputs) else None
                    if value is not None and self._is_table(value):
                        found.add(value)
        for value in found:
            whole = value.const_value
            assert whole is not None  # _is_table looked
            rows = whole.numpy()[: self._context].copy()
            value.const_value = ir.tensor(rows, name=value.name)
            value.shape = ir.Shape(list(rows.shape))
        return ir.passes.PassResult(model, bool(found))

    def _is_table(self, value: ir.Value) -> bool:
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or len(tensor.shape) != 2:
            return False
        return tensor.shape.numpy()[0] > self._context and all(
            use.node.domain == "com.microsoft" and use.idx in _TABLES.get(use.node.op_type, ())
            for use in value.uses()
        )
