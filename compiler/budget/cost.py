"""Predicts how long a token takes: microseconds per Linear, tokens a second of a whole decoder.

    a call = us_per_call + max(bytes / bandwidth, instructions / cores)

where instructions are the kernel's figures (`targets/kernel_figures.py`) times what it walks. One
row of X: decoding at batch 1. Every weight is reckoned to come from memory, and onnxruntime to run
on all of the target's cores. onnxruntime-genai takes half of them by itself: it needs
`intra_op_num_threads` in genai_config.json to reach what is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slc.compiler.budget import operation as op
from slc.compiler.budget.choice import AdapterType, Choice
from slc.compiler.budget.cost_plan import CostLine, CostPlan
from slc.compiler.budget.folding import folded_nodes
from slc.compiler.budget.memory import Workload
from slc.compiler.budget.operation import KernelCost, Machine, Operation
from slc.compiler.budget.shapes import concrete_shapes
from slc.compiler.linear import Linear
from slc.targets.kernel_figures import kernel_figures, kernels_source

if TYPE_CHECKING:
    import onnx_ir as ir

    from slc.targets import Target

__all__ = ["CostLine", "CostModel", "CostPlan", "decode_cost", "linear_us", "not_modelled"]

_ATTENTION = ("GroupQueryAttention", "MultiHeadAttention", "Attention")
# Gather of codes and of scales, the product, and the shapes between them, as QuantizeDense spells
# an 8-bit table.
TABLE_NODES = 10
_ADAPTER_BYTES = {"f16": 2, "i8": 1}


class CostModel:
    """The figures of one target, ready to be asked for many Linears."""

    def __init__(self, target: Target) -> None:
        self.machine = Machine(target.bandwidth_bytes_per_s / 1e6, target.cores)
        self.kernels = {
            name: KernelCost(figures, self.machine)
            for name, figures in kernel_figures(target).items()
        }
        self._adapters: dict[tuple[int, int, int, AdapterType], float] = {}

    def us(self, operation: Operation) -> float:
        """Microseconds of one call."""
        return self.kernels[operation.kernel].us(operation)

    def linear_us(self, linear: Linear, choice: Choice, extra_rank: int = 0) -> float:
        """Microseconds per token of `linear`, its adapters included; see `linear_us`."""
        total = self.base_us(linear, choice, extra_rank)
        rank = choice.rank + extra_rank
        if rank and linear.kind != "embedding":
            total += len(linear.nodes) * self._adapter_us(linear, rank, choice.adapter_type)
        return total

    def _adapter_us(self, linear: Linear, rank: int, adapter_type: AdapterType) -> float:
        """Down and Up; kept, because a plan asks for few ranks of few shapes many times."""
        key = (linear.N, linear.K, rank, adapter_type)
        if key not in self._adapters:
            kernel, itemsize = adapter_kernel(adapter_type)
            down = self.us(op.down(kernel, rank, linear.K, itemsize))
            self._adapters[key] = down + self.us(op.up(kernel, linear.N, rank, itemsize))
        return self._adapters[key]

    def base_us(self, linear: Linear, choice: Choice, extra_rank: int = 0) -> float:
        """Microseconds per token of every node of `linear`, without its adapters."""
        if linear.kind == "embedding":
            nodes = 1 if choice.encoding == "dense" else TABLE_NODES
            return len(linear.nodes) * nodes * self.us(op.node(linear.K))
        return len(linear.nodes) * self.us(base_operation(linear, choice, extra_rank))


def base_operation(linear: Linear, choice: Choice, extra_rank: int = 0) -> Operation:
    """What a node of `linear` does without its adapters."""
    N, K = linear.N, linear.K
    if choice.encoding == "dense":
        return op.dense(N, K, linear.itemsize)
    suffix = "_level1" if choice.accuracy_level != 4 else ""
    if choice.encoding == "int8" or choice.encoding == "int4":
        bits = 8 if choice.encoding == "int8" else 4
        return op.quantized(choice.encoding + suffix, N, K, bits, choice.group)
    if choice.value_type == "f16" or choice.encoding == "delta":
        suffix = ""  # always multiplied in float32
    rank = choice.rank + extra_rank
    adapter = rank * (N + K) * _ADAPTER_BYTES[choice.adapter_type]
    kernel = f"{choice.encoding}_{choice.value_type}{suffix}"
    return op.sparse(kernel, N, K, choice.nnz, choice.weight_bytes - adapter)


def adapter_kernel(adapter_type: AdapterType) -> tuple[str, int]:
    """The kernel of adapters of that type, and their bytes per element."""
    return f"adapter_{adapter_type}", _ADAPTER_BYTES[adapter_type]


_last: tuple[Target, CostModel] | None = None  # targets can't be hashed, and rarely change


def cost_model(target: Target) -> CostModel:
    """The model of `target`, made once while it is the one that is asked for."""
    global _last
    if _last is None or _last[0] is not target:
        _last = (target, CostModel(target))
    return _last[1]


def linear_us(linear: Linear, choice: Choice, target: Target, extra_rank: int = 0) -> float:
    """Microseconds that one token spends in `linear` on `target`, one row of X.

    An adapter counts as two operators; siblings that share a Down are counted apart, which only
    `decode_cost` can tell.

    Args:
      linear: the weight; what several nodes do is added up.
      choice: how it is stored.
      target: the device.
      extra_rank: rank of task adapters beside the residual one.
    """
    return cost_model(target).linear_us(linear, choice, extra_rank)


def not_modelled(workload: Workload) -> str | None:
    """Why `decode_cost` has no answer, one clause; None if it has."""
    if workload.genai_config is None:
        return "only decoders have a predicted speed, one token at a time"
    if workload.batch != 1:
        return f"speed is predicted for one sequence at a time, not for a batch of {workload.batch}"
    return None


def decode_cost(
    model: ir.Model,
    linears: Sequence[Linear],
    choices: Sequence[Choice],
    workload: Workload,
    target: Target,
    extra_ranks: Mapping[str, int] | None = None,
) -> CostPlan | None:
    """The time of one token of a decoder, at half of `workload.context`; None: `not_modelled`.

    Args:
      model: the graph before lowering; no weight is read.
      linears: as the frontend found them.
      choices: one for each of `linears`, in that order.
      workload: batch and context.
      target: the device.
      extra_ranks: of task adapters, by Linear name.
    """
    if not_modelled(workload) is not None or workload.genai_config is None:
        return None
    cost, config = cost_model(target), workload.genai_config["model"]
    context = max(1, workload.context // 2)
    stored = [
        (linear, choice, choice.rank + (extra_ranks or {}).get(linear.name, 0))
        for linear, choice in zip(linears, choices, strict=True)
    ]
    attention = [_attention(config["decoder"], model, context)] * _attention_nodes(model, config)
    others = _other_nodes(model, stored)
    vocabulary = int(config["vocab_size"])
    runtime = op.runtime(vocabulary)
    lines = (
        _linears_line(cost, stored),
        _line(cost, "adapters", list(_adapter_operations(model, stored)),
              "Down once for all that read one X, Up for each"),
        _line(cost, "attention", attention, f"{context} tokens in the cache, half of the context"),
        _line(cost, "other nodes", others, f"{len(others)} nodes of the graph"),
        _line(cost, "runtime", [runtime], f"onnxruntime-genai, vocabulary of {vocabulary}"),
    )  # fmt: skip
    return CostPlan(lines, context, kernels_source(target))


_Stored = tuple[Linear, Choice, int]  # and the rank of all its adapters


def _linears_line(cost: CostModel, stored: Sequence[_Stored]) -> CostLine:
    parts, weight_bytes = [], 0
    for linear, choice, rank in stored:
        table = linear.kind == "embedding"
        kernel = "node" if table else base_operation(linear, choice).kernel
        parts.append((kernel, cost.base_us(linear, choice, rank - choice.rank)))
        weight_bytes += 0 if table else choice.weight_bytes
    reckoned = f"{len(stored)} Linears, {weight_bytes / 1e6:.1f} MB"
    return _sum(cost, "Linears", parts, reckoned)


def _line(cost: CostModel, name: str, operations: Iterable[Operation], reckoned: str) -> CostLine:
    parts = []
    for operation in operations:
        kernel = cost.kernels[operation.kernel]
        parts.append((operation.kernel, kernel.us(operation) + kernel.us_per_token))
    return _sum(cost, name, parts, reckoned)


def _sum(cost: CostModel, name: str, parts: Iterable[tuple[str, float]], reckoned: str) -> CostLine:
    """The line of `parts`: a kernel and microseconds each."""
    us = low_us = high_us = 0.0
    for kernel, part in parts:
        low, high = cost.kernels[kernel].ratios
        us, low_us, high_us = us + part, low_us + part * low, high_us + part * high
    return CostLine(name, us, low_us, high_us, reckoned)


def _adapter_operations(model: ir.Model, stored: Sequence[_Stored]) -> Iterable[Operation]:
    """Ups, and the Downs that are left once those that read one X are joined."""
    x_of = {str(n.name): n.inputs[0] for n in model.graph if n.inputs}
    downs: dict[tuple[Any, str], tuple[int, int, int]] = {}
    for linear, choice, rank in stored:
        if not rank or linear.kind == "embedding":
            continue
        kernel, itemsize = adapter_kernel(choice.adapter_type)
        for name in linear.nodes:
            key = (x_of.get(name, name), kernel)
            downs[key] = (downs.get(key, (0,))[0] + rank, linear.K, itemsize)
            yield op.up(kernel, linear.N, rank, itemsize)
    for (_, kernel), (rank, K, itemsize) in downs.items():
        yield op.down(kernel, rank, K, itemsize)


def _attention(decoder: Mapping[str, Any], model: ir.Model, tokens: int) -> Operation:
    heads, kv_heads = decoder["num_attention_heads"], decoder["num_key_value_heads"]
    past = str(decoder["inputs"].get("past_key_names", "")).replace("%d", "0")
    itemsize = next(
        (v.dtype.bitwidth // 8 for v in model.graph.inputs if v.name == past and v.dtype), 4
    )
    return op.attention(heads, kv_heads, decoder["head_size"], tokens, itemsize)


def _attention_nodes(model: ir.Model, config: Mapping[str, Any]) -> int:
    """Fused ones; a graph that spells attention out has its products among the other nodes."""
    fused = sum(node.op_type in _ATTENTION for node in model.graph)
    return fused or int(config["decoder"]["num_hidden_layers"])


def _other_nodes(model: ir.Model, stored: Sequence[_Stored]) -> list[Operation]:
    """All that are neither Linears nor attention, nor vanish when the graph is lowered."""
    linear_nodes = {name for linear, _, _ in stored for name in linear.nodes}
    packed = {name for linear, choice, _ in stored if choice.packed for name in linear.nodes}
    shapes, folded = concrete_shapes(model, 1, 1), folded_nodes(model)
    found = []
    for node in model.graph:
        gone = str(node.name) in linear_nodes or _is_fused_bias(node, packed)
        if gone or str(node.name) in folded or node.op_type in _ATTENTION:
            continue
        made = (shapes.get(str(value.name), ()) for value in node.outputs[:1])
        found.append(op.node(sum(math.prod(shape) for shape in made)))
    return found


def _is_fused_bias(node: ir.Node, packed: Collection[str]) -> bool:
    """Whether it adds a constant to what one of the nodes `packed` makes, which will do that."""
    if node.op_type != "Add":
        return False
    producers = (v.producer() for v in node.inputs if v is not None)
    constant = any(v is not None and v.is_initializer() for v in node.inputs)
    return constant and any(p is not None and str(p.name) in packed for p in producers)
