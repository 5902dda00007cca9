"""From an exported graph to a Source: what all frontends do last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from slc.compiler.frontends.linears import BYTES_MIN, find_linears
from slc.compiler.frontends.matching import Rows, match_sources
from slc.compiler.frontends.source import Source, SourceKind
from slc.compiler.frontends.weights import check_finite
from slc.compiler.passes.name_nodes import NameNodes


def assemble(
    graph: ir.Model,
    kind: SourceKind,
    path: Path,
    workdir: Path,
    *,
    parameters: Mapping[str, Rows] | None = None,
    genai_config: dict[str, Any] | None = None,
    **fields: Any,
) -> Source:
    """Finds the Linears of a graph and makes the Source.

    Args:
      graph: changed in place: large Constant nodes become initializers, nodes get names.
      kind: of the Source.
      path: what the user named.
      workdir: holds the graph's data.
      parameters: the source model's, to match Linears by content; without them (an ONNX file)
        the weights are checked for NaN here.
      genai_config: of a decoder.
      **fields: Source's other fields.

    Raises:
      ModelError: a weight holds NaN or infinity.
    """
    common_passes.LiftConstantsToInitializersPass(size_limit=BYTES_MIN // 4)(graph)
    NameNodes()(graph)
    vocab_size = genai_config["model"].get("vocab_size") if genai_config else None
    linears, refusals = find_linears(graph, vocab_size)
    if parameters is not None:
        linears = match_sources(graph, linears, parameters)
    else:
        check_finite(graph, linears)
    return Source(
        graph=graph,
        kind=kind,
        path=path,
        linears=linears,
        refusals=refusals,
        workdir=workdir,
        genai_config=genai_config,
        **fields,
    )
