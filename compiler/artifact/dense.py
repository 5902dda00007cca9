"""The graph an artifact means, spelt with standard operators: what its numerics are held against.

    Y = BitmapSparseGemm(X, packed, bias?)      -> Y = MatMul(X, decode(packed)ᵀ) (+ bias)
    H = ConcatAdapterDown(X, scale?, gate?, A…) -> H = Concat(MatMul(X, Aᵀ)…) (· gate)
    Y = ConcatAdapterUp(Y0, H, scale?, B…)      -> Y = Y0 + MatMul(H[offset:offset+r], Concat(Bᵀ…))

Rules:
  1. Everything is computed in f32; where the operator's data is f16, so is the result.
  2. Decoded weights are lazy: one matrix is in memory while it is written.
  3. Nodes that share a blob share the decoded matrix.
  4. An overridable A or B (an adapter slot) stays overridable.
  5. With `perturb` = u, each weight w becomes w·(1 ± γₙ) with a random sign, γₙ = n·u/(1 − n·u), n
     being the number of non-zero weights of its row plus four (scales, bias, result). Whatever
     order a kernel sums in, its result is exact for weights that are no further away (Higham,
     Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). An f16 result adds its
     own roundoff.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from slc.ops import DOMAIN, bitmap

UNIT_ROUNDOFF = 2.0**-24  # of f32, round to nearest
_EXTRA_ROUNDINGS = 4
UNIT_ROUNDOFF_F16 = 2.0**-11

F32Array = npt.NDArray[np.float32]
Rounding = Callable[[F32Array, str, ir.DataType], F32Array]


def dense_reference(model: ir.Model, *, perturb: float | None = None, seed: int = 0) -> ir.Model:
    """Returns a copy of `model` without our operators (the rules above).

    Args:
      model: left unchanged.
      perturb: the unit roundoff u of rule 5, None for the decoded weights themselves.
      seed: of the signs.
    """
    dense = model.clone()
    rewrite = _Rewrite(dense.graph, _perturbation(perturb, seed))
    for node in list(dense.graph):
        if node.domain == DOMAIN:
            rewrite.replace(node)
    dense.opset_imports.pop(DOMAIN, None)
    rewrite.remove_unread()
    return dense


def gamma(terms: npt.ArrayLike, unit_roundoff: float = UNIT_ROUNDOFF) -> npt.NDArray[np.float64]:
    """γₙ = n·u/(1 − n·u): the relative backward error of a sum of n products, in any order."""
    product = np.asarray(terms, dtype=np.float64) * unit_roundoff
    return product / (1.0 - product)


def terms(matrix: F32Array) -> npt.NDArray[np.int64]:
    """Roundings that touch a product with each row of W: [N, K]; shape [N, 1]."""
    counts: npt.NDArray[np.int64] = np.count_nonzero(matrix, axis=1).astype(np.int64)
    return counts.reshape(-1, 1) + _EXTRA_ROUNDINGS


def decode_packed(tensor: ir.TensorProtocol) -> F32Array:
    """W: [N, K] of a packed blob."""
    return bitmap.decode(tensor.numpy())


def adapter_rows(tensor: ir.TensorProtocol, scale: F32Array | None) -> F32Array:
    """A: [r, K] or B: [N, r] in f32, with the scale of each row of an i8 one applied."""
    rows = tensor.numpy().astype(np.float32)
    return rows if scale is None else rows * scale[:, None]


def _perturbation(unit_roundoff: float | None, seed: int) -> Rounding:
    def exact(matrix: F32Array, name: str, result: ir.DataType) -> F32Array:
        return matrix

    def perturbed(matrix: F32Array, name: str, result: ir.DataType) -> F32Array:
        assert unit_roundoff is not None
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        bits = np.frombuffer(rng.bytes(-(-matrix.size // 8)), dtype=np.uint8)
        negative = np.unpackbits(bits, count=matrix.size).reshape(matrix.shape)
        own = UNIT_ROUNDOFF_F16 if result == ir.DataType.FLOAT16 else 0.0
        size = (gamma(terms(matrix), unit_roundoff) + own).astype(np.float32)
        return matrix * np.where(negative, 1 - size, 1 + size)

    return exact if unit_roundoff is None else perturbed


class _Rewrite:
    """Replaces our nodes in one graph."""

    def __init__(self, graph: ir.Graph, rounding: Rounding) -> None:
        self._graph = graph
        self._rounding = rounding
        self._weights: dict[str, ir.Value] = {}
        # Asked before any ConcatAdapterDown is replaced.
        self._read_all = {node for node in graph if _reads_all(node)}

    def replace(self, node: ir.Node) -> None:
        """Replaces one node by the standard operators that compute the same."""
        build = {
            "BitmapSparseGemm": self._sparse,
            "ConcatAdapterDown": self._down,
            "ConcatAdapterUp": self._up,
        }[node.op_type]
        nodes = _Nodes(node)
        result = build(node, nodes)
        if _dtype(node) != ir.DataType.FLOAT:
            result = nodes.add("Cast", [result], to=int(_dtype(node)))
        ir.convenience.replace_nodes_and_values(
            self._graph, node, [node], nodes.made, [node.outputs[0]], [result]
        )

    def remove_unread(self) -> None:
        """Drops blobs and adapters that nothing reads any more; inputs of the model stay."""
        for name, value in list(self._graph.initializers.items()):
            unread = not value.uses() and not value.is_graph_output()
            if unread and not value.is_graph_input():
                del self._graph.initializers[name]

    def _sparse(self, node: ir.Node, nodes: _Nodes) -> ir.Value:
        x, packed = node.inputs[0], node.inputs[1]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        assert x is not None
        assert packed is not None
        shape = (int(node.attributes["N"].as_int()), int(node.attributes["K"].as_int()))
        weight = self._transposed(packed, shape, decode_packed, _dtype(node))
        y = nodes.add("MatMul", [nodes.f32(x), weight])
        return y if bias is None else nodes.add("Add", [y, nodes.f32(bias)])

    def _down(self, node: ir.Node, nodes: _Nodes) -> ir.Value:
        x, scale, gate, *parts = node.inputs
        assert x is not None
        x32 = nodes.f32(x)
        weights = self._adapters(parts, scale, nodes, _dtype(node))
        h = nodes.concat([nodes.add("MatMul", [x32, a]) for a in weights], axis=-1)
        return h if gate is None else nodes.add("Mul", [h, nodes.f32(gate)])

    def _up(self, node: ir.Node, nodes: _Nodes) -> ir.Value:
        y0, h, scale, *parts = node.inputs
        assert y0 is not None
        assert h is not None
        weight = nodes.concat(self._adapters(parts, scale, nodes, _dtype(node)), axis=0)  # [Σr, N]
        offset = node.attributes["offset"].as_int() if "offset" in node.attributes else 0
        part = nodes.f32(h)
        if node not in self._read_all:
            part = _columns(nodes, part, offset, _ranks(parts, 1), weight)
        return nodes.add("Add", [nodes.f32(y0), nodes.add("MatMul", [part, weight])])

    def _adapters(
        self,
        parts: list[ir.Value | None],
        scale: ir.Value | None,
        nodes: _Nodes,
        result: ir.DataType,
    ) -> list[ir.Value]:
        """Each A: [r, K] or B: [N, r] transposed, f32."""
        scales = iter(split_scale([p for p in parts if p is not None], scale))
        weights = []
        for part in parts:
            assert part is not None
            rows = next(scales)
            if part.is_graph_input():
                weights.append(nodes.add("Transpose", [nodes.f32(part)], perm=[1, 0]))
                continue
            assert part.const_value is not None
            n, k = part.const_value.shape.numpy()

            def read(tensor: ir.TensorProtocol, rows: F32Array | None = rows) -> F32Array:
                return adapter_rows(tensor, rows)

            weights.append(self._transposed(part, (n, k), read, result))
        return weights

    def _transposed(
        self,
        value: ir.Value,
        shape: tuple[int, int],
        read: Callable[[ir.TensorProtocol], F32Array],
        result: ir.DataType,
    ) -> ir.Value:
        """A lazy initializer Wᵀ: [K, N] for the W: [N, K] that `read` makes of `value`.

        `result` is the type that the product with it is rounded to.
        """
        name, tensor, rounding = f"{value.name}.dense", value.const_value, self._rounding
        assert tensor is not None
        if name in self._weights:
            return self._weights[name]

        def transposed() -> ir.TensorProtocol:
            return ir.Tensor(np.ascontiguousarray(rounding(read(tensor), name, result).T))

        rows, columns = shape
        lazy = ir.LazyTensor(transposed, ir.DataType.FLOAT, ir.Shape([columns, rows]), name=name)
        weight = ir.Value(
            name=name, shape=lazy.shape, type=ir.TensorType(lazy.dtype), const_value=lazy
        )
        self._graph.register_initializer(weight)
        self._weights[name] = weight
        return weight


def _reads_all(node: ir.Node) -> bool:
    """Whether a node is a ConcatAdapterUp whose adapters are those that made its H."""
    if node.domain != DOMAIN or node.op_type != "ConcatAdapterUp":
        return False
    if "offset" in node.attributes and node.attributes["offset"].as_int() != 0:
        return False
    down = node.inputs[1].producer() if node.inputs[1] is not None else None
    if down is None or down.domain != DOMAIN or down.op_type != "ConcatAdapterDown":
        return False
    return _ranks(down.inputs[3:], 0) == _ranks(node.inputs[3:], 1)


def _columns(
    nodes: _Nodes, h: ir.Value, offset: int, ranks: list[int | None], weight: ir.Value
) -> ir.Value:
    """H[:, offset : offset + Σr], for fixed ranks by operators that every opset has."""
    known = [rank for rank in ranks if rank is not None]
    if len(known) == len(ranks):
        indices = nodes.constant(list(range(offset, offset + sum(known))))
        return nodes.add("Gather", [h, indices], axis=-1)
    start = nodes.constant([offset])
    rank = nodes.add("Gather", [nodes.add("Shape", [weight]), nodes.constant([0])])
    stop = nodes.add("Add", [rank, start])
    return nodes.add("Slice", [h, start, stop, nodes.constant([-1])])  # from opset 10 on


def _ranks(parts: Sequence[ir.Value | None], axis: int) -> list[int | None]:
    """Of each A: [r, K] (axis 0) or B: [N, r] (axis 1); None for an overridable one."""
    return [
        None
        if part is None or part.is_graph_input() or part.const_value is None
        else int(part.const_value.shape.numpy()[axis])
        for part in parts
    ]


class _Nodes:
    """The nodes that replace one node, in order."""

    def __init__(self, replaced: ir.Node) -> None:
        self.made: list[ir.Node] = []
        self._replaced = replaced
        self._prefix = replaced.name or str(replaced.outputs[0].name)

    def add(self, op_type: str, inputs: list[ir.Value], **attributes: int | list[int]) -> ir.Value:
        node = ir.node(
            op_type, inputs, attributes, name=f"{self._prefix}/dense_{len(self.made)}_{op_type}"
        )
        node.outputs[0].name = f"{node.name}/output"
        self.made.append(node)
        return node.outputs[0]

    def constant(self, values: list[int]) -> ir.Value:
        node = ir.node("Constant", [], {"value": ir.tensor(np.array(values, dtype=np.int64))})
        node.outputs[0].name = f"{self._prefix}/dense_{len(self.made)}_Constant/output"
        self.made.append(node)
        return node.outputs[0]

    def concat(self, values: list[ir.Value], *, axis: int) -> ir.Value:
        return values[0] if len(values) == 1 else self.add("Concat", values, axis=axis)

    def f32(self, value: ir.Value) -> ir.Value:
        if (value.dtype or _dtype(self._replaced)) == ir.DataType.FLOAT:
            return value
        return self.add("Cast", [value], to=int(ir.DataType.FLOAT))


def split_scale(parts: list[ir.Value], scale: ir.Value | None) -> list[F32Array | None]:
    """The scale of each part's rows: `scale` holds those of the int8 parts, one after another."""
    if scale is None or scale.const_value is None:
        return [None] * len(parts)
    left = scale.const_value.numpy().astype(np.float32).reshape(-1)
    result: list[F32Array | None] = []
    for part in parts:
        if part.dtype != ir.DataType.INT8 or part.const_value is None:
            result.append(None)
            continue
        rows = int(part.const_value.shape.numpy()[0])
        result.append(left[:rows])
        left = left[rows:]
    return result


def _dtype(node: ir.Node) -> ir.DataType:
    """The type of a node's data: the first that is known of its output and its inputs."""
    known = [node.outputs[0].dtype, *(v.dtype for v in node.inputs[:1] if v is not None)]
    return next((dtype for dtype in known if dtype is not None), ir.DataType.FLOAT)
