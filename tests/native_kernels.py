"""Every kernel of the two kernels.inc by name, outside onnxruntime, through the test library."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

OPS_SOURCE = Path(__file__).resolve().parents[1] / "ops"
DENSE_DTYPES: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "i8": np.int8}


def build(folder: Path, *targets: str, sanitize: str = "", options: tuple[str, ...] = ()) -> None:
    """Build CMake targets of ops/ into `folder`, the test ones included."""
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    settings = ["-DSLC_BUILD_TESTING=ON", f"-DSLC_SANITIZE={sanitize}", *options]
    run(["cmake", "-S", str(OPS_SOURCE), "-B", str(folder), *generator, *settings])
    run(["cmake", "--build", str(folder), "--parallel", str(os.cpu_count()), "--target", *targets])


def run(command: list[str]) -> str:
    """Run a command; its output, or an error that shows it."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def pointer(array: Array | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


class NativeKernels:
    """The kernels of libslc_ops_testing.so."""

    def __init__(self, library: Path) -> None:
        self._lib = lib = ctypes.CDLL(str(library))
        void, i64, name = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
        lib.slc_kernel_name.restype = lib.slc_check_blob.restype = name
        lib.slc_open_blob.restype = void
        lib.slc_open_blob.argtypes = lib.slc_check_blob.argtypes = [void, ctypes.c_uint64]
        lib.slc_close_blob.argtypes = [void]
        lib.slc_pack_activations.restype = void
        lib.slc_pack_activations.argtypes = [name, void, void, i64]
        lib.slc_free_activations.argtypes = [void]
        lib.slc_run_sparse.argtypes = [name, void, void, i64, i64, i64, void, void]
        lib.slc_run_dense.argtypes = [name, void, i64, i64, void, i64, void]
        lib.slc_half_to_float.argtypes = [ctypes.c_uint16]
        lib.slc_half_to_float.restype = ctypes.c_float
        lib.slc_float_to_half.argtypes = [ctypes.c_float]
        lib.slc_float_to_half.restype = ctypes.c_uint16
        self.half_to_float = lib.slc_half_to_float
        self.float_to_half = lib.slc_float_to_half

    def names(self, op: str) -> list[str]:
        """The kernels of an op ("sparse_gemv", "sparse_gemm", "adapter_dot") that run here."""
        found, index = [], 0
        while (name := self._lib.slc_kernel_name(index)) is not None:
            index += 1
            if name.decode().startswith(op) and self._lib.slc_kernel_runs_here(name):
                found.append(name.decode())
        return found

    def check(self, blob: Array) -> str | None:
        """Why the native parser refuses a blob; None when it does not."""
        error = self._lib.slc_check_blob(pointer(blob), blob.size)
        return error.decode() if error is not None else None

    def sparse(self, name: str, blob: Array, X: Floats, bias: Floats | None = None) -> Floats:
        """X · decode(blob)ᵀ + bias by one sparse kernel. X: [m, K]."""
        view = self.open(blob)
        n = int(blob[8:16].view(np.uint64)[0])
        Y = np.full((X.shape[0], n), np.nan, np.float32)
        packed = self.pack(name, view, X)
        self.sparse_into(name, view, packed, bias, Y)
        self.free(packed)
        self.close(view)
        return Y

    def pack(self, name: str, view: int, X: Floats) -> int:
        """X: [m, K] in the order that a sparse kernel wants. The array must outlive the handle."""
        packed = self._lib.slc_pack_activations(name.encode(), view, pointer(X), X.shape[0])
        assert packed, name
        return int(packed)

    def free(self, packed: int) -> None:
        self._lib.slc_free_activations(packed)

    def open(self, blob: Array) -> int:
        """Check a blob once, for sparse_into. The array must outlive the handle."""
        view = self._lib.slc_open_blob(pointer(blob), blob.size)
        assert view, self.check(blob)
        return int(view)

    def close(self, view: int) -> None:
        self._lib.slc_close_blob(view)

    def sparse_into(
        self, name: str, view: int, packed: int, bias: Floats | None, Y: Floats
    ) -> None:
        """One kernel on packed activations; fills Y: [m, N]."""
        m, n = Y.shape
        assert (
            self._lib.slc_run_sparse(
                name.encode(), view, packed, m, 0, n, pointer(bias), pointer(Y)
            )
            == 0
        ), name

    def dense(self, name: str, W: Array, X: Floats) -> Floats:
        """X · Wᵀ by one adapter kernel, without scales."""
        Y = np.full((X.shape[0], W.shape[0]), np.nan, np.float32)
        assert (
            self._lib.slc_run_dense(
                name.encode(), pointer(W), *W.shape, pointer(X), X.shape[0], pointer(Y)
            )
            == 0
        ), name
        return Y
