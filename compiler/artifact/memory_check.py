"""Measures what a session over an artifact adds to a process, against the manifest's arithmetic."""

from __future__ import annotations

import statistics

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.report import MemoryCheck


def measure_memory(artifact: Artifact) -> MemoryCheck:
    """Loads and runs the artifact in a process of its own, every mapped weight page touched.

    One measurement above the budget is not believed at once: beside heavy neighbours a reading was
    seen 5 MB above its usual self. Two more are made then, and the median of the three counts.

    Raises:
      ArtifactError: the session fails there.
    """
    from slc.compiler.budget.measure import measure_session

    memory, options = artifact.manifest["memory"], artifact.manifest["options"]

    def measure() -> int:
        return measure_session(
            artifact.path,
            context=options.get("context") or 1,
            batch=options.get("batch") or 1,
        ).peak_bytes

    budget = memory["budget_bytes"]
    measured = measure()
    if budget is not None and measured > budget:
        measured = statistics.median_high([measured, measure(), measure()])
    return MemoryCheck(
        measured_bytes=measured,
        predicted_bytes=memory["predicted_bytes"],
        budget_bytes=budget,
        passed=budget is None or measured <= budget,
    )
