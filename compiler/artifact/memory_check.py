"""Measures what a session over an artifact adds to a process, against the manifest's arithmetic."""

from __future__ import annotations

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.report import MemoryCheck


def measure_memory(artifact: Artifact) -> MemoryCheck:
    """Loads and runs the artifact in a process of its own, every mapped weight page touched.

    Raises:
      ArtifactError: the session fails there.
    """
    from slc.compiler.budget.measure import measure_session

    memory, options = artifact.manifest["memory"], artifact.manifest["options"]
    measured = measure_session(
        artifact.path,
        context=options.get("context") or 1,
        batch=options.get("batch") or 1,
    )
    budget = memory["budget_bytes"]
    return MemoryCheck(
        measured_bytes=measured.peak_bytes,
        predicted_bytes=memory["predicted_bytes"],
        budget_bytes=budget,
        added_bytes=measured.added_bytes,
        passed=budget is None or measured.peak_bytes <= budget,
    )
