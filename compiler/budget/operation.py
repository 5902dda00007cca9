"""One operator at one row of X, as the cost model and the calibration both count it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

DOWN_ROWS = 8  # of A that ConcatAdapterDown hands to a thread at a time
MANY = math.inf  # tasks: as many as there are cores


class Operation(NamedTuple):
    """What one call does.

    Attributes:
      kernel: whose figures hold, of `kernel_figures.KERNELS`.
      positions: of W that are walked.
      values: that are stored and multiplied.
      rows: of W.
      groups: of weights that share a scale.
      bytes: read from memory.
      tasks: of one thread each that it is divided into; a smaller last one counts as its part.
    """

    kernel: str
    positions: float
    values: float = 0
    rows: float = 0
    groups: float = 0
    bytes: float = 0
    tasks: float = MANY


@dataclasses.dataclass(frozen=True)
class Machine:
    """What all operators share: the rate of memory and the cores."""

    bytes_per_us: float
    cores: int

    def parallel(self, tasks: float) -> float:
        """By how much so many equal tasks are faster on all cores than on one."""
        return self.cores if tasks == MANY else tasks / math.ceil(tasks / self.cores)


class KernelCost:
    """The figures of one kernel on one machine."""

    def __init__(self, figures: Mapping[str, float], machine: Machine) -> None:
        self._position = figures.get("ns_per_position", 0.0) / 1000
        self._value = figures.get("ns_per_value", 0.0) / 1000
        self._row = figures.get("ns_per_row", 0.0) / 1000
        self._group = figures.get("ns_per_group", 0.0) / 1000
        self._machine = machine
        self.us_per_call = figures.get("us_per_call", 0.0)
        self.us_per_token = figures.get("us_per_token", 0.0)
        # Figures that were reckoned have none: how far they are off is not known.
        self.ratios = (figures.get("ratio_low", math.nan), figures.get("ratio_high", math.nan))

    def us(self, operation: Operation) -> float:
        """Microseconds of one call: its bytes or its instructions, whichever takes longer."""
        _, positions, values, rows, groups, size, tasks = operation
        compute = (
            positions * self._position
            + values * self._value
            + rows * self._row
            + groups * self._group
        ) / self._machine.parallel(tasks)
        return self.us_per_call + max(size / self._machine.bytes_per_us, compute)


def sparse(kernel: str, N: int, K: int, nnz: int, size: int) -> Operation:
    """BitmapSparseGemm on a blob of `size` bytes; rows of W are walked in words of 64."""
    return Operation(kernel, N * (-(-K // 64) * 64), nnz, N, bytes=size)


def quantized(kernel: str, N: int, K: int, bits: int, group: int) -> Operation:
    """MatMulNBits with an f32 scale for every `group` columns."""
    groups = N * -(-K // group)
    return Operation(kernel, N * K, rows=N, groups=groups, bytes=N * K * bits / 8 + 4 * groups)


def dense(N: int, K: int, itemsize: int = 4) -> Operation:
    """MatMul in float32, or in float16 on a GPU."""
    return Operation("dense_f32", N * K, rows=N, bytes=itemsize * N * K)


def down(kernel: str, rank: int, K: int, itemsize: int) -> Operation:
    """ConcatAdapterDown with A: [rank, K]."""
    size = rank * K
    return Operation(kernel, size, rows=rank, bytes=size * itemsize, tasks=max(1, rank / DOWN_ROWS))


def up(kernel: str, N: int, rank: int, itemsize: int) -> Operation:
    """ConcatAdapterUp with B: [N, rank]."""
    return Operation(kernel, N * rank, rows=N, bytes=N * rank * itemsize)


def attention(heads: int, kv_heads: int, head_size: int, tokens: int, itemsize: int) -> Operation:
    """GroupQueryAttention of one new token over a cache of `tokens` keys and values."""
    size = 2 * head_size * tokens
    return Operation("attention", size * heads, bytes=size * kv_heads * itemsize, tasks=heads)


def node(elements: float) -> Operation:
    """Any other operator, which makes so many elements; such small ones run on one thread."""
    return Operation("node", 0, elements, tasks=1)


def runtime(vocabulary: int) -> Operation:
    """What onnxruntime-genai does for a token: buffers, and the search over the logits."""
    return Operation("runtime", 0, vocabulary, tasks=1)
