"""Holds a manifest against itself and against the packed weights that it describes.

The manifest's hashes vouch for every file but the manifest, and it stands in no hash itself: an
altered one shows where its parts disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from slc.compiler.artifact.adapter_files import adapter_file
from slc.compiler.artifact.manifest import Json
from slc.ops import DOMAIN, bitmap


def manifest_problems(manifest: Json, model: ir.Model) -> Iterator[tuple[str, bool]]:
    """(one sentence per contradiction, whether the manifest is at fault) in the graph's order."""
    yield from ((problem, True) for problem in _arithmetic(manifest))
    described = {linear["name"]: linear for linear in manifest["linears"]}
    seen = set()
    for node in model.graph.all_nodes():
        if node.domain != DOMAIN or node.op_type != "BitmapSparseGemm":
            continue
        value = node.inputs[1]
        if value is None or value.const_value is None or value.name in seen:
            continue
        seen.add(value.name)
        try:
            blob = value.const_value.numpy()
            bitmap.check(blob)
        except (bitmap.BlobError, OSError, ValueError) as error:
            yield f"the weights {value.name} are damaged: {error}", False
            continue
        linear = described.get(str(value.name).removesuffix(".packed"))
        if linear is not None:
            problem = _contradiction(linear, bitmap.read_header(blob))
            if problem:
                yield problem, True


def _arithmetic(manifest: Json) -> Iterator[str]:
    memory, library = manifest["memory"], manifest["op_library"]
    total = sum(line["bytes"] for line in memory["lines"])
    if total != memory["predicted_bytes"]:
        yield (
            f"manifest.json was altered: its lines of memory add up to {total:,} bytes and it "
            f"says {memory['predicted_bytes']:,}"
        )
    for adapter in manifest["adapters"].get("loadable", []):
        if adapter_file(adapter["name"]) not in manifest["files"]:
            name = adapter["name"]
            yield f"manifest.json was altered: it lists the adapter {name} and not its file"
    vouched = manifest["files"].get(library["file"] or "", {}).get("sha256")
    if library["file"] and library["sha256"] != vouched:
        yield f"manifest.json was altered: it has two different hashes of {library['file']}"


def _contradiction(linear: Json, header: Any) -> str | None:
    """Where the Choice of a Linear is not what its blob's header says."""
    choice = linear["choice"]
    if choice["encoding"] not in ("bitmap", "delta"):
        return None  # described by hand: tests and tools may keep a blob for a dense Linear
    pairs = (
        ("N", linear["N"], header.n),
        ("K", linear["K"], header.k),
        ("value type", choice["value_type"].replace("f32", "f16"), header.value_type),
        ("encoding", choice["encoding"], header.encoding),
    )
    for what, said, found in pairs:
        if said != found:
            return (
                f"manifest.json was altered: it says {what} {said} of {linear['name']} and its "
                f"packed weights say {found}"
            )
    return None
