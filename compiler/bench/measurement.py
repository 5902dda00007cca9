"""An artifact by itself: load, first run, the warm runs, memory, and memory's rate beside it.

for every fresh process:
    the bandwidth of memory is probed; the session loads; one run, the first; its weights are
    touched; runs that warm up; runs that count, until the time is up
cold: the artifact's files leave the page cache before every process, and only load and first
run are timed
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from slc.compiler.bench.gate_paired import WARM_RUNS
from slc.compiler.bench.process import Process
from slc.compiler.bench.samples import Samples
from slc.compiler.bench.subject import Subject
from slc.compiler.bench.worker import DECODE
from slc.compiler.progress import Progress
from slc.targets.detect import measure_bandwidth

PROCESSES = 3
PROCESSES_COLD = 5
RUNS_LEAST = 5
_RUNS_MOST_AT_ONCE = 16
_PROBE_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured.

    Attributes:
      engine: what ran the graph.
      load: seconds of making the session, one for each process.
      first: of the first run of a process: a pass, or a prompt and its first token.
      quantities: of warm runs; empty in cold mode.
      peak_bytes: that the session added to each process.
      bandwidth_bytes_per_s: of memory, by all usable cores, the best of the probes.
    """

    engine: str
    load: Samples
    first: Samples
    quantities: tuple[Samples, ...]
    peak_bytes: tuple[int, ...]
    bandwidth_bytes_per_s: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values, every sample included."""
        return {
            "engine": self.engine,
            "load": self.load.to_json(),
            "first_run": self.first.to_json(),
            "quantities": [q.to_json(self.bandwidth_bytes_per_s) for q in self.quantities],
            "session_bytes": {
                "median": int(np.median(self.peak_bytes)),
                "processes": list(self.peak_bytes),
            },
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
        }


def measure(
    subject: Subject,
    *,
    seconds: float,
    read_bytes: int,
    cold: bool = False,
    progress: Progress | None = None,
) -> Measurement:
    """Times `subject` in a few fresh processes.

    Args:
      subject: under its load.
      seconds: of warm runs, over all processes and works.
      read_bytes: of weights that a step or a pass reads.
      cold: as the module says.
      progress: called before every process.

    Raises:
      ArtifactError: it can't be run here.
    """
    total = PROCESSES_COLD if cold else PROCESSES
    load, first, peaks, bandwidth, engine = [], [], [], 0, ""
    warm: dict[str, list[float]] = {}
    for i in range(total):
        if progress is not None:
            progress(i, total, "cold starts" if cold else "timing")
        bandwidth = max(bandwidth, measure_bandwidth(_PROBE_SECONDS))
        if cold:
            drop_page_cache(Path(subject.start["model"]))
        with Process(subject) as process:
            loaded = process.loaded()
            load.append(loaded["load_s"])
            engine = loaded["engine"]
            first.append(process.turn(subject.works[0], 0, 1)[subject.quantities[0]][0])
            if not cold:
                _warm_runs(process, subject, seconds / total, warm)
            peaks.append(process.peak_bytes())
    if progress is not None:
        progress(total, total, "cold starts" if cold else "timing")
    return Measurement(
        engine,
        Samples("load", tuple(load)),
        Samples(subject.quantities[0], tuple(first)),
        tuple(_samples(name, times, read_bytes) for name, times in warm.items()),
        tuple(peaks),
        bandwidth,
    )


def _samples(name: str, seconds: list[float], read_bytes: int) -> Samples:
    """A prompt of many tokens reads the weights once and is bound by arithmetic: no rate."""
    tokens = int(name == DECODE)
    return Samples(name, tuple(seconds), None if name == "first token" else read_bytes, tokens)


def _warm_runs(
    process: Process, subject: Subject, seconds: float, found: dict[str, list[float]]
) -> None:
    """Adds the runs of one process to `found`, works in turns."""
    process.touch()
    runs = _RUNS_MOST_AT_ONCE
    if subject.load.decoder:
        runs = max(1, min(runs, subject.load.steps_most - WARM_RUNS))
    for work in subject.works:
        begin = time.perf_counter()
        process.turn(work, WARM_RUNS, 1)
        run_s = (time.perf_counter() - begin) / (WARM_RUNS + 1)
        # Short turns let a slow model's works alternate; a turn is never longer than its share.
        runs = max(1, min(runs, int(seconds / len(subject.works) / max(run_s, 1e-6))))
    end, turns = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or turns * runs < RUNS_LEAST:
        for work in subject.works:
            for name, times in process.turn(work, 1, runs).items():
                found.setdefault(name, []).extend(times)
        turns += 1


def drop_page_cache(model: Path) -> None:
    """Makes Linux forget the pages of a graph's files, as far as no process has them mapped.

    Needs no rights, and is a hint: a file system in memory has nothing to forget.
    """
    for path in (model, Path(f"{model}.data")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # dirty pages, of an artifact just made, would stay
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
