"""Correctness of libslc_ops_cuda.so on a GPU, against float64, for gpu_check.py."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np
from bench.cuda_driver import Device, DeviceError
from bench.gpu_library import Budget, Library, make, plans_for
from bench.gpu_plans import Plan
from cuda_emulator import Adapter, Adapters, DownArguments, UpArguments
from cuda_interface import Blob, CudaError

from slc.ops import bitmap

VALUES = ("f16", "i8", "i4")
# One product of tensor cores drops what lies below the last bit of its largest term: 2^-23 of it
# for each of 16 terms and the sum so far.
UNIT = 2.0**-22


def correct(
    device: Device, library: Library, few: bool, budget: Budget, found: dict[str, Any]
) -> None:
    """Every kernel and split, value type, type of X, density, ragged shapes: against float64."""
    failures = found["failures"] = adapters_wrong(device, library)
    failures += damage_unseen(device, library)
    found |= {"cases": 0, "failed": len(failures), "worst_of_bound": 0.0}
    shapes = [(1, 1), (17, 65), (35, 600), (130, 63)] + ([] if few else [(512, 1000), (1024, 4096)])
    rows = (1, 9, 65) if few else (1, 8, 9, 16, 17, 33, 64, 65, 130)
    densities = (0.5,) if few else (0.0, 0.05, 0.5, 1.0)
    for i, ((n, k), density, values) in enumerate(itertools.product(shapes, densities, VALUES)):
        if budget.spent():
            continue
        packed = make(n, k, density, values, i)
        on_device = device.put(packed)
        blob = library.open(on_device)
        W = bitmap.decode(packed).astype(np.float64)
        rng = np.random.default_rng(i)
        X = rng.standard_normal((max(rows), k)).astype(np.float16)
        bias = rng.standard_normal(n).astype(np.float32)
        exact = X.astype(np.float64) @ W.T + bias
        bound = (k + 16) * UNIT * (np.abs(X.astype(np.float64)) @ np.abs(W.T) + np.abs(bias))
        for m, dtype in itertools.product(rows, (np.float16, np.float32)):
            for plan in plans_for(device, m, values, few):
                case = f"{values} N {n} K {k} M {m} {np.dtype(dtype).name} density {density} {plan}"
                try:
                    given = X[:m].astype(dtype)
                    ratio = _ratio(device, library, blob, given, bias, plan, exact[:m], bound[:m])
                except DeviceError as reason:  # nothing runs in this context any more
                    raise DeviceError(f"{case}: {reason}") from None
                if ratio is None:
                    continue  # more shared memory than this GPU has
                found["cases"] += 1
                found["worst_of_bound"] = max(found["worst_of_bound"], ratio)
                if ratio > 1:
                    found["failed"] += 1
                    failures += [f"{case}: {ratio:.3g} of the bound"] * (len(failures) < 40)


def _ratio(
    device: Device, library: Library, blob: Blob, X: np.ndarray, bias: np.ndarray, plan: Plan,
    exact: np.ndarray, bound: np.ndarray,
) -> float | None:  # fmt: skip
    """The largest error as a share of the bound; None for a plan that this GPU has no room for."""
    y = device.put(np.full(exact.shape, np.nan, X.dtype))
    x, b = device.put(X), device.put(bias)
    try:
        library.gemm(blob, x, y, len(X), is_float=X.dtype == np.float32, bias=b, plan=plan)
    except CudaError as reason:
        if str(reason).startswith("plan: got"):
            return None
        raise
    return _share(device.get(y, exact.shape, X.dtype), exact, bound)


def _share(got: np.ndarray, exact: np.ndarray, bound: np.ndarray) -> float:
    if got.dtype == np.float16:
        bound = bound + 2.0**-11 * (np.abs(exact) + bound) + 2.0**-25
    ratio = np.abs(got.astype(np.float64) - exact) / np.maximum(bound, 1e-30)
    return float(np.nan_to_num(ratio, nan=np.inf).max())


def adapters_wrong(device: Device, library: Library) -> list[str]:
    """Down and Up of three adapters, in every type, against float64."""
    wrong = []
    rng = np.random.default_rng(0)
    for (n, k, m), dtype in itertools.product([(70, 130, 3), (256, 512, 9)], ("f2", "f4")):
        ranks, types = (8, 5, 16), (np.float32, np.float16, np.int8)
        X, Y0 = (rng.standard_normal((m, width)).astype(dtype) for width in (k, n))
        for op in ("down", "up"):
            sides = [(r, k) if op == "down" else (n, r) for r in ranks]
            made = [_adapter(rng, side, t) for side, t in zip(sides, types, strict=True)]
            whole = np.concatenate([M.astype(np.float64) * s[:, None] for M, s in made],
                                   axis=0 if op == "down" else 1)  # fmt: skip
            given = X if op == "down" else rng.standard_normal((m, sum(ranks))).astype(dtype)
            got, exact, bound = _adapter_op(device, library, op, given, Y0, made, ranks, whole)
            share = _share(got, exact, bound)
            if share > 1:
                wrong.append(f"{op} N {n} K {k} M {m} {dtype}: {share:.3g} of the bound")
    return wrong


def _adapter(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Any:
    """A matrix, and what each of its rows is times."""
    if dtype is np.int8:
        scale = rng.uniform(0.5, 2, shape[0]).astype(np.float32)
        return rng.integers(-127, 128, shape).astype(np.int8), scale
    return rng.standard_normal(shape).astype(dtype), np.ones(shape[0], np.float32)


def _adapter_op(
    device: Device, library: Library, op: str, given: np.ndarray, Y0: np.ndarray, made: list[Any],
    ranks: tuple[int, ...], whole: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """(what the device gives, exactly, the bound) of Down(given) or Up(Y0, given)."""
    kept = [(device.put(M), device.put(scale)) for M, scale in made]
    adapters, begin = Adapters(), 0
    for i, ((matrix, scale), (M, _), rank) in enumerate(zip(kept, made, ranks, strict=True)):
        code = {"f": 0, "e": 1, "b": 2}[M.dtype.char]
        adapters[i] = Adapter(matrix.address, scale.address if code == 2 else None, rank, begin,
                              code, 0)  # fmt: skip
        begin += rank
    x, m = device.put(given), len(given)
    is_float = int(given.dtype == np.float32)
    wide, absolute = given.astype(np.float64), np.abs(given.astype(np.float64))
    if op == "down":
        y = device.put(np.full((m, begin), np.nan, given.dtype))
        arguments: Any = DownArguments(x.address, None, y.address, m, given.shape[1], begin, begin,
                                       adapters, len(made), 0)  # fmt: skip
        exact, bound, shape = wide @ whole.T, absolute @ np.abs(whole.T), (m, begin)
    else:
        y, shape = device.put(Y0), Y0.shape
        arguments = UpArguments(y.address, x.address, y.address, m, Y0.shape[1], begin, adapters,
                                len(made), 0)  # fmt: skip
        exact = Y0.astype(np.float64) + wide @ whole.T
        bound = np.abs(Y0.astype(np.float64)) + absolute @ np.abs(whole.T)
    library.call(f"adapter_{op}", ctypes.byref(arguments), is_float, device.stream)
    terms = whole.shape[1] + 16
    return device.get(y, shape, given.dtype), exact, terms * UNIT * bound


def damage_unseen(device: Device, library: Library) -> list[str]:
    """Blobs with a bit of starts or masks turned, that the device's check lets pass."""
    blob = make(37, 200, 0.4, "i8")
    at = bitmap.read_header(blob).sections
    unseen = []
    for byte in (at.starts, at.starts + 5, at.where, at.where + 100):
        damaged = blob.copy()
        damaged[byte] ^= 4
        try:
            library.open(device.put(damaged))
            unseen.append(f"a blob with byte {byte} damaged is taken")
        except CudaError:
            pass
    return unseen
