"""One session, many threads: some thousand requests here, minutes in `make test-large`."""

from __future__ import annotations

import itertools
import mmap
from pathlib import Path

import numpy as np
import pytest
from artifact.graphs import K, two_layers, write_artifact

from examples.serve_stress import growth, stress
from slc.compiler import export
from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.probes import Feeds, make_probes

THREADS, REQUESTS = 8, 3000


def inputs() -> list[Feeds]:
    """From one row, which is a GEMV, to many, which are a GEMM."""
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 2), (3, 5), (2, 64)]
    return [{"x": rng.standard_normal((*shape, K)).astype(np.float32)} for shape in shapes]


@pytest.mark.parametrize(("value_type", "level"), [("f16", 1), ("i4", 4)])
def test_some_thousand_requests(tmp_path: Path, value_type: str, level: int) -> None:
    model = two_layers(value_type=value_type, level=level)
    session = Artifact.open(write_artifact(tmp_path / "out", model)).session()
    outcome = stress(session, inputs(), threads=THREADS, requests=REQUESTS)
    assert outcome.wrong == []
    assert outcome.requests >= REQUESTS
    assert outcome.growth_bytes is not None
    assert outcome.growth_bytes <= outcome.allowed_bytes
    assert outcome.passed


LEAK = 5 * mmap.PAGESIZE  # bytes a request


class Leaking:
    """Keeps a little of every request."""

    def __init__(self, session: object, size: int) -> None:
        self._session, self._size, self._kept = session, size, []

    def run(self, names: object, feeds: Feeds) -> object:
        # Pages of its own: the heap would first hand out what earlier tests freed and what is
        # resident already, megabytes of it at the end of a long run.
        pages = mmap.mmap(-1, self._size, flags=mmap.MAP_PRIVATE)
        pages.write(bytes(self._size))
        self._kept.append(pages)
        return self._session.run(names, feeds)


class Confused:
    """Gives another request's answer now and then."""

    def __init__(self, session: object) -> None:
        self._session, self._count = session, itertools.count()

    def run(self, names: object, feeds: Feeds) -> object:
        result = self._session.run(names, feeds)
        if next(self._count) == 200:
            result[0].reshape(-1)[7] += np.float32(1e-6)
        return result


def test_faults_would_be_seen(tmp_path: Path) -> None:
    session = Artifact.open(write_artifact(tmp_path / "out")).session()
    leaking = stress(Leaking(session, LEAK), inputs(), threads=THREADS, requests=REQUESTS)
    assert leaking.wrong == []
    assert not leaking.passed
    leaked = LEAK * REQUESTS / 3  # between the medians of two thirds
    assert abs(leaking.growth_bytes - leaked) < leaking.allowed_bytes
    confused = stress(Confused(session), inputs(), threads=THREADS, requests=REQUESTS)
    assert len(confused.wrong) == 1
    assert confused.requests < REQUESTS  # it stops at once
    assert "output 0 is not what one thread alone gets" in confused.wrong[0]
    assert not confused.passed


def test_time_ends_it_too(tmp_path: Path) -> None:
    session = Artifact.open(write_artifact(tmp_path / "out")).session()
    outcome = stress(session, inputs(), threads=2, seconds=0.2)
    assert outcome.seconds >= 0.2
    assert outcome.requests == outcome.latencies_ms.size > 0
    few = stress(session, inputs(), threads=2, requests=20)
    assert few.growth_bytes is None
    assert not few.passed


def test_growth() -> None:
    assert growth([9] * 5 + [5, 5, 5, 7, 7] + [6, 8, 8, 8, 9]) == 3
    assert growth([1] * 14) is None


@pytest.mark.large
@pytest.mark.parametrize("values", ["f16", "i4"])
def test_minutes(minilm: Path, tmp_path: Path, values: str) -> None:
    out = export(minilm, tmp_path / "out", density=0.5, rank=16, values=values)
    artifact = Artifact.open(out)
    feeds = [probe.feeds for probe in make_probes(artifact.model())]
    outcome = stress(artifact.session(), feeds, threads=THREADS, seconds=150)
    assert outcome.passed, (outcome.wrong, outcome.growth_bytes, outcome.allowed_bytes)
