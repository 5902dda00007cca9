"""What can be counted in an artifact without running it: the same on every machine."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import onnx_ir as ir

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.manifest import SBOM_FILE
from slc.compiler.frontends.linears import find_linears

# Inputs that are tables of which a token reads one row.
_TABLES = {
    "Gather": (0,),
    "GatherBlockQuantized": (0, 2, 3),  # codes, scales, zero points
    "GroupQueryAttention": (7, 8),  # cosines and sines by position
    "RotaryEmbedding": (2, 3),
}


@dataclasses.dataclass(frozen=True)
class Counts:
    """Bytes and operators of one artifact.

    Attributes:
      files: bytes of each, as they lie in the folder, without what the manifest does not vouch for
        and the bill of materials: that grows with the names of versions.
      initializers: bytes of each, by name.
      read: bytes of each that a token reads, by name: of a table one row, of a weight that two
        nodes read twice its size.
      ops: how many nodes of each operator, "domain.Operator" where it is not ONNX's own.
      memory: predicted bytes of the session, line by line.
      linears: bytes of each Linear in the data file, by name, as the manifest has them.
      dense: reason for each Linear that the manifest says stayed dense.
      undeclared: dense Linears of the graph that the manifest does not list.
    """

    files: dict[str, int]
    initializers: dict[str, int]
    read: dict[str, int]
    ops: dict[str, int]
    memory: dict[str, int]
    linears: dict[str, int]
    dense: dict[str, str]
    undeclared: list[str]

    @property
    def artifact_bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())

    @property
    def read_bytes(self) -> int:
        """Of weights, for a token of a decoder; for a pass of another graph, its tables aside."""
        return sum(self.read.values())

    @property
    def initializer_bytes(self) -> int:
        """Of all constants of the graph."""
        return sum(self.initializers.values())

    @property
    def planned_bytes(self) -> int:
        """Predicted of the session."""
        return sum(self.memory.values())

    def to_json(self) -> dict[str, Any]:
        """The totals and what they are made of, without the lists by initializer."""
        return {
            "artifact_bytes": self.artifact_bytes,
            "read_bytes": self.read_bytes,
            "initializer_bytes": self.initializer_bytes,
            "planned_bytes": self.planned_bytes,
            "ops": self.ops,
            "files": self.files,
            "dense": sorted(self.dense),
            "undeclared_dense": self.undeclared,
        }


def count(artifact: Artifact) -> Counts:
    """Counts, from the files and the graph as they are and the manifest for what it planned.

    Raises:
      ArtifactError: the graph or a file can't be read.
    """
    manifest, model = artifact.manifest, artifact.model()
    nodes = list(model.graph.all_nodes())
    names = (f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes)
    tensors = {str(name): value for name, value in model.graph.initializers.items()}
    memory: dict[str, int] = collections.Counter()
    for line in manifest["memory"]["lines"]:
        memory[line["what"]] += line["bytes"]
    choices = {entry["name"]: entry["choice"] for entry in manifest["linears"]}
    return Counts(
        files=_files(artifact),
        initializers={name: _bytes(value) for name, value in tensors.items()},
        read=_read(nodes),
        ops=dict(sorted(collections.Counter(names).items())),
        memory=dict(memory),
        linears={name: choice["weight_bytes"] for name, choice in choices.items()},
        dense={
            name: choice["reason"] or "no reason given"
            for name, choice in choices.items()
            if choice["encoding"] == "dense"
        },
        undeclared=_undeclared(model, manifest),
    )


def _files(artifact: Artifact) -> dict[str, int]:
    sizes = {}
    for name in artifact.manifest["files"].keys() - {SBOM_FILE}:
        path = artifact.path / name
        if path.is_file():
            sizes[name] = path.stat().st_size
    return dict(sorted(sizes.items()))


def _bytes(value: ir.Value) -> int:
    tensor = value.const_value
    return 0 if tensor is None else int(tensor.nbytes)


def _read(nodes: list[ir.Node]) -> dict[str, int]:
    read: dict[str, int] = collections.Counter()
    for node in nodes:
        for i, value in enumerate(node.inputs):
            if value is None or not value.is_initializer():
                continue
            size = _bytes(value)
            if i in _TABLES.get(node.op_type, ()) and value.shape:
                size //= max(1, int(value.shape.numpy()[0]))
            read[str(value.name)] += size
    return dict(read)


def _undeclared(model: ir.Model, manifest: dict[str, Any]) -> list[str]:
    """Dense Linears of the graph beyond the manifest's, by shape: names may have gained a number.

    What a frontend refused to see as a Linear is refused here as well.
    """
    declared = {
        entry["name"]: tuple(sorted((entry["N"], entry["K"])))
        for entry in manifest["linears"]
        if entry["choice"]["encoding"] == "dense"
    }
    # A table in int8 or int4 has its scales in a table of f32 beside it.
    scales = {f"{entry['name']}.scales" for entry in manifest["linears"]}
    known = set(declared) | scales | {refusal["name"] for refusal in manifest["refusals"]}
    left = collections.Counter(declared.values())
    found = find_linears(model)[0]
    found.sort(key=lambda linear: linear.name not in known)  # the manifest's own first
    surplus = []
    for linear in found:
        shape = tuple(sorted((linear.N, linear.K)))
        if left[shape] > 0:
            left[shape] -= 1
        elif linear.name not in known:
            surplus.append(linear.name)
    return surplus
