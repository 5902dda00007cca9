"""Says what an artifact, a packed blob or a structured checkpoint holds."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.manifest import Json
from slc.compiler.errors import ArtifactError
from slc.ops import bitmap


def inspect(path: Path | str) -> Json:
    """Describes what lies at `path` as JSON values; the key "kind" says which of the three it is.

    Raises:
      ArtifactError: it is none of the three, or damaged.
    """
    path = Path(path)
    if path.is_file():
        return _inspect_blob(path)
    if (path / "slr.json").is_file():
        return _inspect_checkpoint(path)
    return _inspect_artifact(Artifact.open(path))


def _inspect_artifact(artifact: Artifact) -> Json:
    manifest, model = artifact.manifest, artifact.model()
    linears = linear_rows(manifest)
    operators = collections.Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in model.graph.all_nodes()
    )
    positions = sum(row["N"] * row["K"] for row in linears)
    weight_bytes = sum(row["bytes"] for row in linears)
    return {
        "kind": "artifact",
        "name": artifact.path.resolve().name,
        "source": manifest["source"],
        "device": manifest["device"]["name"],
        "provider": manifest["provider"],
        "opsets": dict(sorted(model.opset_imports.items())),
        "operators": dict(sorted(operators.items())),
        "inputs": [_value(v) for v in model.graph.inputs if not v.is_initializer()],
        "slots": [_value(v) for v in model.graph.inputs if v.is_initializer()],
        "outputs": [_value(v) for v in model.graph.outputs],
        "linears": linears,
        "refusals": manifest["refusals"],
        "totals": {
            "linears": len(linears),
            "weights": positions,
            "weight_bytes": weight_bytes,
            "bits_per_weight": _bits(weight_bytes, positions),
            "file_bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
        },
        "memory": manifest["memory"],
        "files": manifest["files"],
    }


def linear_rows(manifest: Mapping[str, Any]) -> list[Json]:
    """How each Linear is stored, its fields side by side."""
    return [_linear(entry) for entry in manifest["linears"]]


def _linear(entry: Json) -> Json:
    choice = entry["choice"]
    return {
        "name": entry["name"],
        "N": entry["N"],
        "K": entry["K"],
        "kind": entry["kind"],
        "encoding": choice["encoding"],
        "value_type": choice["value_type"],
        "layout": choice.get("layout", "rows"),  # slc 0.1.0 knew no other and wrote none
        "accuracy_level": choice.get("accuracy_level", 1),
        "density": choice["density"],
        "rank": choice["rank"],
        "adapter_type": choice.get("adapter_type", "f16"),  # as with layout
        "bytes": choice["weight_bytes"],
        "bits_per_weight": _bits(choice["weight_bytes"], entry["N"] * entry["K"]),
        "reason": choice["reason"],
    }


def _bits(size_bytes: int, positions: int) -> float:
    return 8 * size_bytes / positions if positions else 0.0


def _value(value: ir.Value) -> Json:
    dims = [] if value.shape is None else list(value.shape)
    return {
        "name": value.name,
        "dtype": value.dtype.name if value.dtype is not None else None,
        "shape": [dim if isinstance(dim, int) else dim.value for dim in dims],
    }


def _inspect_blob(path: Path) -> Json:
    try:
        blob = np.memmap(path, dtype=np.uint8, mode="r")
        header = bitmap.read_header(blob)
        bitmap.check(blob)
    except (bitmap.BlobError, ValueError, OSError) as error:
        raise ArtifactError(
            f"{path} is not a sound packed blob ({error}); name an artifact folder, a blob or an "
            ".slr folder."
        ) from error
    return {
        "kind": "blob",
        "name": path.name,
        **dataclasses.asdict(header),
        "density": header.density,
        "bits_per_weight": _bits(header.total_bytes, header.n * header.k),
    }


def _inspect_checkpoint(path: Path) -> Json:
    from slc.compiler.structure.checkpoint import StructuredCheckpoint

    checkpoint = StructuredCheckpoint(path)
    entries = [checkpoint.entry(name) for name in checkpoint.names]
    rows = [
        {
            "name": entry.name,
            "N": entry.N,
            "K": entry.K,
            "nnz": entry.nnz,
            "density": entry.nnz / (entry.N * entry.K),
            "rank": entry.rank,
        }
        for entry in entries
    ]
    return {
        "kind": "checkpoint",
        "name": path.resolve().name,
        "meta": dataclasses.asdict(checkpoint.meta),
        "linears": rows,
        "totals": {
            "linears": len(rows),
            "weights": sum(entry.N * entry.K for entry in entries),
            "file_bytes": sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        },
    }
