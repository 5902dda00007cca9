"""Correctness and speed of libslc_ops_cuda.so on a GPU; gpu_check.sh builds it and calls this.

    python tests/bench/gpu_check.py correct|time --library PATH --out FOLDER [--few]

Results are added to FOLDER/gpu_check.json, with the device and the date.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import itertools
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slc.ops import bitmap

VALUES = {"f16": 1, "i8": 2, "i4": 3}
# N, K of Llama-3-8B: q and o, k and v, gate and up, down.
LLAMA_8B = ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)
COLD_BYTES = 300e6  # of weights that are read one after another: several times any L2
ROUNDS = 15
# One product of tensor cores drops what lies below the last bit of its largest term: 2^-23 of it
# for each of 16 terms and the sum so far.
UNIT = 2.0**-22


class Blob(ctypes.Structure):
    """slc::cuda::Blob, of which only the size matters here."""

    _fields_ = [("words", ctypes.c_uint64 * 13)]


class Library:
    """The C interface of slc_cuda.h over torch's tensors and stream."""

    def __init__(self, path: Path) -> None:
        self._lib = ctypes.CDLL(str(path.resolve()))
        for name in ("prepare", "open_blob", "bitmap_sparse_gemm", "gemm_by", "images"):
            getattr(self._lib, f"slc_cuda_{name}").restype = ctypes.c_char_p
        torch.zeros(1, device="cuda")  # makes torch's context the current one
        _check(self._lib.slc_cuda_prepare())
        self.images = self._lib.slc_cuda_images().decode()

    def open(self, packed: torch.Tensor) -> Blob:
        """Of a uint8 tensor on the device."""
        blob = Blob()
        _check(self._lib.slc_cuda_open_blob(
            ctypes.c_void_p(packed.data_ptr()), ctypes.c_uint64(packed.numel()), ctypes.byref(blob)
        ))  # fmt: skip
        return blob

    def gemm(self, blob: Blob, X: Any, Y: Any, bias: Any = None, tiled: bool | None = None) -> None:
        """Launches on the current stream."""
        args = [
            ctypes.byref(blob), ctypes.c_void_p(X.data_ptr()), int(X.dtype == torch.float32),
            ctypes.c_void_p(None if bias is None else bias.data_ptr()),
            ctypes.c_void_p(Y.data_ptr()), ctypes.c_longlong(X.shape[0]),
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        ]  # fmt: skip
        if tiled is None:
            _check(self._lib.slc_cuda_bitmap_sparse_gemm(*args))
        else:
            _check(self._lib.slc_cuda_gemm_by(int(tiled), *args))


def _check(reason: bytes | None) -> None:
    if reason is not None:
        raise SystemExit(reason.decode())


def make(n: int, k: int, density: float, value_type: Any, seed: int = 0) -> np.ndarray:
    """A blob in tiles."""
    rng = np.random.default_rng(seed)
    S = rng.standard_normal((n, k), np.float32) / np.float32(math.sqrt(k))
    S *= rng.random((n, k), np.float32) < density
    return bitmap.encode(S, value_type, layout="tiles")


def correct(library: Library, few: bool) -> dict[str, Any]:
    """Every regime, value type, type of X, density and ragged shapes, against float64."""
    shapes = [(1, 1), (17, 65), (35, 600), (130, 63)] + ([] if few else [(512, 1000), (1024, 4096)])
    rows = (1, 8, 9, 16, 17, 33, 64, 65, 130) if not few else (1, 9, 65)
    densities = (0.0, 0.05, 0.5, 1.0) if not few else (0.5,)
    cases, worst = 0, 0.0
    for (n, k), density, values in itertools.product(shapes, densities, VALUES):
        packed = make(n, k, density, values, cases)
        blob = library.open(on_device := torch.from_numpy(packed).cuda())
        W = torch.from_numpy(bitmap.decode(packed)).cuda().double()
        bias = torch.randn(n, device="cuda")
        for m, dtype, tiled in itertools.product(
            rows, (torch.float16, torch.float32), (False, True)
        ):
            X = torch.randn(m, k, device="cuda").half().to(dtype)
            Y = torch.full((m, n), math.nan, device="cuda", dtype=dtype)
            library.gemm(blob, X, Y, bias, tiled)
            exact = X.double() @ W.T + bias.double()
            bound = (k + 16) * UNIT * (X.double().abs() @ W.abs().T + bias.double().abs())
            if dtype == torch.float16:
                bound = bound + 2.0**-11 * (exact.abs() + bound) + 2.0**-25
            ratio = ((Y.double() - exact).abs() / bound.clamp_min(1e-30)).nan_to_num(nan=math.inf)
            cases, worst = cases + 1, max(worst, float(ratio.max()))
            if worst > 1:
                raise SystemExit(f"wrong: {values} N {n} K {k} M {m} {dtype} density {density} "
                                 f"tiled {tiled}: {worst:.3g} of the bound")  # fmt: skip
        del on_device
    return {"cases": cases, "worst_of_bound": worst}


def time_all(library: Library) -> dict[str, Any]:
    """Ratios to cuBLAS f16 for every value type at density 0.5 and 0.1, cold, in CUDA graphs."""
    copy = copy_bandwidth()
    results = []
    for density, values in ((0.5, "f16"), (0.1, "f16"), (0.5, "i8"), (0.5, "i4")):
        for n, k in LLAMA_8B:
            for m in ROWS if density == 0.5 else (1,):
                results.append(time_one(library, n, k, m, density, values, copy))
                print(json.dumps(results[-1]), flush=True)
    means = {}
    for key in sorted({(r["values"], r["density"], r["m"]) for r in results}):
        some = [r for r in results if (r["values"], r["density"], r["m"]) == key]
        means[" ".join(map(str, key))] = statistics.geometric_mean(r["ratio"] for r in some)
    return {"copy_gb_per_s": copy, "geometric_means": means, "results": results}


def time_one(
    library: Library, n: int, k: int, m: int, density: float, values: str, copy: float
) -> dict[str, Any]:
    """One shape: our kernel and cuBLAS in turns, each as one graph over many matrices."""
    packed = torch.from_numpy(make(n, k, density, values)).cuda()
    W = torch.randn(n, k, device="cuda", dtype=torch.float16)
    X = torch.randn(m, k, device="cuda", dtype=torch.float16)
    count = max(2, min(64, math.ceil(COLD_BYTES / packed.numel())))
    ours = [packed.clone() for _ in range(count)]
    blobs = [library.open(one) for one in ours]
    theirs = [W.clone() for _ in range(max(2, min(count, math.ceil(COLD_BYTES / (2 * n * k)))))]
    Y, Z = (torch.empty(m, n, device="cuda", dtype=torch.float16) for _ in range(2))
    graphs = [
        _graph(lambda: [library.gemm(blob, X, Y) for blob in blobs]),
        _graph(lambda: [torch.mm(X, one.T, out=Z) for one in theirs]),
    ]
    sizes = (len(blobs), len(theirs))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for i, graph in enumerate(graphs):
            times[i].append(_seconds(graph) / sizes[i])
    mine, cublas = (statistics.median(one) for one in times)
    return {
        "n": n, "k": k, "m": m, "density": density, "values": values, "us": mine * 1e6,
        "cublas_us": cublas * 1e6, "ratio": cublas / mine,
        "ratio_of_fastest": min(times[1]) / min(times[0]),
        "byte_ceiling": 2 * n * k / packed.numel(),
        "share_of_copy": packed.numel() / mine / 1e9 / copy,
    }  # fmt: skip


def _graph(body: Any) -> torch.cuda.CUDAGraph:
    body()  # loads what is loaded lazily
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph


def _seconds(graph: torch.cuda.CUDAGraph) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def copy_bandwidth() -> float:
    """GB/s of a device-to-device copy, reads and writes counted."""
    a = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    b = torch.empty_like(a)
    graph = _graph(lambda: [b.copy_(a) for _ in range(10)])
    return 20 * a.numel() / min(_seconds(graph) for _ in range(5)) / 1e9


def main() -> int:
    """Runs one part and adds it to the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("correct", "time"))
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--few", action="store_true", help="few cases, for a sanitizer")
    given = parser.parse_args()
    library = Library(given.library)
    found = correct(library, given.few) if given.what == "correct" else time_all(library)
    path = given.out / "gpu_check.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    document |= {
        "device": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "images": library.images,
        "torch": torch.__version__,
    }
    if not given.few:
        document[given.what] = found
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k != "results"}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
