"""What every frontend returns: an ONNX graph with lazily read weights, and where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slc.compiler.linear import Linear, Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

    from slc.compiler.structure.checkpoint import StructuredCheckpoint

SourceKind = Literal["encoder", "decoder", "onnx", "torch"]


@dataclasses.dataclass
class Source:
    """A model as the compiler sees it, whatever it was before.

    Attributes:
      graph: the model. Weights are external (mapped) or lazy tensors: reading one costs that one.
      kind: what family the graph belongs to; an `.slr` keeps that of the model it was made from.
      path: what the user named.
      linears: every constant 2-D weight that a MatMul, Gemm or Gather reads, in graph order.
      refusals: weights that look like a Linear and can't be one, with the reason.
      assets: files to copy beside the model, by their name in the artifact (tokenizer, configs).
      genai_config: the parsed genai_config.json of a decoder, else None.
      checkpoint: the structured checkpoint behind an `.slr` source, else None.
      workdir: a temporary folder that holds the graph's data; it must outlive `graph`.
      hf_folder: the Hugging Face folder that tokenises text for the model, else None.
      tools: distributions that made the graph, for the bill of materials.
    """

    graph: ir.Model
    kind: SourceKind
    path: Path
    linears: list[Linear]
    refusals: list[Refusal]
    assets: dict[str, Path] = dataclasses.field(default_factory=dict)
    genai_config: dict[str, Any] | None = None
    checkpoint: StructuredCheckpoint | None = None
    workdir: Path | None = None
    hf_folder: Path | None = None
    weightless: bool = False  # made from a config.json alone: every weight is 0
    find_sha256: Callable[[], str] = str  # of the input's files, in name order; may wait for it
    tools: tuple[str, ...] = ()
