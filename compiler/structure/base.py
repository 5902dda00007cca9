"""The dense rest of a model: its graph with the structured weights taken out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Set
from pathlib import Path

import onnx_ir as ir

from slc.compiler.artifact.writer import write_model
from slc.compiler.frontends.source import Source


def write_base(source: Source, folder: Path, structured: Set[str]) -> None:
    """Writes folder/model.onnx, its external data and folder/assets/*.

    The weight of a structured Linear becomes a graph input of its name, type and shape, so the
    file stays valid ONNX and holds none of it. A weight that anything else reads too (an
    embedding tied to it, an Add) stays a constant.

    Args:
      source: left unchanged.
      folder: is made.
      structured: names of the Linears whose weights the checkpoint holds.
    """
    folder.mkdir(parents=True)
    model = source.graph.clone()
    nodes: dict[str, set[str]] = {}
    for linear in source.linears:
        if linear.name in structured:
            nodes.setdefault(linear.weight, set()).update(linear.nodes)
    for weight, readers in nodes.items():
        _to_input(model, weight, readers)
    write_model(model, folder)
    _write_assets(source, folder / "assets")


def _to_input(model: ir.Model, weight: str, readers: Set[str]) -> None:
    """Turns a constant that only `readers` read into a graph input, where that is possible."""
    graph = model.graph
    value = graph.initializers.get(weight)
    node = None
    if value is None:
        node = next((n for n in graph if n.outputs and n.outputs[0].name == weight), None)
        value = node.outputs[0] if node is not None else None
    if value is None or value.is_graph_output() or not _only_read_by(value, readers):
        return
    tensor = value.const_value
    if node is not None:
        tensor = node.attributes["value"].as_tensor()
    assert tensor is not None
    given = ir.Input(weight, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype))
    value.replace_all_uses_with(given)
    if node is None:
        del graph.initializers[weight]
    else:
        graph.remove(node)
    graph.inputs.append(given)


def _only_read_by(value: ir.Value, readers: Set[str]) -> bool:
    """Whether every reader is one of `readers`, seen through what a frontend sees through."""
    for node, _ in value.uses():
        if node.name in readers:
            continue
        if node.op_type not in ("Identity", "Transpose", "Cast"):
            return False
        if node.outputs[0].is_graph_output() or not _only_read_by(node.outputs[0], readers):
            return False
    return True


def _write_assets(source: Source, folder: Path) -> None:
    """Copies what goes beside the model (tokenizer, configs)."""
    if not source.assets and source.genai_config is None:
        return
    folder.mkdir()
    for name, path in sorted(source.assets.items()):
        shutil.copyfile(path, folder / name)
    config = folder / "genai_config.json"
    if source.genai_config is not None and not config.exists():
        config.write_text(json.dumps(source.genai_config, indent=4) + "\n", encoding="utf-8")
