"""Analysis: which constants of a graph are Linears, and why the others are not.

A constant 2-D weight (an initializer: frontends lift Constant nodes first) counts for every MatMul
and Gemm that multiplies by it from the right and for every Gather that looks rows up in it:

1. `MatMul(x, C)`: C holds Wᵀ. `Gemm(x, C, b?)`: C holds W with transB=1, Wᵀ without; alpha is
   kept in the Linear, beta and b are the lowering's business. `Gather(C, i, axis=0)` with at least
   256 rows is an embedding.
2. C may sit behind Identity, Transpose(perm=[1, 0]) and Cast: these are seen through, and fall
   away once the nodes that read them are rewritten.
3. Nodes that read one C in one way (same orientation, same alpha, same kind) share one Linear.
   Read in two ways (a tied embedding; an autoencoder's W and Wᵀ) it makes two Linears on one
   weight. Other readers of C (an Add, say) keep the dense constant alive for themselves.
"""

from __future__ import annotations

import collections
import dataclasses
import re

import onnx_ir as ir

from slc.compiler.frontends.weights import FLOAT_TYPES
from slc.compiler.linear import Kind, Linear, Refusal

BYTES_MIN = 1024  # of the dense fp32 weight: below it a packed blob's header eats the gain
EMBEDDING_ROWS_MIN = 256  # smaller tables (token types) are not worth a lookup of their own

_COMPUTE_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_FUSED = {"Attention", "FusedMatMul", "FusedGemm", "QAttention"}  # com.microsoft's, B inside


@dataclasses.dataclass(frozen=True)
class _Use:
    """One node's reading of a constant."""

    node: ir.Node
    constant: ir.Value
    tensor: ir.TensorProtocol
    transposed: bool  # the constant holds Wᵀ
    kind: Kind
    alpha: float


def find_linears(
    model: ir.Model, vocab_size: int | None = None
) -> tuple[list[Linear], list[Refusal]]:
    """Finds the Linears of a graph, in graph order.

    Args:
      model: nodes must have names.
      vocab_size: of a language model: the last Linear with so many rows is its lm_head, as is
        the one that gives the output `logits`.

    Returns:
      The Linears, and a Refusal for each weight that looks like one and can't be.
    """
    groups: dict[tuple[str, bool, float, Kind], list[_Use]] = {}
    refusals: dict[str, Refusal] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        use = _use(node, model.graph)
        if isinstance(use, Refusal):
            refusals.setdefault(use.name, use)
        elif use is not None:
            key = (use.constant.name or "", use.transposed, use.alpha, use.kind)
            groups.setdefault(key, []).append(use)
    head = _lm_head(model.graph, groups, vocab_size)
    readings = collections.Counter(key[0] for key in groups)
    names: set[str] = set()
    linears = []
    for key, uses in groups.items():
        name = _unique(_clean_name(uses[0], by_node=readings[key[0]] > 1), names)
        linears.append(_linear(name, uses, "lm_head" if key == head else uses[0].kind))
    return linears, list(refusals.values())


def _linear(name: str, uses: list[_Use], kind: Kind) -> Linear:
    rows, columns = (int(d) for d in uses[0].tensor.shape.numpy())
    first = uses[0]
    return Linear(
        name=name,
        N=columns if first.transposed else rows,
        K=rows if first.transposed else columns,
        weight=first.constant.name or "",
        transposed=first.transposed,
        nodes=tuple(use.node.name or "" for use in uses),
        kind=kind,
        alpha=first.alpha,
    )


def _use(node: ir.Node, graph: ir.Graph) -> _Use | Refusal | None:
    """Reads one node: a use of a constant weight, a refusal, or nothing of interest."""
    if node.op_type in _FUSED and node.domain == "com.microsoft":
        return _refuse_fused(node)
    if node.domain not in ("", "ai.onnx") or node.op_type not in {"MatMul", "Gemm", "Gather"}:
        return None
    place = 0 if node.op_type == "Gather" else 1
    found = _constant(node.inputs[place])
    if found is None:
        return _refuse_left(node)
    constant, tensor, flipped, dtype = found
    if constant.is_graph_input():
        return Refusal(_label(constant), "is an overridable graph input, not a constant")
    if node.op_type == "Gather":
        if not _is_embedding(node, tensor, flipped):
            return None
        kind: Kind = "embedding"
        transposed, alpha = flipped, 1.0
    else:
        kind, alpha = "linear", float(node.attributes.get_float("alpha", 1.0))
        stored_as_w = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) != 0
        transposed = stored_as_w == flipped
    reason = _reason_against(node, graph, tensor, dtype)
    if reason is not None:
        return Refusal(_label(constant), reason)
    return _Use(node, constant, tensor, transposed, kind, alpha)


def _reason_against(
    node: ir.Node, graph: ir.Graph, tensor: ir.TensorProtocol, dtype: ir.DataType
) -> str | None:
    shape = tensor.shape.numpy()
    if len(shape) != 2:
        return f"has {len(shape)} dimensions {list(shape)}; a Linear's weight has 2"
    if tensor.dtype not in FLOAT_TYPES or dtype not in _COMPUTE_TYPES:
        return f"is computed with in {dtype.name.lower()}; float32 and float16 are supported"
    if node.graph is not graph:
        return f"is used inside a subgraph, by {node.name!r}"
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0:
        return "is used by a Gemm with transA=1: its rows are not the batch"
    if shape[0] * shape[1] * 4 < BYTES_MIN:
        return "is under 1 KB: nothing to gain"
    return None


def _constant(
    value: ir.Value | None,
) -> tuple[ir.Value, ir.TensorProtocol, bool, ir.DataType] | None:
    """Follows a value to the constant behind it.

    Returns:
      The constant's value, its tensor, whether it is read transposed, and the type it is computed
      in; None for what isn't constant.
    """
    flipped = False
    dtype: ir.DataType | None = None
    while value is not None:
        if value.is_initializer() and value.const_value is not None:
            tensor = value.const_value
            return value, tensor, flipped, dtype or tensor.dtype
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Transpose":
            perm = node.attributes.get_ints("perm")
            if perm is not None and list(perm) != [1, 0]:
                return None
            flipped = not flipped
        elif node.op_type == "Cast" and dtype is None:
            dtype = ir.DataType(node.attributes.get_int("to"))
        elif node.op_type != "Identity":
            return None
        value = node.inputs[0]
    return None


def _is_embedding(node: ir.Node, tensor: ir.TensorProtocol, flipped: bool) -> bool:
    shape = tensor.shape.numpy()
    return (
        len(shape) == 2
        and node.attributes.get_int("axis", 0) == 0
        and tensor.dtype in FLOAT_TYPES
        and shape[1 if flipped else 0] >= EMBEDDING_ROWS_MIN
    )


def _refuse_left(node: ir.Node) -> Refusal | None:
    if node.op_type == "Gather":
        return None
    right = node.inputs[1].producer() if node.inputs[1] is not None else None
    if right is not None and right.op_type == "DequantizeLinear":
        return Refusal(_label(right.inputs[0]), "is already quantized: start from the float model")
    found = _constant(node.inputs[0])
    if found is None or len(found[1].shape) != 2 or found[1].dtype not in FLOAT_TYPES:
        return None
    return Refusal(_label(found[0]), f"is the left operand of {node.name!r}: y = W·x, not x·Wᵀ")


def _refuse_fused(node: ir.Node) -> Refusal | None:
    found = _constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if found is None or len(found[1].shape) != 2:
        return None
    return Refusal(
        _label(found[0]), f"is multiplied inside the fused operator {node.op_type}, left whole"
    )


def _lm_head(
    graph: ir.Graph,
    groups: dict[tuple[str, bool, float, Kind], list[_Use]],
    vocab_size: int | None,
) -> tuple[str, bool, float, Kind] | None:
    """Picks the group that computes a language model's logits."""
    by_size = None
    for key, uses in groups.items():
        if uses[0].kind != "linear":
            continue
        if any(out.name == "logits" for use in uses for out in use.node.outputs):
            return key if vocab_size is not None else by_size
        shape = uses[0].tensor.shape.numpy()
        if vocab_size is not None and shape[1 if uses[0].transposed else 0] == vocab_size:
            by_size = key
    return by_size


def _label(value: ir.Value | None) -> str:
    return (value.name if value is not None else None) or "unnamed"


def _clean_name(use: _Use, by_node: bool) -> str:
    """Makes a module-like name: the constant's where it says something, else the node's."""
    weight = use.constant.name or ""
    anonymous = re.fullmatch(r"(val|const|constant|onnx::\w+|_?v?)_?\d*", weight, re.IGNORECASE)
    name = (use.node.name or weight) if anonymous or by_node else weight
    name = name.strip("/").replace("/", ".")
    for suffix in (".weight", ".MatMul", ".Gemm", ".Gather"):
        name = name.removesuffix(suffix)
    return name or "linear"


def _unique(name: str, taken: set[str]) -> str:
    """Adds `.2`, `.3` … to a name that is taken, and takes it."""
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}.{count}"
    taken.add(candidate)
    return candidate
