"""What a figure depends on: the processor, its cache and memory, threads, versions, the commit."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import onnxruntime as ort
import psutil

L3_BYTES_UNKNOWN = 32 << 20
FLAGS = (
    "avx2", "fma", "f16c", "bmi2", "avx_vnni", "avx512f", "avx512bw", "avx512_vbmi2",
    "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve",
)  # fmt: skip


def l3_bytes() -> int:
    """Size of the last cache; where Linux does not tell, a usual one."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text()
    except OSError:
        return L3_BYTES_UNKNOWN
    number, unit = re.fullmatch(r"(\d+)([KM]?)", text.strip()).groups()
    return int(number) << {"": 0, "K": 10, "M": 20}[unit]


def copies_of(weight_bytes: int, copies_max: int, sharers: int = 32) -> int:
    """How many copies of a weight are twice the last cache: what is then read comes from memory.

    Args:
      weight_bytes: of one copy.
      copies_max: the limit for small weights, whose many neighbours make them cold anyway.
      sharers: how many candidates share half of the memory that is free.
    """
    affordable = psutil.virtual_memory().available // (2 * sharers * weight_bytes)
    return max(1, min(copies_max, -(-2 * l3_bytes() // weight_bytes), affordable))


def describe(**settings: Any) -> dict[str, Any]:
    """The machine and the settings, for the head of a JSON document."""
    cpu = _cpuinfo()
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "cpu_family_model": [cpu.get("cpu family", ""), cpu.get("model", "")],
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "l3_bytes": l3_bytes(),
        "memory_bytes": psutil.virtual_memory().total,
        "slc_isa": os.environ.get("SLC_ISA"),  # onnxruntime's own kernels do not heed it
        "onnxruntime": ort.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "git": _git_commit(),
        **settings,
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _git_commit() -> str | None:
    """The commit, with -dirty behind it when the tree has changes."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or None
