"""Gate C: an absolute limit, for a runner that is the device it is meant for.

Milliseconds of another machine, or of one that is held back, say nothing about the artifact: then
the gate gives reasons instead of a judgement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from slc.compiler.bench.environment import Environment


@dataclasses.dataclass(frozen=True)
class LimitCheck:
    """What gate C says.

    Attributes:
      quantity: what was timed.
      p90_ms: measured.
      max_p90_ms: the limit.
      refusals: why there is no judgement; none: there is one.
    """

    quantity: str
    p90_ms: float
    max_p90_ms: float
    refusals: tuple[str, ...]

    @property
    def passed(self) -> bool | None:
        """None: not judged."""
        return None if self.refusals else self.p90_ms <= self.max_p90_ms

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        document = dataclasses.asdict(self)
        return {**document, "refusals": list(self.refusals), "passed": self.passed}


def reasons_against(
    machine: Environment,
    device: Mapping[str, Any],
    expected: str | None,
    throttled: Sequence[str],
) -> tuple[str, ...]:
    """Why this machine can't judge; empty if it can.

    Args:
      machine: this one.
      device: the profile in the artifact's manifest.
      expected: a fingerprint, where the user named one: it replaces the comparison with `device`.
      throttled: what held the processor back before, during or after the measurement.
    """
    reasons = [f"the processor is held back: {what}" for what in throttled]
    if expected is not None:
        if expected != machine.fingerprint:
            reasons.append(
                f"this machine's fingerprint is {machine.fingerprint} instead of {expected}"
            )
        return tuple(reasons)
    if device.get("arch", machine.arch) != machine.arch:
        reasons.append(f"the artifact is for {device['arch']} and this is {machine.arch}")
    elif missing := sorted(set(device.get("isa", ())) - set(machine.isa_flags)):
        reasons.append(f"the artifact's device has {', '.join(missing)}, this processor has not")
    if device.get("cores", machine.cores) != machine.cores:
        reasons.append(
            f"{device.get('name')} has {device['cores']} cores, this process may use "
            f"{machine.cores}"
        )
    return tuple(reasons)
