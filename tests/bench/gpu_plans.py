"""ops/csrc/cuda/gpu_table.h in Python: how products may be launched, and what a table would choose.

gpu_check.py asks which line of the table would have chosen best of what it timed;
tests/ops/test_gpu_table.py holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

TILED_ROWS = 128
BLOCK_COLUMNS = 64


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


class Gpu(NamedTuple):
    """What plans are chosen by, beside the line of the table for an image of `sm`."""

    sm: int
    sms: int
    shared_bytes: int
    clusters: bool = False


TABLE = (
    GpuRow(80, 64, 16, 2, 1),
    GpuRow(87, 64, 16, 2, 1),
    GpuRow(90, 64, 16, 2, 8),
    GpuRow(110, 64, 16, 2, 8),
)


def row_for(sm: int) -> GpuRow:
    """The line for an image: its own, or that of the next older SM."""
    return max((row for row in TABLE if row.sm <= sm), default=TABLE[0])


def grid(plan: Plan, n: int, m: int) -> tuple[int, int]:
    """Thread blocks along S and along X."""
    across = 128 if plan.rows == TILED_ROWS else 16 if plan.rows == 8 else 32
    return _up(n, across) * plan.cluster, _up(m, plan.rows)


def cost(row: GpuRow, sms: int, plan: Plan, n: int, k: int, m: int) -> int:
    """How long the busiest SM works, in blocks of a warp times busy_warps."""
    x, y = grid(plan, n, m)
    warps = _up(x * y, sms) * plan.warps
    share = _up(_up(k, BLOCK_COLUMNS), plan.cluster * _split_warps(plan))
    return (share + row.split_rounds) * max(warps, row.busy_warps)


def kernels(m: int) -> list[int]:
    """Rows of X of a thread block: every kernel that it makes sense to time for m rows."""
    return sorted({_stream_rows(m), *([TILED_ROWS] if m > 8 else [])})


def splits(rows: int, gpu: Gpu, fits: Callable[[Plan], bool] = lambda plan: True) -> list[Plan]:
    """Every split of K of a kernel, small clusters first, then few warps."""
    warps = {8: (4, 8, 16), TILED_ROWS: (4,)}.get(rows, (4, 8))
    most = row_for(gpu.sm).cluster_max if gpu.clusters else 1
    made = [Plan(rows, w, c) for c in (1, 2, 4, 8) if c <= most for w in warps]
    return [plan for plan in made if fits(plan)]


def best_split(row: GpuRow, sms: int, plans: list[Plan], n: int, k: int, m: int) -> Plan:
    """The cheapest of `plans`, the first of equals."""
    return min(plans, key=lambda plan: cost(row, sms, plan, n, k, m))


def _stream_rows(m: int) -> int:
    return next((rows for rows in (8, 16, 32) if m <= rows), 64)


def _split_warps(plan: Plan) -> int:
    return 1 if plan.rows == TILED_ROWS else plan.warps


def _up(a: int, b: int) -> int:
    return -(-a // b)
