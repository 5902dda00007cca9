"""The Choice of one Linear at a given density and rank, with its exact bytes."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Literal

from slc.compiler.budget.choice import AdapterType, Choice, Layout
from slc.compiler.linear import Linear
from slc.compiler.structure.dense_codes import int8_group

if TYPE_CHECKING:
    from slc.targets import Target

SparseValues = Literal["f16", "i8", "i4"]

ALIGNMENT_BYTES = 64  # of every tensor in model.onnx.data, as artifact.writer lays it out
PAGE_BYTES = 4096  # of tensors of at least LARGE_BYTES
LARGE_BYTES = 1 << 20
DENSE_BELOW_BYTES = 1024  # f32 weights this small are not worth an operator of their own
# Level 4 (int8 activations): at levels 0 and 1 onnxruntime decodes the whole matrix to f32 in every
# call, measured as 4·N·K bytes of transient memory and a ninetieth of the speed.
MATMUL_NBITS_LEVEL = 4
FLOAT_LEVEL, INT8_LEVEL = 1, 4  # accuracy_level of our operator: activations in f32 or int8


def aligned(size: int) -> int:
    """Bytes that a tensor of `size` bytes takes in the data file, padding included."""
    step = PAGE_BYTES if size >= LARGE_BYTES else ALIGNMENT_BYTES
    return -(-size // step) * step


def adapter_bytes(N: int, K: int, rank: int, adapter_type: AdapterType = "f16") -> int:
    """A: [rank, K] and B: [N, rank], and f32 scales of int8 rows, each aligned.

    At most: where siblings share a Down, their scales of A are one tensor; and what is shorter than
    256 bytes lies in model.onnx.
    """
    if adapter_type == "f16" or rank == 0:
        return aligned(2 * rank * K) + aligned(2 * N * rank)
    return aligned(rank * K) + aligned(N * rank) + aligned(4 * rank) + aligned(4 * N)


def adapters_bytes(linear: Linear, rank: int, adapter_type: AdapterType, extra_rank: int) -> int:
    """The residual adapter and the task adapters of `linear`: one pair, or int8 apart from f16."""
    if adapter_type == "f16":
        return adapter_bytes(linear.N, linear.K, rank + extra_rank)
    residual = adapter_bytes(linear.N, linear.K, rank, adapter_type)
    return residual + adapter_bytes(linear.N, linear.K, extra_rank)


def dense_bytes(linear: Linear) -> int:
    """W in f32, or in f16 where the graph is, aligned."""
    return aligned(linear.itemsize * linear.numel)


def float_type(linear: Linear) -> Literal["f32", "f16"]:
    """Of a dense W in the artifact."""
    return "f16" if linear.itemsize == 2 else "f32"


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """The most of S and of the adapter that a Linear can have: of the checkpoint, or of the asked.

    Attributes:
      nnz: stored values of S.
      rank: of the residual adapter.
    """

    nnz: int
    rank: int


def dense_choice(linear: Linear, reason: str) -> Choice:
    """`linear` as it is, in the type of the graph."""
    return Choice(
        linear.name, "dense", float_type(linear), nnz=linear.numel, reason=reason,
        weight_bytes=dense_bytes(linear),
    )  # fmt: skip


def int8_choice(linear: Linear) -> Choice:
    """Every weight of `linear` in 8 bits."""
    level = MATMUL_NBITS_LEVEL if linear.kind == "lm_head" else FLOAT_LEVEL
    return nbits_choice(linear, "int8", int8_group(linear.K), level=level)


def nbits_bytes(linear: Linear, bits: int, group: int) -> int:
    """Codes u8 [N, groups, bytes of a group] and scales [N, groups] of the graph's type."""
    groups = -(-linear.K // group)
    codes = aligned(linear.N * groups * (group * bits // 8))
    return codes + aligned(linear.itemsize * linear.N * groups)


def nbits_choice(
    linear: Linear, encoding: Literal["int8", "int4"], group: int, *, rank: int = 0,
    adapter_type: AdapterType = "f16", level: int = INT8_LEVEL, extra_rank: int = 0,
) -> Choice:  # fmt: skip
    """Every weight of `linear` in 8 or 4 bits, by MatMulNBits; of an embedding by Gather.

    Args:
      linear: the weight.
      encoding: decides the bits.
      group: columns that share a scale: MatMulNBits takes powers of two from 16 on.
      rank: of the correction behind it.
      adapter_type: of that correction's two factors.
      level: accuracy_level of MatMulNBits.
      extra_rank: rank of task adapters, in f16.
    """
    bits = 8 if encoding == "int8" else 4
    size = nbits_bytes(linear, bits, group)
    return Choice(
        linear.name, encoding, "i8" if bits == 8 else "i4", nnz=linear.numel, rank=rank,
        group=group, accuracy_level=level, adapter_type=adapter_type if rank else "f16",
        weight_bytes=size + adapters_bytes(linear, rank, adapter_type, extra_rank),
    )  # fmt: skip


def full_choice(
    linear: Linear, value_type: SparseValues, group: int, *, rank: int = 0,
    adapter_type: AdapterType = "f16", level: int = INT8_LEVEL, extra_rank: int = 0,
) -> Choice:  # fmt: skip
    """Every weight of `linear` in a packed blob; arguments as of `nbits_choice`.

    Unlike MatMulNBits' codes it is not packed again when a session is made: what it takes in the
    file is what it takes in memory.
    """
    from slc.ops import full

    group = 0 if value_type == "f16" else group
    size = aligned(full.encoded_bytes(linear.N, linear.K, value_type, group))
    return Choice(
        linear.name, "full", value_type, nnz=linear.numel, rank=rank, group=group,
        accuracy_level=FLOAT_LEVEL if value_type == "f16" else level,
        adapter_type=adapter_type if rank else "f16",
        weight_bytes=size + adapters_bytes(linear, rank, adapter_type, extra_rank),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Storage:
    """How S and the residual adapter are stored, the same for all Linears of one plan.

    Attributes:
      values: value type.
      group: columns per scale of i8 and i4 values.
      layout: order of i4 codes; "tiles" for GPUs, of all values.
      accuracy_level: of the operator where it has a choice: bitmaps of i8 and i4 values.
      adapter_type: of the residual adapter's two factors.
    """

    values: SparseValues
    group: int = 64
    layout: Layout = "rows"
    accuracy_level: int = FLOAT_LEVEL
    adapter_type: AdapterType = "f16"

    @property
    def gpu(self) -> bool:
        """Whether blobs are for a GPU: bitmaps only, activations in f16."""
        return self.layout == "tiles"


def blob_layout(target: Target) -> Layout:
    """The order of values that the target's kernels read best.

    GPUs take tiles. On CPUs only i4 codes have a choice: AVX-512 VBMI2 expands bytes and NEON looks
    them up in a table, codes side by side; AVX2 has neither, but BMI2's pdep deposits bits: the
    codes' bits in four planes.
    """
    if target.provider == "cuda":
        return "tiles"
    return "planes" if target.arch == "x86_64" and "avx512vbmi2" not in target.isa else "rows"


def sparse_choice(
    linear: Linear, nnz: int, rank: int, storage: Storage, extra_rank: int = 0
) -> Choice:
    """S of `nnz` values with an adapter of `rank`; dense, with a reason, where that is no larger.

    Args:
      linear: the weight.
      nnz: stored values of S, 0 … N·K.
      rank: of the residual adapter.
      storage: of S and the adapter.
      extra_rank: rank of task adapters, which are concatenated in either case, in f16.
    """
    extra = adapter_bytes(linear.N, linear.K, extra_rank) if extra_rank else 0
    if 4 * linear.numel < DENSE_BELOW_BYTES:
        return _with_extra(dense_choice(linear, "its f32 weight is smaller than 1 KiB"), extra)
    blob = _smallest_blob(linear, nnz, storage)
    weight = blob.weight_bytes + adapters_bytes(linear, rank, storage.adapter_type, extra_rank)
    if weight >= dense_bytes(linear) + extra:
        kind = float_type(linear)
        reason = f"at this density and rank it would take {weight} bytes and dense {kind} no more"
        return _with_extra(dense_choice(linear, reason), extra)
    adapter_type = storage.adapter_type if rank else "f16"
    return dataclasses.replace(blob, rank=rank, weight_bytes=weight, adapter_type=adapter_type)


def _smallest_blob(linear: Linear, nnz: int, storage: Storage) -> Choice:
    """S alone as a bitmap, or at a low density as a delta blob if the most it takes is less.

    Delta has no i4: where a value already costs a byte for its place, i8 values are used.
    """
    from slc.ops.bitmap import DELTA_BELOW

    bitmap = _blob(linear, nnz, "bitmap", storage)
    if storage.gpu or nnz >= DELTA_BELOW * linear.numel:
        return bitmap
    columns = -(-linear.K // 64) * 64  # one scale per row
    delta = Storage("f16" if storage.values == "f16" else "i8", columns)
    return min(bitmap, _blob(linear, nnz, "delta", delta), key=lambda blob: blob.weight_bytes)


def _blob(
    linear: Linear, nnz: int, encoding: Literal["bitmap", "delta"], storage: Storage
) -> Choice:
    values = storage.values
    group = 0 if values == "f16" else storage.group
    layout = storage.layout if values == "i4" or storage.gpu else "rows"
    exact = values == "f16" or storage.gpu  # no int8 activations
    size = _encoded_bytes(linear.N, linear.K, nnz, values, group, encoding, layout)
    return Choice(
        linear.name, encoding, values, density=nnz / linear.numel, nnz=nnz, group=group,
        accuracy_level=FLOAT_LEVEL if exact else storage.accuracy_level,
        weight_bytes=aligned(size), layout=layout,
    )  # fmt: skip


@functools.lru_cache(maxsize=1 << 16)  # a decoder's layers are alike, and plans ask by bisection
def _encoded_bytes(
    N: int, K: int, nnz: int, values: SparseValues, group: int,
    encoding: Literal["bitmap", "delta"], layout: Layout,
) -> int:  # fmt: skip
    from slc.ops.bitmap import encoded_bytes

    return encoded_bytes(N, K, nnz, values, group, encoding=encoding, layout=layout)


def _with_extra(choice: Choice, extra: int) -> Choice:
    return dataclasses.replace(choice, weight_bytes=choice.weight_bytes + extra)
