"""Serve one session from many threads for a while: no wrong answer, no growth of memory.

python -m examples.serve_stress ARTIFACT [--threads 8] [--minutes 2]

A server keeps one session and calls it from its request threads. This does so as hard as it can:
every thread runs inputs of several shapes in an order of its own and compares each answer, bit by
bit, with what the session gave before there was any other thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.probes import Feeds, make_probes
from slc.compiler.errors import ArtifactError

SAMPLE_EVERY = 16  # requests between looks at the resident memory
THIRD_MIN = 5  # samples of which a median means something
# A leak of one small object a request is what should be seen, in a run that is long enough: below
# some megabytes the allocator's own coming and going hides it. The dense graph of all-MiniLM-L6-v2
# in plain onnxruntime grew by 1.8 MB over a third of 16 000 requests from 8 threads, our artifact
# of it by 1.4, and by 1.4 again over a third of 60 000.
LEAK_BYTES = 64
NOISE_BYTES = 3 << 20


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What happened.

    Attributes:
      requests: runs of the session, over all threads.
      wrong: a sentence for each answer that was not what it should be, at most a few.
      seconds: how long it went on.
      growth_bytes: resident memory, median of the last third of the requests less that of the
        middle third; the first third warms up. None of too few requests to tell.
      latencies_ms: [requests].
    """

    requests: int
    wrong: list[str]
    seconds: float
    growth_bytes: int | None
    latencies_ms: np.ndarray

    @property
    def allowed_bytes(self) -> int:
        """What memory may grow by over a third of the requests before it counts as a leak."""
        return NOISE_BYTES + LEAK_BYTES * self.requests // 3

    @property
    def passed(self) -> bool:
        """Whether every answer was right and memory did not grow; what can't be told is no pass."""
        flat = self.growth_bytes is not None and self.growth_bytes <= self.allowed_bytes
        return flat and not self.wrong


class _Count:
    """Requests so far, and the resident memory at every SAMPLE_EVERY-th of them."""

    def __init__(self, requests: int | None, seconds: float | None) -> None:
        self.done, self.resident = 0, list[int]()
        self._requests, self._seconds = requests, seconds
        self._start, self._lock = time.perf_counter(), threading.Lock()

    def add(self) -> bool:
        """Counts one; returns whether there should be more."""
        with self._lock:
            self.done += 1
            if self.done % SAMPLE_EVERY == 0:
                self.resident.append(resident_bytes())
            enough = self._requests is not None and self.done >= self._requests
            return not enough and (self._seconds is None or self.elapsed() < self._seconds)

    def elapsed(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._start


def stress(
    session: ort.InferenceSession,
    feeds: Sequence[Feeds],
    *,
    threads: int,
    requests: int | None = None,
    seconds: float | None = None,
) -> Outcome:
    """Runs `session` from `threads` threads, for so many requests or seconds, or to an error.

    Args:
      session: anything with onnxruntime's `run`.
      feeds: inputs by name; every thread runs all of them, over and over.
      threads: how many.
      requests: over all threads; None: any number.
      seconds: None: as long as the requests take.
    """
    wanted = [session.run(None, feed) for feed in feeds]
    wrong: list[str] = []
    latencies: list[list[float]] = [[] for _ in range(threads)]
    stop, count = threading.Event(), _Count(requests, seconds)

    def one(number: int, i: int) -> str | None:
        start = time.perf_counter()
        try:
            got = session.run(None, feeds[i])
        except Exception as error:  # onnxruntime's own classes derive from Exception directly
            return str(error)
        latencies[number].append(1000 * (time.perf_counter() - start))
        return difference(got, wanted[i])

    def serve(number: int) -> None:
        order = np.random.default_rng(number)
        while not stop.is_set():
            i = int(order.integers(len(feeds)))
            if problem := one(number, i):
                wrong.append(f"thread {number}, input {i}: {problem}")
            if problem or not count.add():
                stop.set()

    workers = [threading.Thread(target=serve, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    times = np.array([ms for own in latencies for ms in own])
    return Outcome(count.done, wrong[:5], count.elapsed(), growth(count.resident), times)


def difference(got: Sequence[Any], wanted: Sequence[Any]) -> str | None:
    """Where two lists of outputs differ in any bit, None where they do not."""
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if a.shape != b.shape or a.tobytes() != b.tobytes():
            return f"output {i} is not what one thread alone gets"
    return None


def growth(resident: Sequence[int]) -> int | None:
    """Median of the last third less that of the middle third; None of too few samples."""
    third = len(resident) // 3
    if third < THIRD_MIN:
        return None
    return int(np.median(resident[2 * third :]) - np.median(resident[third : 2 * third]))


def resident_bytes() -> int:
    """Of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=2.0)
    arguments = parser.parse_args()
    try:
        artifact = Artifact.open(arguments.artifact)
        session = artifact.session()
    except ArtifactError as error:
        print(error, file=sys.stderr)
        return 2
    feeds = [probe.feeds for probe in make_probes(artifact.model())]
    outcome = stress(session, feeds, threads=arguments.threads, seconds=60 * arguments.minutes)
    for sentence in outcome.wrong:
        print(sentence)
    p50, p99 = np.percentile(outcome.latencies_ms, (50, 99)) if outcome.requests else (0, 0)
    memory = "too few requests to tell: give it more --minutes"
    if outcome.growth_bytes is not None:
        allowed = outcome.allowed_bytes / 1e6
        memory = f"{outcome.growth_bytes / 1e6:+.2f} MB (allowed {allowed:.2f})"
    print(
        f"{outcome.requests} requests from {arguments.threads} threads in {outcome.seconds:.0f} s; "
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms; {len(outcome.wrong)} wrong answers; resident memory "
        f"{memory}"
    )
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
