"""The CUDA driver and cuBLAS through ctypes: what gpu_check.py needs of a GPU, without torch."""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
from collections.abc import Callable
from ctypes import byref, c_float, c_int, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# Attributes of a device: cuda.h.
SMS, L2_BYTES, SHARED_OF_SM, SHARED_OF_BLOCK, MAJOR, MINOR, CLUSTERS = 16, 38, 81, 97, 75, 76, 120
CUBLAS_WORKSPACE = 64 << 20  # what NVIDIA advises for Hopper is 32 MiB
F16, COMPUTE_F32, DEFAULT_ALGORITHM = 2, 68, -1


class DeviceError(Exception):
    """A call of the driver or of cuBLAS failed."""


class Device:
    """Device 0, its primary context and one stream, on which everything runs."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DeviceError(f"no CUDA driver here: {error}") from None
        self.call("cuInit", 0)
        device, context, stream = c_int(), c_void_p(), c_void_p()
        self.call("cuDeviceGet", byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", byref(context), device)
        self.call("cuCtxSetCurrent", context)
        # One that waits for the default stream: copies from the host may still be under way there.
        self.call("cuStreamCreate", byref(stream), 0)
        self.stream = stream
        self._device = device
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, 256, device)
        self.name = name.value.decode()
        version = c_int()
        self.call("cuDriverGetVersion", byref(version))
        self.driver = f"{version.value // 1000}.{version.value % 1000 // 10}"

    def call(self, name: str, *args: Any) -> None:
        """A function of the driver.

        Raises:
            DeviceError: it failed.
        """
        code = getattr(self._lib, name)(*args)
        if code != 0:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorName(code, byref(text))
            raise DeviceError(f"{name}: {(text.value or b'').decode()} ({code})")

    def attribute(self, which: int) -> int:
        """Of the device: SMS and its like."""
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), which, self._device)
        return value.value

    def put(self, array: Array) -> Buffer:
        """Device memory with a copy of `array`."""
        array = np.ascontiguousarray(array)
        buffer = Buffer(self, array.nbytes)
        self.call("cuMemcpyHtoD_v2", buffer.pointer, c_void_p(array.ctypes.data),
                  c_size_t(array.nbytes))  # fmt: skip
        return buffer

    def get(self, buffer: Buffer, shape: tuple[int, ...], dtype: Any) -> Array:
        """What lies in device memory, once the stream is done."""
        self.call("cuStreamSynchronize", self.stream)
        found = np.empty(shape, dtype)
        self.call("cuMemcpyDtoH_v2", c_void_p(found.ctypes.data), buffer.pointer,
                  c_size_t(found.nbytes))  # fmt: skip
        return found

    def copy(self, to: Buffer, source: Buffer) -> None:
        """On the stream, all of `source`."""
        self.call("cuMemcpyDtoDAsync_v2", to.pointer, source.pointer, c_size_t(source.nbytes),
                  self.stream)  # fmt: skip

    def graph(self, body: Callable[[], None]) -> Graph:
        """What `body` puts on the stream, to be run again and again; it runs once before that."""
        body()  # what is loaded at a first call can't be captured
        self.call("cuStreamSynchronize", self.stream)
        graph, ready = c_void_p(), c_void_p()
        self.call("cuStreamBeginCapture_v2", self.stream, 1)
        body()
        self.call("cuStreamEndCapture", self.stream, byref(graph))
        self.call("cuGraphInstantiateWithFlags", byref(ready), graph, c_uint64(0))
        self.call("cuGraphDestroy", graph)
        return Graph(self, ready)


class Buffer:
    """Device memory, given back with the object."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self._device, self.nbytes, self.pointer = device, nbytes, c_uint64()
        device.call("cuMemAlloc_v2", byref(self.pointer), c_size_t(nbytes))

    @property
    def address(self) -> int:
        """Where it begins."""
        return self.pointer.value

    def __del__(self) -> None:
        if self.pointer.value:
            self._device.call("cuMemFree_v2", self.pointer)


class Graph:
    """A captured graph."""

    def __init__(self, device: Device, ready: c_void_p) -> None:
        self._device, self._ready = device, ready
        self._events = (c_void_p(), c_void_p())
        for event in self._events:
            device.call("cuEventCreate", byref(event), 0)

    def seconds(self) -> float:
        """How long one run takes, by events."""
        device, (begin, end) = self._device, self._events
        device.call("cuEventRecord", begin, device.stream)
        device.call("cuGraphLaunch", self._ready, device.stream)
        device.call("cuEventRecord", end, device.stream)
        device.call("cuEventSynchronize", end)
        ms = c_float()
        device.call("cuEventElapsedTime", byref(ms), begin, end)
        return ms.value / 1e3

    def __del__(self) -> None:
        self._device.call("cuGraphExecDestroy", self._ready)
        for event in self._events:
            self._device.call("cuEventDestroy_v2", event)


class Cublas:
    """Dense products in f16 with sums in f32."""

    def __init__(self, device: Device) -> None:
        self._lib, self.path = _open_cublas()
        self._handle = c_void_p()
        self._workspace = Buffer(device, CUBLAS_WORKSPACE)  # ours: graphs can't allocate
        self._one, self._zero = c_float(1), c_float(0)
        self._check("cublasCreate_v2", byref(self._handle))
        self._check("cublasSetStream_v2", self._handle, device.stream)
        self._check("cublasSetWorkspace_v2", self._handle, self._workspace.pointer,
                    c_size_t(CUBLAS_WORKSPACE))  # fmt: skip
        version = c_int()
        self._check("cublasGetVersion_v2", self._handle, byref(version))
        self.version = version.value

    def matmul(self, X: Buffer, W: Buffer, Y: Buffer, m: int, n: int, k: int) -> None:
        """Y[m, n] = X[m, k] · W[n, k]ᵀ; to cuBLAS, whose matrices are by columns, Yᵀ = W · Xᵀ."""
        self._check(
            "cublasGemmEx", self._handle, 1, 0, n, m, k, byref(self._one),
            W.pointer, F16, k, X.pointer, F16, k, byref(self._zero),
            Y.pointer, F16, n, COMPUTE_F32, DEFAULT_ALGORITHM,
        )  # fmt: skip

    def _check(self, name: str, *args: Any) -> None:
        code = getattr(self._lib, name)(*args)
        if code != 0:
            raise DeviceError(f"{name}: status {code}")


def _open_cublas() -> tuple[ctypes.CDLL, str]:
    """The first cuBLAS that loads: of Python's packages, of the loader's paths, of a toolkit."""
    found = [os.environ["SLC_CUBLAS"]] if "SLC_CUBLAS" in os.environ else []
    nvidia = importlib.util.find_spec("nvidia")
    for folder in (nvidia.submodule_search_locations or []) if nvidia else []:
        found += sorted(map(str, Path(folder).glob("*/lib/libcublas.so.*")), reverse=True)
    found += [f"libcublas.so.{major}" for major in (14, 13, 12)]
    found += sorted(glob.glob("/usr/local/cuda*/lib64/libcublas.so.*"), reverse=True)
    for path in found:
        try:
            # cublasLt lies beside it and is found when it is loaded already.
            for beside in sorted(glob.glob(str(Path(path).parent / "libcublasLt.so.*"))):
                ctypes.CDLL(beside, mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(path), path
        except OSError:
            continue
    raise DeviceError("no cuBLAS here: in no package `nvidia`, in no toolkit; SLC_CUBLAS=PATH")
