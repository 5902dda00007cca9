"""The record of one Linear: y = x·Wᵀ + b with W: [N, K], found in an ONNX graph."""

from __future__ import annotations

import dataclasses
from typing import Literal

Kind = Literal["linear", "lm_head", "embedding"]


@dataclasses.dataclass(frozen=True)
class SourceRows:
    """Rows [start, stop) of a Linear's W that came from one parameter of the source model.

    A fused QKV projection has three of them. PEFT adapters are attached by these names.
    """

    parameter: str  # as in the source's safetensors, e.g. "model.layers.0.self_attn.q_proj.weight"
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Linear:
    """One weight matrix and every node that multiplies by it.

    For `kind == "embedding"` N is the number of rows of the table (the vocabulary) and K their
    length; the nodes are Gathers.
    """

    name: str  # unique, stable between exports: the source's module name where it is known
    N: int
    K: int
    weight: str  # the graph value (an initializer) that holds W
    transposed: bool  # the value holds Wᵀ: [K, N], as a plain MatMul wants it
    nodes: tuple[str, ...]  # names of the nodes that read it
    kind: Kind = "linear"
    alpha: float = 1.0  # Gemm's factor on x·Wᵀ
    sources: tuple[SourceRows, ...] = ()
    itemsize: int = 4  # bytes of an element of a dense W in the artifact: 2 where graphs are f16

    @property
    def numel(self) -> int:
        """N·K."""
        return self.N * self.K


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a weight is left as it is. A value, kept in the manifest, never an exception."""

    name: str  # of the weight or node
    reason: str  # one sentence
