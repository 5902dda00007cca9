"""What many adapters cost beside one of their rank, for gpu_check.py."""

from __future__ import annotations

import ctypes
import functools
import statistics
from typing import Any

import numpy as np
from bench.cuda_driver import Device
from bench.gpu_library import Library
from cuda_emulator import Adapter, Adapters, DownArguments, UpArguments

RANK = 64
SPLITS = (1, 2, 4, 8)
ROWS = (1, 16, 512)
F16 = 1


def time_adapters(
    device: Device, library: Library, n: int, k: int, calls: int, rounds: int
) -> list[dict[str, Any]]:
    """µs of Down and Up together for rank 64 in f16, cut into more and more adapters; warm L2.

    A graph holds `calls` of both and runs `rounds` times.
    """
    rng = np.random.default_rng(0)
    a, b = (device.put(rng.standard_normal((RANK, width)).astype(np.float16)) for width in (k, n))
    found = []
    for m in ROWS if calls > 1 else ROWS[:2]:
        x, h, y = (
            device.put(rng.standard_normal((m, width)).astype(np.float16)) for width in (k, RANK, n)
        )
        for count in SPLITS:
            rank = RANK // count
            downs, ups = Adapters(), Adapters()
            for i in range(count):
                downs[i] = Adapter(a.address + 2 * i * rank * k, None, rank, i * rank, F16, 0)
                ups[i] = Adapter(b.address + 2 * i * rank * n, None, rank, i * rank, F16, 0)
            down = DownArguments(x.address, None, h.address, m, k, RANK, RANK, downs, count, 0)
            up = UpArguments(y.address, h.address, y.address, m, n, RANK, ups, count, 0)
            graph = device.graph(functools.partial(_call, device, library, down, up, calls))
            us = statistics.median(graph.seconds() for _ in range(rounds)) / calls * 1e6
            found.append({"m": m, "adapters": count, "rank": rank, "us": us})
    return found


def _call(
    device: Device, library: Library, down: DownArguments, up: UpArguments, calls: int
) -> None:
    for _ in range(calls):
        library.call("adapter_down", ctypes.byref(down), 0, device.stream)
        library.call("adapter_up", ctypes.byref(up), 0, device.stream)
