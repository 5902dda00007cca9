"""What the budget stage decides for one Linear."""

from __future__ import annotations

import dataclasses

from slc.compiler.encoding import AdapterType, Encoding, Layout, ValueType

__all__ = ["AdapterType", "Choice", "Encoding", "Layout", "ValueType"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """How one Linear is stored and computed on the target.

    `bitmap`, `delta`: S in a packed blob of that encoding and an adapter of `rank`.
    `full`: every weight in a packed blob, which is read where it is mapped.
    `int8`, `int4`: every weight in 8 or 4 bits with one scale per `group` columns, by
    onnxruntime's own operators; MatMulNBits may have an adapter of `rank` behind it.
    `dense`: left as it is, in the graph's `value_type`, f32 or f16; `reason` then says why.
    """

    linear: str
    encoding: Encoding
    value_type: ValueType
    density: float = 1.0  # nnz / (N·K) of S
    nnz: int = 0
    rank: int = 0
    group: int = 0
    accuracy_level: int = 1  # as in MatMulNBits: 1 = fp32 activations, 4 = int8
    # Bytes in the artifact's data file, adapter and scales included: exact, for i4 values and for
    # delta the most it can be (how many bytes those take depends on where the values lie).
    weight_bytes: int = 0
    shared_with: str | None = None  # the Linear whose int8 table this one reads
    reason: str | None = None
    layout: Layout = "rows"  # of the blob, by what the target's kernels read best
    adapter_type: AdapterType = "f16"  # of the residual adapter's two factors
    # Predicted, once a plan is made: what it adds to the error of the model's output, and the
    # microseconds of a token on the target; None where nothing predicts them.
    error: float | None = dataclasses.field(default=None, compare=False)
    us: float | None = dataclasses.field(default=None, compare=False)

    @property
    def sparse(self) -> bool:
        """Whether it is S of a sparse plus low-rank weight."""
        return self.encoding in ("bitmap", "delta")

    @property
    def packed(self) -> bool:
        """Whether it is a packed blob that our own operator reads."""
        return self.sparse or self.encoding == "full"
