"""Correctness and speed of libslc_ops_cuda.so on a GPU; gpu_check.sh builds it and calls this.

    python tests/bench/gpu_check.py correct|time|tune|ort|note|table --library PATH --out FOLDER
        [--few] [--dry] [--seconds S]

Wants numpy, a driver and, for comparisons, cuBLAS. Results are added to FOLDER/gpu_check.json, with
the device and the date; `table` writes them as FOLDER/gpu_check.md. A part that has used up its
seconds stops between two cases and says how many it left out.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
import math
import signal
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from bench import cuda_driver, gpu_plans
from bench.cuda_driver import Buffer, Cublas, Device, DeviceError
from bench.gpu_adapters import time_adapters
from bench.gpu_correct import correct
from bench.gpu_library import Budget, Library, gpu_of, make, plans_for
from bench.gpu_plans import Plan
from bench.gpu_report import means, table, tuned_row
from cuda_interface import Blob, CudaError

from slc.ops import bitmap

KINDS = ((0.5, "f16"), (0.1, "f16"), (0.5, "i8"), (0.5, "i4"))


class Sizes(NamedTuple):
    """What is timed."""

    shapes: tuple[tuple[int, int], ...]  # N, K
    rows: tuple[int, ...]
    tune_rows: tuple[int, ...]
    cold_bytes: float  # of weights that are read one after another
    rounds: int
    copy_bytes: int
    adapters: tuple[int, int, int]  # N, K, calls in a graph


# Llama-3-8B: q and o, k and v, gate and up, down. Cold weights are several times any L2.
FULL = Sizes(
    shapes=((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336)),
    rows=(1, 2, 4, 8, 16, 32, 64, 128, 512, 2048),
    tune_rows=(1, 8, 16, 32, 64, 128, 256, 512, 2048),
    cold_bytes=300e6,
    rounds=15,
    copy_bytes=1 << 30,
    adapters=(4096, 4096, 20),
)
# For an emulated driver: every line of this file, figures of no meaning.
DRY = Sizes(((48, 128),), (1, 70), (1, 70), 0, 2, 1 << 16, (32, 64, 1))


def time_all(
    device: Device, library: Library, sizes: Sizes, budget: Budget, found: dict[str, Any]
) -> None:
    """Ratios to cuBLAS f16 for every value type at density 0.5 and 0.1, cold, in CUDA graphs."""
    try:
        cublas: Cublas | None = Cublas(device)
        found["cublas"] = f"{cublas.path}, version {cublas.version}"
    except DeviceError as reason:
        cublas, found["cublas"] = None, f"no ratios: {reason}"
        print(found["cublas"], flush=True)
    found["copy_gb_per_s"] = copy = copy_bandwidth(device, sizes.copy_bytes)
    results = found["results"] = []
    found["adapters"] = time_adapters(device, library, *sizes.adapters, sizes.rounds)
    for (density, values), (n, k) in itertools.product(KINDS, sizes.shapes):
        for m in sizes.rows if density == 0.5 else (1,):
            if not budget.spent():
                results.append(
                    time_one(device, library, cublas, sizes, n, k, m, density, values, copy)
                )
                print(json.dumps(results[-1]), flush=True)
    found["geometric_means"] = means(results)


def time_one(
    device: Device, library: Library, cublas: Cublas | None, sizes: Sizes, n: int, k: int, m: int,
    density: float, values: str, copy: float,
) -> dict[str, Any]:  # fmt: skip
    """One shape: our kernel and cuBLAS in turns, each as one graph over many matrices."""
    packed = make(n, k, density, values)
    rng = np.random.default_rng(1)
    x = device.put(rng.standard_normal((m, k)).astype(np.float16))
    y, z = (Buffer(device, 2 * m * n) for _ in range(2))
    ours, blobs = _cold_blobs(device, library, packed, sizes.cold_bytes)
    graphs = [device.graph(functools.partial(_each, library, blobs, x, y, m))]
    counts = [len(blobs)]
    if cublas is not None:
        dense = cublas
        first = device.put(rng.standard_normal((n, k), np.float32).astype(np.float16))
        theirs = _copies(device, first, sizes.cold_bytes)
        graphs.append(device.graph(lambda: [dense.matmul(x, W, z, m, n, k) for W in theirs]))
        counts.append(len(theirs))
    times: list[list[float]] = [[] for _ in graphs]
    for _ in range(sizes.rounds):
        for i, graph in enumerate(graphs):
            times[i].append(graph.seconds() / counts[i])
    mine = statistics.median(times[0])
    found = {
        "n": n, "k": k, "m": m, "density": density, "values": values, "us": mine * 1e6,
        "plan": library.plan(blobs[0], m), "byte_ceiling": 2 * n * k / packed.nbytes,
        "share_of_copy": packed.nbytes / mine / 1e9 / copy,
    }  # fmt: skip
    if cublas is not None:
        found |= {
            "cublas_us": statistics.median(times[1]) * 1e6,
            "ratio": statistics.median(times[1]) / mine,
            "ratio_of_fastest": min(times[1]) / min(times[0]),
        }
    del ours
    return found


def _copies(device: Device, first: Buffer, cold_bytes: float) -> list[Buffer]:
    """Enough of them that each is cold when its turn comes."""
    count = max(2, min(64, math.ceil(cold_bytes / first.nbytes)))
    made = [first] + [Buffer(device, first.nbytes) for _ in range(count - 1)]
    for one in made[1:]:
        device.copy(one, first)
    return made


def _cold_blobs(
    device: Device, library: Library, packed: np.ndarray, cold_bytes: float
) -> tuple[list[Buffer], list[Blob]]:
    held = _copies(device, device.put(packed), cold_bytes)
    device.call("cuStreamSynchronize", device.stream)
    return held, [library.open(one) for one in held]


def copy_bandwidth(device: Device, nbytes: int) -> float:
    """GB/s of a device-to-device copy, reads and writes counted."""
    a, b = Buffer(device, nbytes), Buffer(device, nbytes)
    graph = device.graph(lambda: [device.copy(b, a) for _ in range(10)])
    return 20 * nbytes / min(graph.seconds() for _ in range(5)) / 1e9


def tune(
    device: Device, library: Library, sizes: Sizes, budget: Budget, found: dict[str, Any]
) -> None:
    """Every kernel and split, and the line of gpu_table.h that would choose best of them."""
    gpu = gpu_of(device)
    timed = found["timed"] = []
    for values, (n, k) in itertools.product(("f16", "i4"), sizes.shapes):
        held, blobs = _cold_blobs(device, library, make(n, k, 0.5, values), sizes.cold_bytes)
        for m in sizes.tune_rows:
            x = device.put(np.random.default_rng(m).standard_normal((m, k)).astype(np.float16))
            y = Buffer(device, 2 * m * n)
            for plan in plans_for(device, m, values):
                if budget.spent():
                    continue
                try:
                    graph = device.graph(functools.partial(_each, library, blobs, x, y, m, plan))
                except CudaError:
                    continue  # no room for it here
                us = statistics.median(graph.seconds() for _ in range(5)) / len(blobs) * 1e6
                timed.append({"n": n, "k": k, "m": m, "values": values, "plan": plan, "us": us})
        del held
    found |= tuned_row(gpu_plans.row_for(gpu.sm), gpu.sms, timed)


def _each(
    library: Library, blobs: list[Blob], x: Buffer, y: Buffer, m: int, plan: Plan | None = None
) -> None:
    for blob in blobs:
        library.gemm(blob, x, y, m, plan=plan)


def ort(library: Path) -> str:
    """Whether onnxruntime's CUDA provider here takes our operators; one sentence."""
    try:
        import onnxruntime
        from ops_models import sparse, sparse_model
    except ImportError as reason:
        return f"not here: {reason}"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"open: onnxruntime {onnxruntime.__version__} here has no CUDA provider"
    blob = bitmap.encode(sparse(70, 256, 0.5), layout="tiles")
    X = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float16)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library.resolve().parent / "libslc_ops.so"))
    try:
        session = onnxruntime.InferenceSession(
            sparse_model(blob, 70, 256, dtype="float16").SerializeToString(), options,
            providers=["CUDAExecutionProvider"],
        )  # fmt: skip
        Y = session.run(None, {"x": X})[0]
    except Exception as reason:  # its errors are of many classes
        return f"NO: onnxruntime {onnxruntime.__version__}: {reason}"
    exact = X.astype(np.float64) @ bitmap.decode(blob).astype(np.float64).T
    wrong = float(np.abs(Y - exact).max() / np.abs(exact).max())
    verdict = "yes" if wrong < 2e-3 else "NO, wrong results"
    return f"{verdict}: onnxruntime {onnxruntime.__version__}, off by {wrong:.1e} of the largest"


def _out_of_time(*_: Any) -> None:
    raise DeviceError("stopped from outside, which allows a part only so long")


def main() -> int:
    """Runs one part and adds it to the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("correct", "time", "tune", "ort", "note", "table"))
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--few", action="store_true", help="few cases, for a sanitizer")
    parser.add_argument("--note", metavar="KEY=TEXT", help="what `note` adds to the file")
    parser.add_argument("--dry", action="store_true", help="tiny cases, for an emulated driver")
    parser.add_argument("--seconds", type=float, default=120, help="after which to stop")
    given = parser.parse_args()
    path = given.out / "gpu_check.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    if given.what == "table":
        text = table(document)
        (given.out / "gpu_check.md").write_text(text)
        print(text)
        return 0
    sizes = DRY if given.dry else FULL
    if given.what == "note":
        key, _, text = given.note.partition("=")
        document[key] = text
        path.write_text(json.dumps(document, indent=1) + "\n")
        return 0
    if given.what == "ort":
        document["ort"] = ort(given.library)
        path.write_text(json.dumps(document, indent=1) + "\n")
        print(f"onnxruntime: {document['ort']}")
        return int(document["ort"].startswith("NO"))
    try:
        device = Device()
        library = Library(given.library, device)
    except (DeviceError, CudaError) as reason:
        print(f"gpu_check {given.what}: {reason}", file=sys.stderr)
        return 2
    document |= {
        "device": device.name,
        "sms": device.attribute(cuda_driver.SMS),
        "l2_bytes": device.attribute(cuda_driver.L2_BYTES),
        "shared_bytes_of_sm": device.attribute(cuda_driver.SHARED_OF_SM),
        "driver": device.driver,
        "date": datetime.date.today().isoformat(),
        "images": library.images,
    }
    signal.signal(signal.SIGTERM, _out_of_time)
    budget = Budget(given.seconds)
    found: dict[str, Any] = {}
    try:
        if given.what == "correct":
            correct(device, library, given.few, budget, found)
        else:
            {"time": time_all, "tune": tune}[given.what](device, library, sizes, budget, found)
    except (DeviceError, CudaError) as reason:
        found["stopped"] = str(reason)  # what came before it is kept
    found["left_out"] = budget.left_out
    if not given.few:
        document[given.what] = found
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k not in ("results", "timed")}, indent=1))
    return int(bool(found.get("failures")) or "stopped" in found)


if __name__ == "__main__":
    sys.exit(main())
