"""ops/csrc/cuda/gpu_table.h in Python: how products may be launched, and what a table would choose.

gpu_check.py asks which line of the table would have chosen best of what it timed;
tests/ops/test_gpu_table.py holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

TILED_ROWS = 128
WIDE_WARPS = 8
BLOCK_COLUMNS = 64
NEVER = 1 << 30


class Plan(NamedTuple):
    """How a product is launched: slc::cuda::GemmPlan."""

    rows: int
    warps: int
    cluster: int = 1


class GpuRow(NamedTuple):
    """A line of the table."""

    sm: int
    stream_rows_max: int
    busy_warps: int
    split_rounds: int
    cluster_max: int
    wide_rows_min: int


class Gpu(NamedTuple):
    """What plans are chosen by, beside the line of the table for an image of `sm`."""

    sm: int
    sms: int
    shared_bytes: int
    clusters: bool = False


TABLE = (
    GpuRow(80, 64, 16, 2, 1, 0),
    GpuRow(87, 64, 16, 2, 1, 0),
    GpuRow(90, 64, 16, 2, 8, NEVER),
    GpuRow(110, 64, 16, 2, 8, 0),
)


def row_for(sm: int) -> GpuRow:
    """The line for an image: its own, or that of the next older SM."""
    return max((row for row in TABLE if row.sm <= sm), default=TABLE[0])


class Kernel(NamedTuple):
    """A kernel by the rows of X of a thread block and the warps that it may have."""

    rows: int
    warps: tuple[int, ...]


TILED = Kernel(TILED_ROWS, (4,))


def stream(m: int) -> Kernel:
    """The one of stream_gemm.h for m rows of X."""
    rows = next((rows for rows in (8, 16, 32) if m <= rows), 64)
    return Kernel(rows, (4, 8, 16) if rows == 8 else (4, 8))


def wide(values: str) -> Kernel:
    """That of wide_gemm.h for values of a type."""
    return Kernel(256 if values == "f16" else 128, (WIDE_WARPS,))


def kind(plan: Plan) -> str:
    """Which file's kernel a plan launches: stream, tiled or wide."""
    if plan.rows < TILED_ROWS:
        return "stream"
    return "wide" if plan.warps == WIDE_WARPS else "tiled"


def grid(plan: Plan, n: int, m: int) -> tuple[int, int]:
    """Thread blocks along S and along X."""
    across = 128 if plan.rows >= TILED_ROWS else 16 if plan.rows == 8 else 32
    return _up(n, across) * plan.cluster, _up(m, plan.rows)


def cost(row: GpuRow, sms: int, plan: Plan, n: int, k: int, m: int) -> int:
    """How long the busiest SM works, in blocks of a warp times busy_warps."""
    x, y = grid(plan, n, m)
    warps = _up(x * y, sms) * plan.warps
    share = _up(_up(k, BLOCK_COLUMNS), plan.cluster * _split_warps(plan))
    busy = plan.warps if kind(plan) == "wide" else row.busy_warps
    return (share + row.split_rounds) * max(warps, busy)


def kernels(m: int, values: str, gpu: Gpu) -> list[Kernel]:
    """Every kernel that it makes sense to time for m rows of X."""
    made = [stream(m), *([TILED] if m > 8 else [])]
    return [*made, wide(values)] if m > 32 and row_for(gpu.sm).wide_rows_min else made


def splits(
    kernel: Kernel, gpu: Gpu, fits: Callable[[Plan], bool] = lambda plan: True
) -> list[Plan]:
    """Every split of K of a kernel, small clusters first, then few warps."""
    most = row_for(gpu.sm).cluster_max if gpu.clusters else 1
    made = [Plan(kernel.rows, w, c) for c in (1, 2, 4, 8) if c <= most for w in kernel.warps]
    return [plan for plan in made if fits(plan)]


def best_split(row: GpuRow, sms: int, plans: list[Plan], n: int, k: int, m: int) -> Plan:
    """The cheapest of `plans`, the first of equals."""
    return min(plans, key=lambda plan: cost(row, sms, plan, n, k, m))


def _split_warps(plan: Plan) -> int:
    return 1 if plan.rows >= TILED_ROWS else plan.warps


def _up(a: int, b: int) -> int:
    return -(-a // b)
