"""libslc_ops_cuda.so over csrc/testing/fake_driver.cc: the host's code, in a process of its own.

The fake driver takes the name libcuda.so.1, which no other test should find; and where a kernel
would read outside an allocation, the process ends, which the caller sees as BrokenProcessPool.
"""

from __future__ import annotations

import ctypes
import os
import runpy
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda_emulator import Adapter, Adapters, DownArguments, GemmPlan, Plan, UpArguments
from cuda_interface import Blob, CudaInterface
from native_kernels import OPS_SOURCE, build

Array = npt.NDArray[Any]
H100, A100, ORIN_NANO = "90,132,227,1", "80,108,163,0", "87,8,163,0"


def build_host(folder: Path) -> None:
    """The fake driver, and the CUDA library with images that nobody looks into."""
    images = folder / "no-images"
    images.mkdir(exist_ok=True)
    names = [("sm_80.cubin", 80, False), ("sm_87.cubin", 87, False), ("sm_90.cubin", 90, False),
             ("sm_80.ptx", 80, True)]  # fmt: skip
    for name, _, _ in names:
        (images / name).write_bytes(b"\0")
    (images / "figures.json").write_text("{}")
    script = runpy.run_path(str(OPS_SOURCE / "csrc" / "cuda" / "build_images.py"))
    script["write_sources"](images, names)
    targets = ("slc_fake_driver", "slc_ops_cuda", "slc_ops_cuda_on_cpu")
    build(folder, *targets, options=(f"-DSLC_CUDA_IMAGES={images}",))


@contextmanager
def cuda_process(folder: Path, gpu: str) -> Iterator[Callable[..., Any]]:
    """Runs functions of modules with a `Host` first, all in one other process."""
    started = (folder, gpu)
    with ProcessPoolExecutor(1, get_context("spawn"), _start, started) as pool:
        yield lambda function, *args: pool.submit(_call, function, *args).result()


_host: Host | None = None


def _start(folder: Path, gpu: str) -> None:
    global _host
    os.environ["SLC_FAKE_GPU"] = gpu
    _host = Host(folder)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(_host, *args)


class Host(CudaInterface):
    """slc_cuda.h and a few calls of the driver, over "device" memory."""

    def __init__(self, folder: Path) -> None:
        # By its soname it is what libslc_ops_cuda.so then opens.
        self.driver = ctypes.CDLL(str(folder / "fake-driver" / "libcuda.so.1"))
        self.driver.slc_fake_take_launches.restype = ctypes.c_uint64
        self.driver.slc_fake_take_bytes_read.restype = ctypes.c_uint64
        self.folder = folder
        super().__init__(folder / "libslc_ops_cuda.so")

    def put(self, array: Array) -> int:
        """Device memory with a copy, that ends where nobody may read on."""
        pointer = ctypes.c_uint64()
        assert self.driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(array.nbytes)) == 0
        ctypes.memmove(pointer.value, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return int(pointer.value)

    def get(self, pointer: int, like: Array) -> Array:
        """What lies there, in the shape and type of `like`; frees it."""
        found = np.empty_like(like)
        ctypes.memmove(found.ctypes.data, pointer, found.nbytes)
        self.free(pointer)
        return found

    def free(self, *pointers: int) -> None:
        """Gives device memory back."""
        for pointer in pointers:
            assert self.driver.cuMemFree_v2(ctypes.c_uint64(pointer)) == 0

    def open(self, pointer: int, size: int) -> Blob:
        """Checks a blob in device memory."""
        return self.open_blob(ctypes.c_void_p(pointer), size)

    def gemm(self, blob: Blob, X: Array, n: int, plan: Plan | None = None) -> Array:
        """X · decode(blob)ᵀ."""
        Y = np.full((len(X), n), np.nan, X.dtype)
        x, y = self.put(X), self.put(Y)
        args = [
            ctypes.byref(blob), ctypes.c_void_p(x), int(X.dtype == np.float32), None,
            ctypes.c_void_p(y), ctypes.c_int64(len(X)), None,
        ]  # fmt: skip
        try:
            if plan is None:
                self.call("bitmap_sparse_gemm", *args)
            else:
                self.call("gemm_by", ctypes.byref(GemmPlan(*plan)), *args)
        finally:
            self.free(x)
        return self.get(y, Y)

    def down(self, X: Array, A: list[Array]) -> Array:
        """X · concat(A)ᵀ in f16."""
        ranks = sum(len(one) for one in A)
        H = np.full((len(X), ranks), np.nan, X.dtype)
        at = [self.put(one) for one in A]
        x, h = self.put(X), self.put(H)
        made, begin = Adapters(), 0
        for i, one in enumerate(A):
            made[i] = Adapter(at[i], None, len(one), begin, 1, 0)
            begin += len(one)
        arguments = DownArguments(x, None, h, len(X), X.shape[1], ranks, ranks, made, len(A), 0)
        self.call("adapter_down", ctypes.byref(arguments), 0, None)
        self.free(x, *at)
        return self.get(h, H)

    def up(self, Y0: Array, H: Array, B: list[Array]) -> Array:
        """Y0 + H · concat(B)ᵀ in f16."""
        at = [self.put(one) for one in B]
        y, h = self.put(Y0), self.put(H)
        made, begin = Adapters(), 0
        for i, one in enumerate(B):
            made[i] = Adapter(at[i], None, one.shape[1], begin, 1, 0)
            begin += one.shape[1]
        arguments = UpArguments(y, h, y, len(Y0), Y0.shape[1], H.shape[1], made, len(B), 0)
        self.call("adapter_up", ctypes.byref(arguments), 0, None)
        self.free(h, *at)
        return self.get(y, Y0)

    def taken(self) -> tuple[int, int]:
        """(launches, bytes read of device memory by them) since the last call."""
        return self.driver.slc_fake_take_launches(), self.driver.slc_fake_take_bytes_read()
