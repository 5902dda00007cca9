"""The machine that a figure was measured on: what must be the same for two figures to compare.

Throttling is read where Linux shows it: the firmware's flags on a Raspberry Pi, the over-current
counters of a Jetson's soctherm, Intel's counters of thermal throttling, and on any machine the
cooling devices that limit the processor's clock.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

from slc.compiler import __version__
from slc.targets.detect import detect_host, installed_version
from slc.targets.kernel_figures import isa_class

_ISA_ORDER = {
    "x86_64": ("generic", "avx2", "avx512"),
    "aarch64": ("generic", "neon", "dotprod"),
}
# Bits of get_throttled: now, and since boot.
_PI_FLAGS = {
    0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit",
}  # fmt: skip
_PI_FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"
_COUNTERS = (
    "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count",
    "sys/class/hwmon/hwmon*/oc*_event_cnt",
)


@dataclasses.dataclass(frozen=True)
class Environment:
    """What figures depend on.

    Attributes:
      cpu: its name and cores.
      arch: "x86_64" or "aarch64".
      cores: that this process may use.
      isa: the kernels that the op library chooses here: "avx2", "neon", …
      isa_flags: what the processor has.
      memory_bytes: of the machine, or of this process's cgroup.
      governor: of the first core's clock; None where there is none, as on virtual machines.
      threads: of the session.
      onnxruntime: its version.
      genai: of onnxruntime-genai; None where it is not installed.
      slc: its version.
      python: its version.
      throttling: flags that are set now, one phrase each.
    """

    cpu: str
    arch: str
    cores: int
    isa: str
    isa_flags: tuple[str, ...]
    memory_bytes: int
    governor: str | None
    threads: int
    onnxruntime: str | None
    genai: str | None
    slc: str
    python: str
    throttling: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits: equal where figures of the same artifact may be compared."""
        same = dataclasses.asdict(self)
        # A figure does not move with these, or moves for reasons that a gate is there to find.
        for field in ("slc", "python", "throttling", "memory_bytes"):
            del same[field]
        text = json.dumps(same, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """The fields, and the fingerprint."""
        return {
            **dataclasses.asdict(self),
            "isa_flags": list(self.isa_flags),
            "throttling": list(self.throttling),
            "fingerprint": self.fingerprint,
        }


def environment(threads: int, root: Path = Path("/")) -> Environment:
    """This machine as it is now.

    Args:
      threads: of the session.
      root: where sys/ lies.
    """
    host = detect_host()
    governor = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return Environment(
        cpu=host.description,
        arch=host.arch,
        cores=host.cores,
        isa=chosen_isa(host.arch, isa_class(host), os.environ.get("SLC_ISA")),
        isa_flags=host.isa,
        memory_bytes=host.memory_bytes,
        governor=governor,
        threads=threads,
        onnxruntime=installed_version("onnxruntime"),
        genai=installed_version("onnxruntime-genai"),
        slc=__version__,
        python=platform.python_version(),
        throttling=throttling_now(root),
    )


def chosen_isa(arch: str, detected: str, asked: str | None) -> str:
    """What the op library uses: the best that there is, or SLC_ISA where that is less."""
    order = _ISA_ORDER[arch]
    if asked not in order:
        return detected
    return min(detected, asked, key=order.index)


def throttling_now(root: Path = Path("/")) -> tuple[str, ...]:
    """What holds the processor back at this moment, one phrase each."""
    found = []
    flags = _read(root / _PI_FILE)
    if flags is not None:
        bits = int(flags, 16)
        found += [f"Raspberry Pi: {name}" for bit, name in _PI_FLAGS.items() if bits >> bit & 1]
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind, state = _read(device / "type") or "", _read(device / "cur_state") or "0"
        if ("cpufreq" in kind or kind == "Processor") and state.isdigit() and int(state) > 0:
            found.append(f"{device.name}: {kind} limited to step {state}")
    return tuple(found)


def throttle_counts(root: Path = Path("/")) -> dict[str, int]:
    """Counters of events that slowed the processor, by file: read before and after a measure."""
    counts = {}
    for pattern in _COUNTERS:
        for path in sorted(root.glob(pattern)):
            text = _read(path)
            if text is not None and text.isdigit():
                counts[path.relative_to(root).as_posix()] = int(text)
    return counts


def throttled_between(before: dict[str, int], after: dict[str, int]) -> tuple[str, ...]:
    """Counters that grew, one phrase each."""
    return tuple(
        f"{name} grew by {after[name] - count}"
        for name, count in before.items()
        if after.get(name, count) > count
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
