"""The machine that slc runs on, as a profile."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import cast

from slc.targets.target import ORT_OLDEST, Arch, Target, TargetError

# Linux's names of CPU features, in ours.
_X86_FLAGS = {
    name: name
    for name in (
        "sse4_2", "avx", "avx2", "fma", "f16c", "bmi2", "avx_vnni", "avx512f", "avx512bw",
        "avx512vl", "amx_int8", "avx512_vnni",
    )
} | {"avx512_vbmi2": "avx512vbmi2"}  # fmt: skip
_ARM_FLAGS = {
    "asimd": "neon",
    "atomics": "lse",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}

# One channel of DDR4-2400: a machine with less is rare, and the figure only ranks choices.
_BANDWIDTH_ASSUMED = (19_200_000_000, "assumed: DDR4-2400, one channel")


def detect_host(*, measure: bool = False) -> Target:
    """The profile of this machine: what /proc and the installed packages say.

    Args:
      measure: also measure the memory bandwidth, which takes about a second.

    Raises:
      TargetError: the machine is neither x86-64 nor AArch64, or has no Linux.
    """
    arch = _arch()
    memory_bytes, memory_source = detect_memory()
    cores, cpuinfo = usable_cores(), Path("/proc/cpuinfo").read_text(errors="replace")
    ort, genai = installed_version("onnxruntime"), installed_version("onnxruntime-genai")
    bandwidth, bandwidth_source = _bandwidth(cores) if measure else _BANDWIDTH_ASSUMED
    return Target(
        name="host",
        arch=arch,
        memory_bytes=memory_bytes,
        # What a small Linux system and the process's own interpreter take.
        reserve_bytes=min(1_000_000_000, memory_bytes // 4),
        bandwidth_bytes_per_s=bandwidth,
        cores=cores,
        isa=detect_isa(arch, cpuinfo),
        ort_min=ort or ORT_OLDEST,
        ort_max=ort,
        genai_min=genai,
        glibc_min=platform.libc_ver()[1] or "2.28",
        verified=True,
        description=f"{_model(cpuinfo) or platform.machine()}, {cores} cores",
        sources={
            "memory_bytes": memory_source,
            "bandwidth_bytes_per_s": bandwidth_source,
            **_runtime_sources(ort, genai),
            "reserve_bytes": "an allowance: 1 GB, or a quarter of a smaller memory",
            "cores": "CPU affinity and cgroup quota of this process",
            "isa": "/proc/cpuinfo",
            "glibc_min": "the C library of this process",
        },
    )


def _bandwidth(cores: int) -> tuple[int, str]:
    """(bytes a second, how that was found)."""
    source = f"measured: {cores} threads read memory, the best of a few passes"
    return measure_bandwidth(), source


def _runtime_sources(ort: str | None, genai: str | None) -> dict[str, str]:
    """Where ort_min, ort_max and genai_min are from, of those that there are."""
    if ort is None:
        sources = {"ort_min": "the oldest that slc supports"}
    else:
        sources = dict.fromkeys(("ort_min", "ort_max"), "the installed onnxruntime")
    return sources | ({"genai_min": "the installed onnxruntime-genai"} if genai else {})


def _model(cpuinfo: str) -> str:
    """The processor's name in /proc/cpuinfo; "" where it has none, as on most Arm boards."""
    match = re.search(r"^(?:model name|Model)\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else ""


def _arch() -> Arch:
    if platform.system() != "Linux":
        raise TargetError(
            f"this machine runs {platform.system()}, and a profile is made of Linux only: use "
            "--device NAME"
        )
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    if machine not in ("x86_64", "aarch64"):
        raise TargetError(f"this machine is {machine!r}; slc knows x86_64 and aarch64")
    return cast(Arch, machine)


def detect_isa(arch: str, cpuinfo: str) -> tuple[str, ...]:
    """The extensions that every core in `cpuinfo` (the text of /proc/cpuinfo) has."""
    key, known = ("flags", _X86_FLAGS) if arch == "x86_64" else ("Features", _ARM_FLAGS)
    common: set[str] | None = None
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            common = set(value.split()) if common is None else common & set(value.split())
    return tuple(ours for theirs, ours in known.items() if theirs in (common or ()))


def usable_cores() -> int:
    """How many cores this process may use: affinity, and a cgroup's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            return max(1, min(cores or 1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass  # no cgroup v2 here
    return max(1, cores or 1)


def detect_memory() -> tuple[int, str]:
    """(bytes, where that was read): MemTotal, or this process's cgroup limit where lower."""
    fields = Path("/proc/meminfo").read_text().split("MemTotal:", 1)[1].split()
    total, source = int(fields[0]) * 1024, "MemTotal of /proc/meminfo"
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            value = Path(limit).read_text().strip()
        except OSError:
            continue  # another cgroup version, or none
        if value.isdigit() and 0 < int(value) < total:
            total, source = int(value), limit
    return total, source


def installed_version(distribution: str) -> str | None:
    """The version of an installed package as "1.23.2", without importing it; None if absent."""
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
    numbers = []
    for part in version.split(".")[:3]:
        if not part.isdigit():  # "1.24.0.dev20261101", "1.23.0rc1", "0.18.0+cu126"
            digits = part[: len(part) - len(part.lstrip("0123456789"))]
            numbers += [digits] if digits else []
            break
        numbers.append(part)
    return ".".join(numbers) if len(numbers) >= 2 else None


def measure_bandwidth(seconds: float = 0.3) -> int:
    """Bytes a second that all usable cores read from memory together, best of a few passes.

    Each thread sums its own share of a buffer that is at least four times the last-level cache,
    so that nothing is read twice from it. numpy releases the interpreter lock while it sums.
    """
    import numpy as np

    threads = usable_cores()
    share = max(4 * last_level_cache_bytes(), 64 << 20) // threads // 8
    buffers = [np.ones(share, dtype=np.uint64) for _ in range(threads)]
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until or best == 0.0:
        workers = [threading.Thread(target=np.bitwise_or.reduce, args=(b,)) for b in buffers]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, share * 8 * threads / (time.perf_counter() - start))
    return int(best)


def last_level_cache_bytes() -> int:
    """Size of the last cache of the first core; 0 where Linux does not tell."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM") or 0) * unit)
    return max(sizes)
