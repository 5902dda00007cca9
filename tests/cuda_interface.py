"""The C interface of slc_cuda.h, over whatever libcuda.so.1 the process has."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any


class CudaError(Exception):
    """The sentence that a function of slc_cuda.h gave."""


class Blob(ctypes.Structure):
    """slc::cuda::Blob, of which only the size matters here."""

    _fields_ = [("words", ctypes.c_uint64 * 13)]


class CudaInterface:
    """Functions of libslc_ops_cuda.so by their names."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path.resolve()))

    def call(self, name: str, *args: Any) -> None:
        """slc_cuda_<name>.

        Raises:
            CudaError: it gave a reason.
        """
        function = getattr(self.library, f"slc_cuda_{name}")
        function.restype = ctypes.c_char_p
        reason = function(*args)
        if reason is not None:
            raise CudaError(reason.decode())

    def open_blob(self, pointer: Any, size: int) -> Blob:
        """Checks a blob in device memory, `pointer` being what a driver takes."""
        blob = Blob()
        self.call("open_blob", pointer, ctypes.c_uint64(size), ctypes.byref(blob))
        return blob
