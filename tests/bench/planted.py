"""Artifacts that are worse than another by a known amount: what the gates must find."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.manifest import hash_files, write_manifest
from slc.compiler.artifact.writer import write_model
from slc.ops import DOMAIN, bitmap


def make_dense(source: Path, out: Path, names: list[str], *, declare: bool = True) -> Path:
    """A copy of `source` in which the Linears `names`, packed blobs, are MatMuls in float32.

    Args:
      source: an artifact.
      out: the copy.
      names: of Linears without a bias inside the operator.
      declare: whether the manifest says so.
    """
    model, manifest = Artifact.open(source).model(), Artifact.open(source).manifest
    for name in names:
        packed = model.graph.initializers[f"{name}.packed"]
        (use,) = packed.uses()
        assert packed.const_value is not None
        blob = np.asarray(packed.const_value.numpy())
        weight = _initializer(model, f"{name}.weight", np.ascontiguousarray(bitmap.decode(blob).T))
        node = ir.node("MatMul", [use.node.inputs[0], weight], name=use.node.name)
        _replace(model, use.node, [node])
        model.graph.initializers.pop(f"{name}.packed")
    for entry in manifest["linears"]:
        if declare and entry["name"] in names:
            size = 4 * entry["N"] * entry["K"]
            entry["choice"] |= {
                "encoding": "dense", "value_type": "f32", "density": 1.0, "weight_bytes": size,
                "reason": "planted", "rank": 0,
            }  # fmt: skip
    return _write(source, out, model, manifest)


def add_dense(source: Path, out: Path, count: int) -> Path:
    """A copy of `source` with `count` more Linears beside others: y = linear(x) + x·0, in float32.

    They are put beside the square ones in graph order, round and round. Nothing is declared.
    """
    model, manifest = Artifact.open(source).model(), Artifact.open(source).manifest
    places = [node for node in model.graph if _square(node)]
    for i in range(count):
        node = places[i % len(places)]
        width = int(node.attributes["N"].as_int())
        zeros = _initializer(model, f"planted{i}.weight", np.zeros((width, width), np.float32))
        extra = ir.node("MatMul", [node.inputs[0], zeros], name=f"planted{i}")
        old = node.outputs[0]
        total = ir.node("Add", [old, extra.outputs[0]], name=f"planted{i}/sum")
        users = [use for use in old.uses() if use.node is not total]
        for use in users:
            use.node.replace_input_with(use.idx, total.outputs[0])
        model.graph.insert_after(node, [extra, total])
        for new in (extra, total):
            new.outputs[0].name, new.outputs[0].type = f"{new.name}/out", old.type
    return _write(source, out, model, manifest)


def _square(node: ir.Node) -> bool:
    if node.domain not in (DOMAIN, "com.microsoft") or "N" not in node.attributes:
        return False
    return node.attributes["N"].as_int() == node.attributes["K"].as_int()


def _initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def _replace(model: ir.Model, old: ir.Node, new: list[ir.Node]) -> None:
    ir.convenience.replace_nodes_and_values(
        model.graph, old, [old], new, [old.outputs[0]], [new[-1].outputs[0]]
    )


def _write(source: Path, out: Path, model: ir.Model, manifest: dict) -> Path:
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("model.onnx*", "manifest.json"))
    write_model(model, out)
    manifest["files"] = hash_files(out)
    write_manifest(out, manifest)
    return out
