"""Adds the low-rank part behind each Linear, all its adapters in two GEMMs (as SALR does).

    Y = base(X, …)  ->  H = ConcatAdapterDown(X, A_static, A_slot0, …)
                        Y = ConcatAdapterUp(base(X, …), H, B_static, B_slot0, …)

Rules:
  1. The residual adapter and every static task adapter of a Linear are concatenated along the rank
     into one A: [R, K] and one B: [N, R], in f16.
  2. A slot is a pair of overridable initializers of rank 0 and symbolic rank, in f32.
  3. A Linear with neither is left alone; the base may be our operator or a dense one.
  4. Graph outputs keep their name: the adapted value takes it over.
  5. H and Y carry their types and, where known, their shapes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

import slc.ops
from slc.compiler.budget.choice import Choice
from slc.compiler.errors import ModelError
from slc.compiler.linear import Linear
from slc.compiler.passes.lowering import (
    Adapter,
    F32Array,
    Lowering,
    add_initializer,
    nodes_by_name,
)

_F16_MAX = float(np.finfo(np.float16).max)


class AttachAdapters(ir.passes.InPlacePass):
    """The rules above."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Attaches adapters to every Linear that has any."""
        nodes = nodes_by_name(model)
        modified = False
        for linear in self._lowering.linears:
            choice = self._lowering.choices[linear.name]
            if linear.kind == "embedding":
                continue
            pairs = _static_pair(model, self._lowering, linear, choice)
            if linear.kind == "linear":
                pairs += _slots(model, linear, self._lowering.adapter_slots)
            if not pairs:
                continue
            for name in linear.nodes:
                _attach(model, nodes[name], pairs)
                modified = True
        return ir.passes.PassResult(model, modified)


def slot_names(linear: str, slot: int) -> tuple[str, str]:
    """Names of a slot's A and B initializers, which are the parameter names in `.onnx_adapter`."""
    return f"{linear}.slot{slot}.lora_A", f"{linear}.slot{slot}.lora_B"


def concatenated_rank(lowering: Lowering, linear: Linear) -> int:
    """R of the static part: the residual's rank and those of all task adapters."""
    ranks = [int(a.shape[0]) for a, _ in lowering.adapters.get(linear.name, [])]
    return lowering.choices[linear.name].rank + sum(ranks)


def balanced(a: F32Array, b: F32Array, name: str) -> Adapter:
    """Scales each component's two factors by opposite powers of two, so that both fit f16 alike.

    B·A is unchanged to the bit; f16 then neither overflows on one side nor loses bits on the other.

    Raises:
      ModelError: a component is too large for two f16 factors.
    """
    largest_a = np.abs(a).max(axis=1, initial=0).astype(np.float64)
    largest_b = np.abs(b).max(axis=0, initial=0).astype(np.float64)
    both = (largest_a > 0) & (largest_b > 0)
    ratio = np.divide(largest_b, largest_a, out=np.ones_like(largest_a), where=both)
    power = np.rint(np.log2(ratio) / 2).astype(np.int32)
    a, b = np.ldexp(a, power[:, None]), np.ldexp(b, -power[None, :])
    if max(np.abs(a).max(initial=0), np.abs(b).max(initial=0)) > _F16_MAX:
        raise ModelError(
            f"the adapter of {name!r} has components beyond 4e9, which two f16 factors can't hold: "
            "rescale the model's weights or export it with --rank 0"
        )
    return a, b


def _static_pair(
    model: ir.Model, lowering: Lowering, linear: Linear, choice: Choice
) -> list[tuple[ir.Value, ir.Value]]:
    rank = concatenated_rank(lowering, linear)
    if rank == 0:
        return []

    def pair() -> Adapter:
        adapters = lowering.residual(linear, choice) + lowering.adapters.get(linear.name, [])
        a = np.concatenate([a for a, _ in adapters], axis=0)
        b = np.concatenate([b for _, b in adapters], axis=1) * np.float32(linear.alpha)
        return balanced(a, b, linear.name)

    def down() -> ir.TensorProtocol:
        return ir.Tensor(pair()[0].astype(np.float16))

    def up() -> ir.TensorProtocol:
        return ir.Tensor(pair()[1].astype(np.float16))

    f16 = ir.DataType.FLOAT16
    a_tensor = ir.LazyTensor(down, dtype=f16, shape=ir.Shape([rank, linear.K]))
    b_tensor = ir.LazyTensor(up, dtype=f16, shape=ir.Shape([linear.N, rank]))
    return [
        (
            add_initializer(model, f"{linear.name}.lora_A", a_tensor),
            add_initializer(model, f"{linear.name}.lora_B", b_tensor),
        )
    ]


def _slots(model: ir.Model, linear: Linear, count: int) -> list[tuple[ir.Value, ir.Value]]:
    pairs = []
    for slot in range(count):
        a_name, b_name = slot_names(linear.name, slot)
        rank = f"rank_{linear.name}.slot{slot}"
        a = add_initializer(model, a_name, ir.tensor(np.zeros((0, linear.K), np.float32)))
        b = add_initializer(model, b_name, ir.tensor(np.zeros((linear.N, 0), np.float32)))
        a.shape = ir.Shape([rank, linear.K])
        b.shape = ir.Shape([linear.N, rank])
        model.graph.inputs.extend([a, b])  # input + initializer = overridable
        pairs.append((a, b))
    return pairs


def _attach(model: ir.Model, base: ir.Node, pairs: list[tuple[ir.Value, ir.Value]]) -> None:
    y0 = base.outputs[0]
    readers = list(y0.uses())
    down = ir.node(
        "ConcatAdapterDown",
        [base.inputs[0], None, None, *(a for a, _ in pairs)],
        domain=slc.ops.DOMAIN,
        version=slc.ops.OP_VERSION,
        name=f"{base.name}/ConcatAdapterDown",
    )
    up = ir.node(
        "ConcatAdapterUp",
        [y0, down.outputs[0], None, *(b for _, b in pairs)],
        {"offset": 0},
        domain=slc.ops.DOMAIN,
        version=slc.ops.OP_VERSION,
        name=f"{base.name}/ConcatAdapterUp",
    )
    y = up.outputs[0]
    # onnxruntime 1.17 can't infer the outputs of an operator with left-out or variadic inputs.
    y.type, y.shape = y0.type, y0.shape
    down.outputs[0].type = y0.type
    if y0.shape is not None:
        down.outputs[0].shape = ir.Shape([*y0.shape[:-1], None])
    for use in readers:
        use.node.replace_input_with(use.idx, y)
    graph = model.graph
    if y0.is_graph_output():
        y.name, y0.name = y0.name, f"{y0.name}/base"
        for i, output in enumerate(graph.outputs):
            if output is y0:
                graph.outputs[i] = y
    graph.insert_after(base, [down, up])
