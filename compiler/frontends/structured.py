"""An `.slr` folder: its base graph with every structured weight put back as S + B·A, lazily."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from slc.compiler.errors import ModelError
from slc.compiler.frontends import decoder, huggingface, onnx_file
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.weights import hashing
from slc.compiler.linear import Linear

if TYPE_CHECKING:
    from slc.compiler.structure.checkpoint import StructuredCheckpoint
    from slc.targets import Target


def read(path: Path, workdir: Path, target: Target | None) -> Source:
    """Loads a structured checkpoint as the model that it stands for.

    Raises:
      ModelError: the checkpoint lacks something, is damaged, or its parts don't fit each other.
      RequestError: the target can't run this kind of model.
    """
    from slc.compiler.structure.checkpoint import StructuredCheckpoint

    checkpoint = StructuredCheckpoint(path)
    if checkpoint.meta.kind == "decoder":
        decoder.check_target(target)
    assets = checkpoint.assets
    genai = assets.get("genai_config.json")
    graph = onnx_file.read(checkpoint.base_model)
    restore_weights(graph, checkpoint)
    return Source(
        graph=graph,
        kind=checkpoint.meta.kind,
        path=path,
        linears=list(checkpoint.linears),
        refusals=list(checkpoint.refusals),
        assets=assets,
        genai_config=decoder.read_genai_config(genai) if genai is not None else None,
        checkpoint=checkpoint,
        workdir=workdir,
        hf_folder=huggingface.tokenizer_folder(assets),
        find_sha256=hashing(_files(path)),
    )


def _files(path: Path) -> Iterator[Path]:
    """What the checkpoint is: all but its menu, which may be made later and anew."""
    from slc.compiler.structure.menu import FOLDER

    for file in path.rglob("*"):
        if file.is_file() and file.relative_to(path).parts[0].split(".")[0] != FOLDER:
            yield file


def restore_weights(graph: ir.Model, checkpoint: StructuredCheckpoint) -> None:
    """Turns the graph inputs that stand for structured weights back into initializers.

    Raises:
      ModelError: a Linear's weight or node is not in the base graph.
    """
    inputs = {value.name: value for value in graph.graph.inputs}
    nodes = {node.name for node in graph.graph}
    structured = set(checkpoint.names)
    for linear in checkpoint.linears:
        known = linear.weight in inputs or linear.weight in graph.graph.initializers
        if not known or not nodes.issuperset(linear.nodes):
            raise ModelError(
                f"the structured checkpoint {str(checkpoint.path)!r} has Linear {linear.name!r} "
                "and its base graph has not: copy the checkpoint again, or make it again"
            )
        value = inputs.pop(linear.weight, None)
        if value is None or linear.name not in structured:
            continue
        value.const_value = _surrogate(checkpoint, linear, value)
        graph.graph.inputs.remove(value)
        graph.graph.register_initializer(value)


def _surrogate(checkpoint: StructuredCheckpoint, linear: Linear, value: ir.Value) -> ir.LazyTensor:
    """Makes a tensor that is computed, from S and the adapter, each time it is read."""
    dtype = value.dtype or ir.DataType.FLOAT
    shape = (linear.K, linear.N) if linear.transposed else (linear.N, linear.K)

    def compute() -> ir.TensorProtocol:
        W = checkpoint.dense(linear.name)
        stored = np.ascontiguousarray(W.T if linear.transposed else W)
        return ir.Tensor(stored.astype(dtype.numpy(), copy=False), name=linear.weight)

    return ir.LazyTensor(compute, dtype, ir.Shape(shape), name=linear.weight, cache=False)
