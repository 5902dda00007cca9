"""The order of everything, and the only place where order lives.

`fit` makes the graph one of the context and of the outputs that were asked for; plans are made of
what it leaves. Then a graph goes through `lower` pass by pass, and for CUDA through `halve`. After
each the postconditions are checked: graph outputs keep their names, types and shapes (genai crashes
on untyped logits), and the inputs stay; `halve` alone changes types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from slc.compiler.errors import PostconditionError
from slc.compiler.passes.attach_adapters import AttachAdapters
from slc.compiler.passes.fuse_bias import FuseBias
from slc.compiler.passes.half_precision import HalfPrecision
from slc.compiler.passes.last_logits import LastLogits
from slc.compiler.passes.lower_linear import LowerLinear
from slc.compiler.passes.lowering import Lowering
from slc.compiler.passes.name_nodes import NameNodes
from slc.compiler.passes.quantize_dense import QuantizeDense
from slc.compiler.passes.runtime_versions import RuntimeVersions
from slc.compiler.passes.share_adapter_down import ShareAdapterDown
from slc.compiler.passes.trim_rotary import TrimRotary


def fit(model: ir.Model, context: int, logits: str) -> ir.Model:
    """Rewrites a decoder's graph in place for the context and the logits that were asked for.

    Args:
      model: not lowered yet.
      context: tokens that a session must hold.
      logits: "last" or "all", see `Request`.
    """
    TrimRotary(context)(model)
    if logits == "last":
        LastLogits()(model)
    return model


def halve(model: ir.Model, genai_config: Mapping[str, Any] | None) -> ir.Model:
    """Takes a lowered graph to f16 in place, for CUDA: a decoder's cache and logits too.

    Raises:
      PostconditionError: an input or output has another name or shape than before.
    """
    wanted = _names_and_shapes(model)
    HalfPrecision(_state(model, genai_config))(model)
    got = _names_and_shapes(model)
    if got != wanted:
        raise PostconditionError(f"pass HalfPrecision: got {got}, wanted {wanted}")
    return model


def _state(model: ir.Model, genai_config: Mapping[str, Any] | None) -> set[str]:
    """Graph inputs and outputs that onnxruntime-genai makes in whatever type they have."""
    if genai_config is None:
        return set()
    decoder = genai_config["model"]["decoder"]
    keys = ("past_key_names", "past_value_names", "present_key_names", "present_value_names")
    templates = [t for side in ("inputs", "outputs") for k in keys if (t := decoder[side].get(k))]
    layers = range(decoder["num_hidden_layers"])
    names = {template.replace("%d", str(layer)) for template in templates for layer in layers}
    return names | {decoder["outputs"].get("logits", "logits")}


def _names_and_shapes(model: ir.Model) -> list[str]:
    return [f"{v.name}: {v.shape}" for v in (*model.graph.inputs, *model.graph.outputs)]


def passes(lowering: Lowering, ort_min: tuple[int, int]) -> list[ir.passes.PassBase]:
    """Every pass, in order."""
    return [
        LowerLinear(lowering),  # first: the others look for our operator or for what it left
        FuseBias(),  # before adapters: they stand between the operator and the Add
        QuantizeDense(lowering),  # Linears that LowerLinear left
        AttachAdapters(lowering),  # behind whatever base the Linear has got by now
        ShareAdapterDown(),  # of siblings, once all have theirs
        RemoveUnusedNodesPass(),  # the dense weights that nothing reads any more
        TopologicalSortPass(),
        NameNodes(),
        RuntimeVersions(ort_min),  # last: it looks at which domains are left
    ]


def lower(model: ir.Model, lowering: Lowering, ort_min: tuple[int, int]) -> ir.Model:
    """Rewrites `model` in place by the chosen encodings.

    Raises:
      PostconditionError: a pass broke the graph; names it and the passes before it.
    """
    wanted = _signature(model)
    done: list[str] = []
    for step in passes(lowering, ort_min):
        step(model)
        done.append(type(step).__name__)
        got = _signature(model)
        if got != wanted:
            raise PostconditionError(
                f"pass {done[-1]} (after {done[:-1]}) changed the graph's outputs or inputs: "
                f"got {got}, wanted {wanted}"
            )
    return model


def _signature(model: ir.Model) -> tuple[tuple[str, ...], ...]:
    """Names, types and shapes of the outputs and the names of the inputs that must be fed."""
    outputs = tuple(f"{v.name}: {v.type} {v.shape}" for v in model.graph.outputs)
    inputs = tuple(str(v.name) for v in model.graph.inputs if not v.is_initializer())
    return outputs, inputs
