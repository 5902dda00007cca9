"""What rounding may do to an artifact's outputs on another machine or onnxruntime.

The artifact is run again with the inputs of its products moved as far as rounding could move them;
`slc.compiler.artifact.tolerance.check_output` holds an output of elsewhere to how far that went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.dense import gamma
from slc.compiler.artifact.sessions import quiet_options, session_in_place

Feeds = Mapping[str, np.ndarray]
Factors = Callable[[int], np.ndarray]


def products(model: ir.Model) -> Iterator[tuple[ir.Node, int]]:
    """Every node that multiplies its first input X by a constant weight, and X's columns."""
    for node in model.graph.all_nodes():
        second = node.inputs[1] if len(node.inputs) > 1 else None
        weight = second.shape if second is not None and second.is_initializer() else None
        if node.op_type in ("BitmapSparseGemm", "MatMulNBits"):
            yield node, node.attributes["K"].as_int()
        elif node.op_type == "ConcatAdapterDown":
            yield node, int(node.inputs[3].shape[1])
        elif node.op_type == "MatMul" and weight is not None and len(weight) == 2:
            yield node, int(weight[0])
        elif node.op_type == "Gemm" and weight is not None:
            is_transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
            yield node, int(weight[1 if is_transposed else 0])


def scale_inputs(model: ir.Model, factors: Factors) -> None:
    """Gives each of the products X·factors(K) for X, in place."""
    for index, (node, k) in enumerate([*products(model)]):
        constant = ir.node("Constant", [], {"value": ir.tensor(factors(k).astype(np.float32))})
        product = ir.node("Mul", [node.inputs[0], constant.outputs[0]])
        for made in (constant, product):
            made.outputs[0].name = f"scaled_{index}_{made.op_type}"
        model.graph.insert_before(node, [constant, product])
        node.replace_input_with(0, product.outputs[0])


def rounding(seed: int) -> Factors:
    """1 ± γₖ for every column, with signs drawn anew.

    A computed sum of K products is the exact one for inputs that are moved by at most γₖ each
    (compiler/artifact/dense.py has it for weights), so in whatever order a processor adds, it does
    no more to the output. Moved inputs round to another int8 as often as those of a processor do,
    which moved weights do not.
    """
    rng = np.random.default_rng(seed)
    return lambda k: 1 + rng.choice([-1, 1], k) * gamma(k)


def without_the_last_byte(k: int) -> np.ndarray:
    """What a kernel does that forgets the columns of the last mask byte."""
    return np.arange(k) < k - 8


def scaled_session(folder: Path, factors: Factors) -> Any:
    """A session over an artifact whose products get X·factors(K) for X."""
    artifact = Artifact.open(folder)
    model = artifact.model()
    scale_inputs(model, factors)
    options = artifact.session_options(quiet_options())
    return session_in_place(model, folder, options, artifact.providers())


def with_scaled_inputs(folder: Path, feeds: Feeds, factors: Factors) -> np.ndarray:
    """The first output of such a session."""
    session = scaled_session(folder, factors)
    return session.run([session.get_outputs()[0].name], dict(feeds))[0]
