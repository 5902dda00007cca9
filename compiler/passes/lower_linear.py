"""Turns a Linear's nodes into our sparse operator.

    MatMul(X, W)                              -> BitmapSparseGemm(X, packed)
    Gemm(X, W, C?, alpha, beta, transB)       -> BitmapSparseGemm(X, packed, beta·C?)

Rules:
  1. Only Linears whose Choice is `bitmap`, `delta` or `full` are touched.
  2. `packed` is encoded when the artifact is written, one matrix in memory at a time. Its size must
     be known before: for i4 values and for delta it follows from where the values lie.
  3. Gemm's alpha is folded into the packed values, its beta into the bias.
  4. Nodes that share a weight share the blob.
  5. The new node takes the old one's name and output, so later passes find it.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import onnx_ir as ir

import slc.ops
from slc.compiler.budget.choice import Choice
from slc.compiler.linear import Linear
from slc.compiler.passes.gemm_bias import beta, gemm_bias, scaled
from slc.compiler.passes.lowering import Lowering, add_initializer, nodes_by_name
from slc.ops import bitmap, encoder, full
from slc.targets.detect import usable_cores


class LowerLinear(ir.passes.InPlacePass):
    """The rules above."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrites every node of every sparse Linear."""
        nodes = nodes_by_name(model)
        modified = False
        chosen = list(self._lowering.chosen("bitmap", "delta", "full"))
        # What a blob's size takes to know is read in several threads at a time.
        with ThreadPoolExecutor(usable_cores()) as pool:
            tensors = list(pool.map(lambda pair: _packed_tensor(self._lowering, *pair), chosen))
        for (linear, choice), tensor in zip(chosen, tensors, strict=True):
            packed = add_initializer(model, f"{linear.name}.packed", tensor)
            for name in linear.nodes:
                _replace(model, nodes[name], packed, linear, choice)
                modified = True
        return ir.passes.PassResult(model, modified)


def _packed_tensor(lowering: Lowering, linear: Linear, choice: Choice) -> ir.LazyTensor:
    """The blob of `linear`, made when it is written."""
    if choice.encoding == "full":
        return _full_tensor(lowering, linear, choice)
    value_type: bitmap.ValueType = "f16" if choice.value_type == "f32" else choice.value_type
    group, layout = choice.group, choice.layout
    encoding: bitmap.Encoding = "delta" if choice.encoding == "delta" else "bitmap"
    if value_type == "i4" or encoding == "delta" or layout == "tiles":
        by_word = encoding == "bitmap" and layout != "tiles"
        counts = lowering.word_counts(linear, choice) if by_word else None
        if counts is not None:
            size = bitmap.counted_bytes(counts, linear.K, value_type, group, layout=layout)
        else:
            mask = lowering.stored(linear, choice)
            size = bitmap.blob_bytes(mask, value_type, group, encoding=encoding, layout=layout)
            del mask
    else:
        size = bitmap.encoded_bytes(linear.N, linear.K, choice.nnz, value_type, group)

    def encode() -> ir.TensorProtocol:
        matrix, mask = lowering.sparse(linear, choice)
        grid = lowering.grid(linear, choice) if linear.alpha == 1.0 else None
        if linear.alpha != 1.0:
            matrix = matrix * np.float32(linear.alpha)
        return ir.Tensor(
            encoder.encode(
                matrix, value_type, group, mask, encoding=encoding, layout=layout, grid=grid
            )
        )

    return ir.LazyTensor(encode, dtype=ir.DataType.UINT8, shape=ir.Shape([size]))


def _full_tensor(lowering: Lowering, linear: Linear, choice: Choice) -> ir.LazyTensor:
    """A blob of every weight: the codes that the menu has, else rounded to the nearest."""
    value_type, group = choice.value_type, choice.group
    kind: Literal["f16", "i8", "i4"] = "f16" if value_type == "f32" else value_type
    alpha = np.float32(linear.alpha)

    def encode() -> ir.TensorProtocol:
        if kind == "f16":
            return ir.Tensor(full.encode(lowering.weight(linear) * alpha, "f16"))
        like = dataclasses.replace(choice, encoding="int8" if kind == "i8" else "int4")
        made = lowering.codes(linear, like)
        codes = (made.codes.astype(np.int16) - 2 ** (made.bits - 1)).astype(np.int8)
        return ir.Tensor(full.encode_codes(codes, made.scales * alpha, kind, group))

    size = full.encoded_bytes(linear.N, linear.K, kind, group)
    return ir.LazyTensor(encode, dtype=ir.DataType.UINT8, shape=ir.Shape([size]))


def _replace(
    model: ir.Model, node: ir.Node, packed: ir.Value, linear: Linear, choice: Choice
) -> None:
    inputs: list[ir.Value | None] = [node.inputs[0], packed]
    extra: list[ir.Node] = []
    addend: ir.Value | None = None
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = gemm_bias(model, node, linear)
        if bias is None:  # not a vector of N: added outside, as Gemm would broadcast it
            extra = scaled(node.inputs[2], beta(node))
            addend = extra[-1].outputs[0] if extra else node.inputs[2]
        else:
            inputs.append(bias)
    new = ir.node(
        "BitmapSparseGemm",
        inputs,
        {"N": linear.N, "K": linear.K, "accuracy_level": choice.accuracy_level},
        domain=slc.ops.DOMAIN,
        version=slc.ops.OP_VERSION,
        name=node.name,
    )
    if node.outputs[0].type is None:  # an ONNX file without value_info: the type is that of x
        node.outputs[0].type = _type(node)
    new.outputs[0].type, new.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    new_nodes, result = [new], new.outputs[0]
    if addend is not None:
        add = ir.node("Add", [result, addend], name=f"{node.name}/bias")
        new_nodes, result = [new, *extra, add], add.outputs[0]
    ir.convenience.replace_nodes_and_values(
        model.graph, node, [node], new_nodes, [node.outputs[0]], [result]
    )


def _type(node: ir.Node) -> ir.TypeProtocol:
    value = node.inputs[0]
    if value is not None and value.type is not None:
        return value.type
    return ir.TensorType(ir.DataType.FLOAT)
