"""gpu_table.h: which kernel takes how many rows, and how a row's K is split, for every GPU."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from bench.gpu_plans import TILED, Gpu, Plan, best_split, grid, row_for, splits, stream, wide
from cuda_emulator import CudaKernels
from native_kernels import build

KIB = 1024
# Compute capability of the image (sm_86 and sm_89 run those of 80 and 87), SMs, shared memory that
# a thread block may have, clusters.
GPUS = {
    "A100": Gpu(80, 108, 163 * KIB),
    "RTX 3060": Gpu(80, 28, 99 * KIB),
    "RTX 4090": Gpu(87, 128, 99 * KIB),
    "Orin Nano": Gpu(87, 8, 163 * KIB),
    "AGX Orin": Gpu(87, 16, 163 * KIB),
    "H100": Gpu(90, 132, 227 * KIB, clusters=True),
    "H100 without clusters": Gpu(90, 132, 227 * KIB),
    "Thor": Gpu(110, 20, 227 * KIB, clusters=True),
    "B200 by PTX": Gpu(80, 148, 227 * KIB, clusters=True),
}
VALUES = ["f16", "i8", "i4"]
NS = [1, 16, 17, 100, 576, 1024, 2048, 2560, 4096, 14336, 128256]
KS = [1, 64, 65, 576, 1536, 4096, 14336]
MS = [1, 2, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 512, 2048, 8192]


@pytest.fixture(scope="module")
def cuda(build_folder: Path) -> CudaKernels:
    build(build_folder, "slc_cuda_emulated")
    return CudaKernels(build_folder / "libslc_cuda_emulated.so")


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("value_type", VALUES)
def test_every_plan_can_be_launched_and_none_is_cheaper(
    cuda: CudaKernels, name: str, value_type: str
) -> None:
    gpu = GPUS[name]
    row = cuda.table_row(gpu.sm)
    assert row == row_for(gpu.sm)  # the table in Python

    def fits(plan: Plan) -> bool:
        return cuda.plan_shared(value_type, plan) <= gpu.shared_bytes

    fitting = {one.rows: splits(one, gpu, fits) for one in (*map(stream, (8, 16, 32, 64)), TILED)}
    for n, k, m in itertools.product(NS, KS, MS):
        plan = cuda.choose(gpu, value_type, n, k, m)
        assert plan == best_split(row, gpu.sms, fitting[plan.rows], n, k, m), (n, k, m)
        x, y = grid(plan, n, m)
        assert x % plan.cluster == 0
        assert x < 2**31
        assert y <= 65535
        if m <= row.stream_rows_max:
            assert plan.rows == next(rows for rows in (8, 16, 32, 64) if m <= rows)
        else:
            assert plan.rows in (64, 128)


def test_splits_fill_a_gpu_that_rows_do_not(cuda: CudaKernels) -> None:
    """Llama-3-8B's k and v have 64 row tiles: without such a split half of an H100 is idle."""
    h100 = GPUS["H100"]
    plan = cuda.choose(h100, "f16", 1024, 4096, 1)
    assert grid(plan, 1024, 1)[0] >= 0.9 * h100.sms
    assert cuda.choose(h100, "f16", 4096, 4096, 1).cluster == 1  # 256 row tiles: two on an SM
    assert cuda.choose(GPUS["Orin Nano"], "f16", 1024, 4096, 1).cluster == 1
    assert cuda.choose(h100, "f16", 4096, 4096, 128).cluster > 1  # 32 large thread blocks


def test_without_clusters_small_products_take_small_thread_blocks(cuda: CudaKernels) -> None:
    assert cuda.choose(GPUS["A100"], "f16", 1024, 4096, 128).rows == 64
    assert cuda.choose(GPUS["A100"], "f16", 4096, 4096, 512).rows == 128


def test_an_image_has_its_own_row_or_the_one_before(cuda: CudaKernels) -> None:
    assert [cuda.table_row(sm).sm for sm in (75, 80, 86, 87, 89, 90, 100, 110, 121)] == [
        80, 80, 80, 87, 87, 90, 90, 110, 110,
    ]  # fmt: skip


@pytest.mark.parametrize("sm", [80, 87, 90, 110])
def test_rows_are_within_what_the_hardware_has(cuda: CudaKernels, sm: int) -> None:
    row = cuda.table_row(sm)
    assert row.stream_rows_max % 8 == 0
    assert row.stream_rows_max >= 8
    assert 1 <= row.busy_warps <= 64  # of an SM
    assert row.cluster_max in ((1,) if sm < 90 else (1, 2, 4, 8))  # 8: what every such GPU has
    assert row.split_rounds >= 0


@pytest.mark.parametrize("value_type", VALUES)
def test_shared_memory_of_plans(cuda: CudaKernels, value_type: str) -> None:
    """A decoding warp's ring, and an SM that holds two thread blocks of each kind."""
    for sm, of_sm in ((80, 164), (87, 164), (90, 228), (110, 228)):
        assert cuda.table_row(sm).sm == sm
        for plan in (Plan(8, 8), Plan(16, 8), Plan(32, 8), Plan(64, 8), Plan(128, 4)):
            # The driver keeps 1 KiB for itself in each.
            assert 2 * (cuda.plan_shared(value_type, plan) + KIB) <= of_sm * KIB, (sm, plan)
        for plan in splits(wide(value_type), Gpu(sm, 1, 0)):
            fits = cuda.plan_shared(value_type, plan) + KIB <= of_sm * KIB
            assert fits or not cuda.table_row(sm).wide_rows_min
