"""States which runtime the graph needs: opset imports, IR version, no exporter's leftovers.

Rules:
  1. The domain `ai.slc` (and `com.microsoft` where it is used) is imported.
  2. Metadata, doc strings and stack traces of exporters go: they hold paths of the machine that
     exported and would make two exports differ.
  3. The IR version is lowered to what the target's onnxruntime reads, when nothing newer is used.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    RemoveUnusedOpsetsPass,
)

import slc.ops

# onnxruntime release -> (newest opset, newest IR version) it reads; from its release notes.
_LIMITS = {
    (1, 17): (20, 9),
    (1, 18): (21, 10),
    (1, 19): (21, 10),
    (1, 20): (21, 10),
    (1, 21): (22, 10),
    (1, 22): (22, 10),
    (1, 23): (23, 11),
}

_OPSET_MIN = 7  # onnxruntime's own promise; Gemm and Add broadcast by attributes before


class RuntimeVersions(ir.passes.InPlacePass):
    """The rules above.

    Args:
      ort_min: the oldest onnxruntime that must run the graph, as (major, minor).
    """

    def __init__(self, ort_min: tuple[int, int]) -> None:
        self._ort_min = ort_min

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Sets imports and IR version."""
        domains = {node.domain for node in model.graph.all_nodes()}
        if slc.ops.DOMAIN in domains:
            model.opset_imports[slc.ops.DOMAIN] = slc.ops.OP_VERSION
        if "com.microsoft" in domains:
            model.opset_imports["com.microsoft"] = 1
        ClearMetadataAndDocStringPass()(model)
        RemoveUnusedOpsetsPass()(model)
        _, ir_max = limits(self._ort_min)
        model.ir_version = max(min(model.ir_version, ir_max), 8)
        model.producer_name, model.producer_version = "slc", None
        model.graph.doc_string = None
        return ir.passes.PassResult(model, True)


def limits(ort_min: tuple[int, int]) -> tuple[int, int]:
    """(newest opset, newest IR version) of a release; later ones read at least 1.23's."""
    known = [version for version in _LIMITS if version <= ort_min]
    return _LIMITS[max(known)] if known else (19, 8)


def refusal(model: ir.Model, ort_min: tuple[int, int]) -> str | None:
    """Why onnxruntime `ort_min` can't run the graph and what to do, or None.

    A newer IR version alone is no reason: it can be lowered when no type of it is used.
    """
    opset = model.opset_imports.get("", 0)
    newest, _ = limits(ort_min)
    if opset > newest:
        release = f"{ort_min[0]}.{ort_min[1]}"
        return (
            f"the graph uses opset {opset}, onnxruntime {release} reads up to {newest}; export the "
            "model at an older opset or choose a device with a newer onnxruntime"
        )
    if opset < _OPSET_MIN:
        return (
            f"the graph uses opset {opset}, onnxruntime promises {_OPSET_MIN} and newer; convert "
            "it with onnx.version_converter"
        )
    return None
