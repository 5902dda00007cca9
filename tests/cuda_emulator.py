"""The CUDA kernels as csrc/testing/emulate_cuda.cc runs them, with arguments.h's structs."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bench.gpu_plans import Gpu, GpuRow, Plan
from native_kernels import pointer

from slc.ops import bitmap

Array = npt.NDArray[Any]

I64, VOID, F32, INT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float, ctypes.c_int32
VALUE_TYPES = {"f16": 1, "i8": 2, "i4": 3}
DENSE_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int8): 2}
ADAPTERS_MAX = 16
FAULTS = {1: "starts", 2: "outside", 4: "first start", 8: "codebook"}


class TileMatrix(ctypes.Structure):
    _fields_ = [
        ("n", I64), ("k", I64), ("tiles", I64), ("blocks", I64), ("group_blocks", I64),
        ("groups", I64), ("starts", VOID), ("masks", VOID), ("scales", VOID), ("codebook", VOID),
        ("values", VOID), ("scale_first", F32), ("scale_second", F32),
    ]  # fmt: skip


class GemmArguments(ctypes.Structure):
    _fields_ = [("S", TileMatrix), ("x", VOID), ("bias", VOID), ("y", VOID), ("m", I64)]


class Adapter(ctypes.Structure):
    _fields_ = [
        ("data", VOID), ("scale", VOID), ("rank", I64), ("begin", I64), ("type", INT),
        ("reserved", INT),
    ]  # fmt: skip


Adapters = Adapter * ADAPTERS_MAX


class DownArguments(ctypes.Structure):
    _fields_ = [
        ("x", VOID), ("gate", VOID), ("h", VOID), ("m", I64), ("k", I64), ("stride", I64),
        ("ranks", I64), ("adapters", Adapters), ("count", INT), ("reserved", INT),
    ]  # fmt: skip


class UpArguments(ctypes.Structure):
    _fields_ = [
        ("y0", VOID), ("h", VOID), ("y", VOID), ("m", I64), ("n", I64), ("stride", I64),
        ("adapters", Adapters), ("count", INT), ("reserved", INT),
    ]  # fmt: skip


class CheckArguments(ctypes.Structure):
    _fields_ = [("S", TileMatrix), ("value_type", INT), ("faults", VOID), ("stored", VOID)]


class GemmPlan(ctypes.Structure):
    _fields_ = [("rows", INT), ("warps", INT), ("cluster", INT)]


TILED = Plan(128, 4)
WIDE = {"f16": Plan(256, 8), "i8": Plan(128, 8), "i4": Plan(128, 8)}
ORIN = Gpu(87, 8, 163 * 1024)


class CudaKernels:
    """The kernels of libslc_cuda_emulated.so."""

    def __init__(self, library: Path) -> None:
        self._lib = lib = ctypes.CDLL(str(library))
        lib.slc_emulate_gemm.argtypes = [INT, INT, VOID, ctypes.c_uint32, VOID]
        lib.slc_choose_plan.argtypes = [INT, INT, INT, INT, INT, I64, I64, I64, VOID]
        lib.slc_gpu_row.argtypes = [INT, VOID]
        lib.slc_plan_shared.argtypes = [INT, VOID]
        lib.slc_take_bytes_read.restype = ctypes.c_uint64
        lib.slc_emulate_down.argtypes = lib.slc_emulate_up.argtypes = [INT, ctypes.c_uint32, VOID]
        lib.slc_emulate_check.argtypes = lib.slc_emulate_mma.argtypes = None
        lib.slc_tile_map.argtypes = [ctypes.c_char_p, INT, INT]
        lib.slc_values_before.argtypes = [ctypes.c_uint32, INT]
        lib.slc_blocks_of_split.argtypes = [I64, INT, INT]
        lib.slc_blocks_of_split.restype = I64
        self.values_before = lib.slc_values_before
        self.blocks_of_split = lib.slc_blocks_of_split

    def tile_map(self, name: str, a: int, b: int = 0) -> int:
        """A function of tile_map.h."""
        return int(self._lib.slc_tile_map(name.encode(), a, b))

    def gemm(
        self,
        blob: Array,
        X: Array,
        bias: Array | None = None,
        *,
        plan: Plan | None = None,
        seed: int = 0,
    ) -> Array:
        """X · decode(blob)ᵀ + bias of the type of X, [m, K] f16 or f32."""
        header = bitmap.read_header(blob)
        Y = np.full((len(X), header.n), np.nan, X.dtype)
        aligned = _aligned(blob)
        arguments = GemmArguments(
            tile_matrix(aligned, header), pointer(X), pointer(bias), pointer(Y), len(X)
        )
        plan = plan or self.choose(ORIN, header.value_type, header.n, header.k, len(X))
        self._lib.slc_emulate_gemm(
            VALUE_TYPES[header.value_type], int(X.dtype == np.float32),
            ctypes.byref(GemmPlan(*plan)), seed, ctypes.byref(arguments),
        )  # fmt: skip
        return Y

    def choose(self, gpu: Gpu, value_type: str, n: int, k: int, m: int) -> Plan:
        """What the host launches."""
        plan = GemmPlan()
        self._lib.slc_choose_plan(
            gpu.sm, gpu.sms, gpu.shared_bytes, int(gpu.clusters), VALUE_TYPES[value_type], n, k, m,
            ctypes.byref(plan),
        )  # fmt: skip
        return Plan(plan.rows, plan.warps, plan.cluster)

    def table_row(self, sm: int) -> GpuRow:
        """The line of gpu_table.h for an image."""
        row = (INT * len(GpuRow._fields))()
        self._lib.slc_gpu_row(sm, ctypes.byref(row))
        return GpuRow(*row)

    def plan_shared(self, value_type: str, plan: Plan) -> int:
        """Bytes of shared memory of a thread block."""
        return int(
            self._lib.slc_plan_shared(VALUE_TYPES[value_type], ctypes.byref(GemmPlan(*plan)))
        )

    def take_bytes_read(self) -> int:
        """What kernels read of global memory since the last call."""
        return int(self._lib.slc_take_bytes_read())

    def down(self, X: Array, adapters: list[Array], scales: list[Array | None],
             gate: Array | None, seed: int = 0) -> Array:  # fmt: skip
        """H [m, R]."""
        ranks = [len(A) for A in adapters]
        H = np.full((len(X), sum(ranks)), np.nan, X.dtype)
        arguments = DownArguments(
            x=pointer(X), gate=pointer(gate), h=pointer(H), m=len(X), k=X.shape[1],
            stride=sum(ranks), ranks=sum(ranks), adapters=_adapters(adapters, scales, ranks, 0),
            count=len(adapters),
        )  # fmt: skip
        self._lib.slc_emulate_down(int(X.dtype == np.float32), seed, ctypes.byref(arguments))
        return H

    def up(self, Y0: Array, H: Array, adapters: list[Array], scales: list[Array | None],
           offset: int = 0, seed: int = 0) -> Array:  # fmt: skip
        """Y [m, N]."""
        ranks = [B.shape[1] for B in adapters]
        Y = np.full(Y0.shape, np.nan, Y0.dtype)
        arguments = UpArguments(
            y0=pointer(Y0), h=pointer(H), y=pointer(Y), m=len(Y0), n=Y0.shape[1],
            stride=H.shape[1], adapters=_adapters(adapters, scales, ranks, offset),
            count=len(adapters),
        )  # fmt: skip
        self._lib.slc_emulate_up(int(Y0.dtype == np.float32), seed, ctypes.byref(arguments))
        return Y

    def check(self, blob: Array) -> tuple[set[str], int]:
        """(the faults that the device finds, stored values)."""
        header, aligned = bitmap.read_header(blob), _aligned(blob)
        faults, stored = ctypes.c_uint32(0), ctypes.c_uint64(0)
        arguments = CheckArguments(
            tile_matrix(aligned, header), VALUE_TYPES[header.value_type],
            ctypes.addressof(faults), ctypes.addressof(stored),
        )  # fmt: skip
        self._lib.slc_emulate_check(ctypes.byref(arguments))
        return {name for bit, name in FAULTS.items() if faults.value & bit}, stored.value

    def mma(self, A: Array, B: Array, C: Array) -> Array:
        """C + A · B of m16n8k16: f16 [16, 16], f16 [16, 8], f32 [16, 8]."""
        result = C.copy()
        self._lib.slc_emulate_mma(pointer(A), pointer(B), pointer(result))
        return result


def tile_matrix(blob: Array, header: bitmap.Header) -> TileMatrix:
    """The sections of a blob in host memory, as the host code finds those of one on the device."""
    at, base = header.sections, blob.ctypes.data
    first = max(min(header.exponent, 126), -126)
    return TileMatrix(
        header.n, header.k, header.tiles, header.words,
        header.group // 64, header.groups, base + at.starts, base + at.where, base + at.scales,
        base + at.codebook, base + header.values_offset, 2.0**first,
        2.0 ** (header.exponent - first),
    )  # fmt: skip


def _adapters(
    matrices: list[Array], scales: list[Array | None], ranks: list[int], begin: int
) -> Any:
    made = Adapters()
    for i, (matrix, scale, rank) in enumerate(zip(matrices, scales, ranks, strict=True)):
        made[i] = Adapter(
            pointer(matrix), pointer(scale), rank, begin, DENSE_TYPES[matrix.dtype], 0
        )
        begin += rank
    return made


def _aligned(blob: Array) -> Array:
    """A copy at a multiple of 64, as device memory is."""
    room = np.zeros(blob.size + 64, np.uint8)
    begin = -room.ctypes.data % 64
    room[begin : begin + blob.size] = blob
    return room[begin : begin + blob.size]
