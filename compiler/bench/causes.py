"""Why a head may be slower than its base: what differs between the two, the likeliest first."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from slc.compiler.artifact.manifest import Json
from slc.compiler.bench.gate_counts import Finding

_ORDER = ("dense", "undeclared", "ops", "read", "initializers", "memory", "files")
_NAMES_SHOWN = 3
CAUSES_MOST = 4


def likely_causes(base: Json, head: Json, findings: Sequence[Finding]) -> list[str]:
    """One phrase each; says so if nothing differs.

    Args:
      base: its manifest.
      head: its manifest.
      findings: of gate A, allowed ones included.
    """
    ranked = sorted(findings, key=lambda f: _ORDER.index(f.rule.partition(".")[0]))
    causes = [*_stored_differently(base, head), *(finding.what for finding in ranked)]
    if base["op_library"]["sha256"] != head["op_library"]["sha256"]:
        causes.append("the op libraries differ: another version of the kernels")
    return causes[:CAUSES_MOST] or [
        "nothing that is counted grew and all Linears are stored alike: look at the order of the "
        "nodes and at how the data lie in the file"
    ]


def _stored_differently(base: Json, head: Json) -> list[str]:
    """Linears grouped by what they were and what they are, the most Linears first."""
    was = {entry["name"]: entry["choice"] for entry in base["linears"]}
    changes: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for entry in head["linears"]:
        before = was.get(entry["name"])
        if before is None:
            changes["nothing", _stored(entry["choice"])].append(entry["name"])
        elif _stored(before) != _stored(entry["choice"]):
            changes[_stored(before), _stored(entry["choice"])].append(entry["name"])
    return [
        f"{len(names)} Linears went from {old} to {new}: {_listed(names)}"
        for (old, new), names in sorted(changes.items(), key=lambda item: -len(item[1]))
    ]


def _stored(choice: Any) -> str:
    """How a Linear is stored, as far as it decides about speed."""
    text = f"{choice['encoding']} {choice['value_type']}"
    if choice["encoding"] in ("bitmap", "delta"):
        text += f" of density {choice['density']:.3g}"
    if choice["rank"]:
        text += f" with rank {choice['rank']}"
    return f"{text} at level {choice.get('accuracy_level', 1)}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
