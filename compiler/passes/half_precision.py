"""Takes a lowered graph from f32 to f16, in which GPUs compute.

Rules:
  1. Every f32 value inside becomes f16: initializers (rounded when they are written, the largest
     become ±65504), constants, what Casts and other nodes are told to make.
  2. What our operators want in f32 stays: the bias of BitmapSparseGemm, the scales, the gate and
     the matrices of adapters. So does what standard operators take in f32 alone.
  3. The key-value cache and the logits of a decoder are f16, as onnxruntime-genai's builder makes
     them for CUDA. Other graph inputs and outputs keep their types, with a Cast inside.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

import slc.ops
from slc.compiler.passes.lowering import add_initializer

_F32, _F16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
_F16_MAX = float(np.finfo(np.float16).max)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
# Inputs that are f32 whatever else is, from this one on and up to that one.
_KEPT: dict[tuple[str, str], range] = {
    (slc.ops.DOMAIN, "BitmapSparseGemm"): range(2, 3),
    (slc.ops.DOMAIN, "ConcatAdapterDown"): range(1, 1 << 30),
    (slc.ops.DOMAIN, "ConcatAdapterUp"): range(2, 1 << 30),
    ("", "Resize"): range(2, 3),
}


class HalfPrecision(ir.passes.InPlacePass):
    """The rules above.

    Args:
      state: graph inputs and outputs that become f16: a decoder's cache and logits.
    """

    def __init__(self, state: Collection[str] = ()) -> None:
        self._state = frozenset(state)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrites the whole model."""
        graph = model.graph
        _keep_interface(graph, self._state)
        for node in list(graph.all_nodes()):
            _retype_node(node)
        for owner in _graphs(graph):
            for value in list(owner.initializers.values()):
                _retype_initializer(model, value)
        for value in graph.inputs:
            if str(value.name) in self._state:
                _retype(value)
        return ir.passes.PassResult(model, True)


def _keep_interface(graph: ir.Graph, state: Collection[str]) -> None:
    """Rule 3: a Cast behind every f32 input and before every f32 output that is not in `state`."""
    for value in list(graph.inputs):
        overridable = value.is_initializer()  # an adapter's slot: rule 2
        if value.dtype != _F32 or value.name in state or overridable:
            continue
        cast = ir.node("Cast", [value], {"to": int(_F16)}, name=f"{value.name}/to_f16")
        half = cast.outputs[0]
        half.name, half.type, half.shape = f"{value.name}.f16", ir.TensorType(_F16), value.shape
        for user, index in list(value.uses()):
            user.replace_input_with(index, half)
        graph.insert_before(graph[0], cast)
        cast.replace_input_with(0, value)
    for i, value in enumerate(list(graph.outputs)):
        if value.dtype != _F32 or value.name in state:
            continue
        name = str(value.name)
        value.name = f"{name}.f16"
        cast = ir.node("Cast", [value], {"to": int(_F32)}, name=f"{name}/to_f32")
        whole = cast.outputs[0]
        whole.name, whole.type, whole.shape = name, ir.TensorType(_F32), value.shape
        cast.metadata_props[_INTERFACE] = "1"
        graph.append(cast)
        graph.outputs[i] = whole


_INTERFACE = "slc.interface"  # of Casts to f32 that stay what they are


def _graphs(graph: ir.Graph) -> list[ir.Graph]:
    """The graph and those inside its nodes."""
    found = [graph]
    for node in graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                found.append(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS:
                found.extend(attribute.as_graphs())
    return found


def _retype_node(node: ir.Node) -> None:
    """What a node makes, and what it is told to make."""
    if _INTERFACE in node.metadata_props:
        del node.metadata_props[_INTERFACE]
        return
    for name, attribute in list(node.attributes.items()):
        if name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT:
            if attribute.as_int() == int(_F32):
                node.attributes[name] = ir.AttrInt64(name, int(_F16))
        elif attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype == _F32:
                node.attributes[name] = ir.AttrTensor(name, ir.Tensor(_halves(tensor.numpy())))
        elif node.op_type == "Constant" and name in ("value_float", "value_floats"):
            del node.attributes[name]
            values = np.asarray(attribute.value, np.float32)
            node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(_halves(values)))
    for value in node.outputs:
        _retype(value)
    for index in _kept(node):
        _whole_input(node, index)


def _kept(node: ir.Node) -> list[int]:
    """Indices of inputs that stay f32 and are there."""
    kept = _KEPT.get((node.domain, node.op_type), range(0))
    return [i for i, value in enumerate(node.inputs) if i in kept and value is not None]


def _whole_input(node: ir.Node, index: int) -> None:
    """A Cast before an input that stays f32 and that other nodes make."""
    value = node.inputs[index]
    assert value is not None
    if value.producer() is None or value.dtype not in (_F32, _F16):
        return  # an initializer or a graph input
    cast = ir.node("Cast", [value], {"to": int(_F32)}, name=f"{node.name}/input{index}_to_f32")
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(_F32), value.shape
    owner = node.graph
    assert owner is not None
    owner.insert_before(node, cast)
    node.replace_input_with(index, cast.outputs[0])


def _retype(value: ir.Value) -> None:
    if value.dtype == _F32:
        value.type = ir.TensorType(_F16)


def _retype_initializer(model: ir.Model, value: ir.Value) -> None:
    """In place; as a second one beside it where it is also wanted in f32."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != _F32 or value.is_graph_input():
        return
    uses = list(value.uses())
    halved = [(node, index) for node, index in uses if index not in _kept(node)]
    if not halved and uses:
        return

    def halves() -> ir.TensorProtocol:
        return ir.Tensor(_halves(tensor.numpy()))

    half = ir.LazyTensor(halves, _F16, ir.Shape(list(tensor.shape.numpy())), name=value.name)
    if len(halved) == len(uses):
        value.const_value = half
        value.type = ir.TensorType(_F16)
        return
    other = add_initializer(model, f"{value.name}.f16", half)
    for node, index in halved:
        node.replace_input_with(index, other)


def _halves(values: np.ndarray) -> np.ndarray:
    """Rounded to the nearest f16; finite values stay finite: masks are filled with -3.4e38."""
    finite = np.isfinite(values)
    clipped = np.where(finite, np.clip(values, -_F16_MAX, _F16_MAX), values)
    return clipped.astype(np.float16)
