"""Runs graphs on probes and says how far apart what they give is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slc.compiler.artifact import sessions
from slc.compiler.artifact.probes import Probe
from slc.compiler.artifact.report import Distance
from slc.compiler.errors import ArtifactError


def run_probe(session: Any, probe: Probe) -> sessions.Outputs:
    """Every output of the session's graph on a probe.

    Raises:
      ArtifactError: the probe's inputs are not the graph's, or it can't be run on them.
    """
    names = {value.name for value in session.get_inputs()}
    missing, foreign = sorted(names - set(probe.feeds)), sorted(set(probe.feeds) - names)
    overridable = {value.name for value in session.get_overridable_initializers()}
    if missing or set(foreign) - overridable:
        raise ArtifactError(
            f"The graph takes the inputs {sorted(names)} and was given {sorted(probe.feeds)}; "
            "give exactly those."
        )
    try:
        return sessions.run(session, probe.feeds)
    except Exception as error:  # onnxruntime's own classes derive from Exception directly
        raise ArtifactError(
            f"onnxruntime can't run the graph on {probe.name}: {error}; "
            "give inputs of your own if the model wants other ones."
        ) from error


def distances(
    against: str, probes: Sequence[Probe], ours: Sequence[sessions.Outputs], session: Any
) -> list[Distance]:
    """How far a session's outputs are from `ours`, of every name and shape that both have."""
    found = []
    for probe, outputs in zip(probes, ours, strict=True):
        other = run_probe(session, probe)
        found += [
            distance(against, name, probe.name, outputs[name], other[name])
            for name in outputs
            if name in other and outputs[name].shape == other[name].shape and outputs[name].size
        ]
    return found


def distance(
    against: str, name: str, probe: str, ours: npt.NDArray[Any], other: npt.NDArray[Any]
) -> Distance:
    """Of two arrays of one shape; `other` is what the error is relative to."""
    error = sessions.difference(ours, other)
    return Distance(
        against, name, probe, float(error.max()), float(error.mean()), cosine(ours, other),
        relative_error(ours, other) ** 2,
    )  # fmt: skip


def relative_error(ours: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """‖ours − other‖ / ‖other‖ in f64; infinite where only `other` is all zero."""
    error = float(np.linalg.norm(sessions.difference(ours, other)))
    norm = float(np.linalg.norm(other.astype(np.float64)))
    if norm == 0:
        return 0.0 if error == 0 else float("inf")
    return error / norm


def cosine(ours: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Over all cells, in f64; 1 of two zeros, 0 where one is zero."""
    a, b = ours.astype(np.float64).reshape(-1), other.astype(np.float64).reshape(-1)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0 else 1.0 if np.array_equal(a, b) else 0.0
