"""libslc_ops_cuda.so through its C interface, for gpu_check.py."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench import cuda_driver, gpu_plans
from bench.cuda_driver import Buffer, Device
from bench.gpu_plans import Gpu, Plan
from cuda_emulator import GemmPlan
from cuda_interface import Blob, CudaInterface

from slc.ops import bitmap
from slc.ops.blob_header import write_header
from slc.ops.blob_sections import blob_end


class Library(CudaInterface):
    """The C interface of slc_cuda.h on a device's stream."""

    def __init__(self, path: Path, device: Device) -> None:
        super().__init__(path)
        self._device = device
        self.call("prepare")
        self.library.slc_cuda_images.restype = ctypes.c_char_p
        self.images = self.library.slc_cuda_images().decode()

    def open(self, packed: Buffer) -> Blob:
        """Of a blob on the device."""
        return self.open_blob(packed.pointer, packed.nbytes)

    def plan(self, blob: Blob, m: int) -> Plan:
        """What the library would launch."""
        plan = GemmPlan()
        self.call("gemm_plan", ctypes.byref(blob), ctypes.c_int64(m), ctypes.byref(plan))
        return Plan(plan.rows, plan.warps, plan.cluster)

    def gemm(self, blob: Blob, x: Buffer, y: Buffer, m: int, *, is_float: bool = False,
             bias: Buffer | None = None, plan: Plan | None = None) -> None:  # fmt: skip
        """Launches on the device's stream."""
        args = [
            ctypes.byref(blob), x.pointer, int(is_float), None if bias is None else bias.pointer,
            y.pointer, ctypes.c_int64(m), self._device.stream,
        ]  # fmt: skip
        if plan is None:
            self.call("bitmap_sparse_gemm", *args)
        else:
            self.call("gemm_by", ctypes.byref(GemmPlan(*plan)), *args)


class Budget:
    """Seconds that a part may take."""

    def __init__(self, seconds: float) -> None:
        self._end, self.left_out = time.monotonic() + seconds, 0

    def spent(self) -> bool:
        """Whether to leave out what comes next, which is counted."""
        self.left_out += time.monotonic() > self._end
        return time.monotonic() > self._end


@functools.cache
def make(n: int, k: int, density: float, value_type: Any, seed: int = 0) -> np.ndarray:
    """A blob in tiles; a large one repeats its first rows, which takes a tenth of the time."""
    times = 8 if n % (8 * 16) == 0 and n * k > 1 << 21 else 1
    rng = np.random.default_rng(seed)
    S = rng.standard_normal((n // times, k), np.float32) / np.float32(math.sqrt(k))
    S *= rng.random(S.shape, np.float32) < density
    return stacked(bitmap.encode(S, value_type, layout="tiles"), times)


def stacked(blob: np.ndarray, times: int) -> np.ndarray:
    """A blob in tiles, of whole tiles, `times` times above itself."""
    one = bitmap.read_header(blob)
    starts = one.starts(blob).astype(np.int64)
    values = blob[one.values_offset : one.values_offset + 16 * int(starts[-1])]
    many = dataclasses.replace(one, n=one.n * times, nnz=one.nnz * times)
    at = many.sections.values
    made = np.zeros(blob_end(at + values.size * times), np.uint8)
    many = dataclasses.replace(many, values_offset=at, total_bytes=made.size)
    many.starts(made)[1:] = (starts[1:] + starts[-1] * np.arange(times)[:, None]).ravel()
    many.block_masks(made)[:] = np.tile(one.block_masks(blob), (times, 1))
    if one.groups:
        many.block_scales(made)[:] = np.tile(one.block_scales(blob), (times, 1, 1))
    if one.value_type == "i4":
        many.codebook(made)[:] = one.codebook(blob)
    made[at : at + values.size * times] = np.tile(values, times)
    write_header(made, many)
    return made


def plans_for(device: Device, m: int, values: str, few: bool = False) -> list[Plan]:
    gpu = gpu_of(device)
    plans = [p for one in gpu_plans.kernels(m, values, gpu) for p in gpu_plans.splits(one, gpu)]
    return plans[:: max(1, len(plans) // 3)] if few else plans


def gpu_of(device: Device) -> Gpu:
    sm = 10 * device.attribute(cuda_driver.MAJOR) + device.attribute(cuda_driver.MINOR)
    row = gpu_plans.row_for(sm)
    clusters = row.cluster_max > 1 and bool(device.attribute(cuda_driver.CLUSTERS))
    shared = device.attribute(cuda_driver.SHARED_OF_BLOCK)
    return Gpu(row.sm, device.attribute(cuda_driver.SMS), shared, clusters)
