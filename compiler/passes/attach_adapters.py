"""Adds the low-rank part behind each Linear, all its adapters in two GEMMs (as SALR does).

    Y = base(X, …)  ->  H = ConcatAdapterDown(X, s, , A_static, A_slot0, …)
                        Y = ConcatAdapterUp(base(X, …), H, t, B_static, B_slot0, …)

Rules:
  1. The residual adapter and every static task adapter of a Linear are concatenated along the rank
     into one A: [R, K] and one B: [N, R], in f16.
  2. Where the Choice says so, the residual adapter is an int8 pair of its own, with a scale for
     each row of A (s) and of B (t), and the task adapters are an f16 pair behind it: the residual
     is an approximation anyway, a task adapter is what somebody trained. s and t are left out where
     there is no such pair.
  3. A slot is a pair of overridable initializers of rank 0 and symbolic rank, in f32.
  4. A Linear with none of these is left alone; the base may be our operator or a dense one.
  5. Graph outputs keep their name: the adapted value takes it over.
  6. H and Y carry their types and, where known, their shapes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

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
from slc.compiler.structure.adapter_rounding import RoundedAdapter, round_adapter

_F16_MAX = float(np.finfo(np.float16).max)


@dataclasses.dataclass(frozen=True)
class _Pair:
    """One A and B of the variadic inputs; scales of int8 ones."""

    a: ir.Value
    b: ir.Value
    a_scale: ir.Value | None = None
    b_scale: ir.Value | None = None


class AttachAdapters(ir.passes.InPlacePass):
    """The rules above."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Attaches adapters to every Linear that has any."""
        nodes = nodes_by_name(model)
        modified = False
        # The four tensors of an int8 pair are written in a row: one Linear's are kept meanwhile.
        rounded = functools.lru_cache(maxsize=1)(self._rounded)
        for linear in self._lowering.linears:
            choice = self._lowering.choices[linear.name]
            if linear.kind == "embedding":
                continue
            pairs = _static_pairs(model, self._lowering, linear, choice, rounded)
            if has_slots(linear):
                pairs += _slots(model, linear, self._lowering.adapter_slots)
            if not pairs:
                continue
            for name in linear.nodes:
                _attach(model, nodes[name], pairs)
                modified = True
        return ir.passes.PassResult(model, modified)

    def _rounded(self, linear: Linear) -> RoundedAdapter:
        """The residual adapter in int8."""
        ((a, b),) = self._lowering.residual(linear, self._lowering.choices[linear.name])
        made = round_adapter(a, b * np.float32(linear.alpha))
        if not (np.isfinite(made.A_scale).all() and np.isfinite(made.B_scale).all()):
            raise ModelError(
                f"the adapter of {linear.name!r} has components beyond 4e40, which int8 factors "
                "with f32 scales can't hold: rescale the model's weights or export it with --rank 0"
            )
        return made


def has_slots(linear: Linear) -> bool:
    """Whether adapters can be loaded onto a Linear at run time: not onto an output head."""
    return linear.kind == "linear"


def slot_names(linear: str, slot: int) -> tuple[str, str]:
    """Names of a slot's A and B initializers, which are the parameter names in `.onnx_adapter`."""
    return f"{linear}.slot{slot}.lora_A", f"{linear}.slot{slot}.lora_B"


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


def _static_pairs(
    model: ir.Model,
    lowering: Lowering,
    linear: Linear,
    choice: Choice,
    rounded: Callable[[Linear], RoundedAdapter],
) -> list[_Pair]:
    """Rules 1 and 2."""
    tasks = lowering.adapters.get(linear.name, [])
    task_rank = sum(int(a.shape[0]) for a, _ in tasks)
    if choice.adapter_type == "i8" and choice.rank:
        residual = _int8_pair(model, linear, choice.rank, rounded)
        if not tasks:
            return [residual]
        return [residual, _f16_pair(model, linear, "task", task_rank, lambda: tasks)]
    if choice.rank + task_rank == 0:
        return []

    def both() -> list[Adapter]:
        return lowering.residual(linear, choice) + tasks

    return [_f16_pair(model, linear, "lora", choice.rank + task_rank, both)]


def _f16_pair(
    model: ir.Model, linear: Linear, prefix: str, rank: int, read: Callable[[], list[Adapter]]
) -> _Pair:
    """The adapters that `read` gives, concatenated along the rank when they are written."""

    def pair() -> Adapter:
        adapters = read()
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
    return _Pair(
        add_initializer(model, f"{linear.name}.{prefix}_A", a_tensor),
        add_initializer(model, f"{linear.name}.{prefix}_B", b_tensor),
    )


def _int8_pair(
    model: ir.Model, linear: Linear, rank: int, rounded: Callable[[Linear], RoundedAdapter]
) -> _Pair:
    """The residual adapter and its scales, rounded when they are written."""

    def lazy(field: str, dtype: ir.DataType, *shape: int) -> ir.Value:
        tensor = ir.LazyTensor(
            lambda: ir.Tensor(getattr(rounded(linear), field)), dtype=dtype, shape=ir.Shape(shape)
        )
        return add_initializer(model, f"{linear.name}.lora_{field}", tensor)

    i8, f32 = ir.DataType.INT8, ir.DataType.FLOAT
    return _Pair(
        lazy("A", i8, rank, linear.K),
        lazy("B", i8, linear.N, rank),
        lazy("A_scale", f32, rank),
        lazy("B_scale", f32, linear.N),
    )


def _slots(model: ir.Model, linear: Linear, count: int) -> list[_Pair]:
    pairs = []
    for slot in range(count):
        a_name, b_name = slot_names(linear.name, slot)
        rank = f"rank_{linear.name}.slot{slot}"
        a = add_initializer(model, a_name, ir.tensor(np.zeros((0, linear.K), np.float32)))
        b = add_initializer(model, b_name, ir.tensor(np.zeros((linear.N, 0), np.float32)))
        a.shape = ir.Shape([rank, linear.K])
        b.shape = ir.Shape([linear.N, rank])
        model.graph.inputs.extend([a, b])  # input + initializer = overridable
        pairs.append(_Pair(a, b))
    return pairs


def _attach(model: ir.Model, base: ir.Node, pairs: list[_Pair]) -> None:
    y0 = base.outputs[0]
    a_scale = next((pair.a_scale for pair in pairs if pair.a_scale is not None), None)
    b_scale = next((pair.b_scale for pair in pairs if pair.b_scale is not None), None)
    readers = list(y0.uses())
    down = ir.node(
        "ConcatAdapterDown",
        [base.inputs[0], a_scale, None, *(pair.a for pair in pairs)],
        domain=slc.ops.DOMAIN,
        version=slc.ops.OP_VERSION,
        name=f"{base.name}/ConcatAdapterDown",
    )
    up = ir.node(
        "ConcatAdapterUp",
        [y0, down.outputs[0], b_scale, *(pair.b for pair in pairs)],
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
