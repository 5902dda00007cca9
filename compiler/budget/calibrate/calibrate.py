"""This machine's profile with the figures of its kernels, measured in about a minute."""

from __future__ import annotations

import dataclasses
import datetime
import gc
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from slc.compiler.budget.calibrate import decoder, graphs
from slc.compiler.budget.calibrate.fit import Figures, Sample, fit
from slc.compiler.budget.calibrate.timing import interleave, median_and_fastest
from slc.compiler.budget.encodings import blob_layout
from slc.compiler.budget.operation import Machine, Operation
from slc.compiler.progress import Progress
from slc.targets.detect import detect_host, installed_version, last_level_cache_bytes

if TYPE_CHECKING:
    from onnx import ModelProto

    from slc.targets import Target

CACHE_BYTES_UNKNOWN = 32 << 20
COLD_CACHES = 2  # a graph's weights are so many times the last cache
SMALL_POSITIONS = 1 << 20  # up to which int8 at level 1 is timed: it is a hundred times as slow
DELTA_SHARE = 0.12  # of the density of a bitmap: delta is for the sparsest


@dataclasses.dataclass(frozen=True)
class Turn:
    """Operators of one shape, timed in turns: [N, K] at `density`, `group` columns a scale."""

    N: int
    K: int
    density: float
    group: int
    rank: int


TURNS = (
    Turn(256, 256, 0.5, 32, 16),
    Turn(768, 768, 0.3, 64, 16),
    Turn(2048, 768, 0.7, 128, 32),
    Turn(768, 2048, 0.5, 32, 64),
    Turn(512, 1024, 0.9, 64, 8),
    Turn(1536, 1536, 0.1, 32, 32),
    Turn(4096, 1024, 0.4, 128, 64),
    Turn(1024, 4096, 0.6, 32, 128),
    Turn(2048, 2048, 0.2, 64, 16),
    Turn(384, 1536, 0.8, 128, 32),
    Turn(3072, 4096, 0.5, 64, 64),
    Turn(8192, 768, 0.9, 32, 32),
)
_KERNELS_BESIDE = 16  # graphs that are in memory at a time


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
      turns: shapes of the operators.
      seconds: each takes.
      decoders: shapes of the decoders; none leaves what is beside the Linears to the defaults.
      rounds: of the decoders.
      cold_bytes: of weights in a graph; None: by the last cache.
    """

    turns: tuple[Turn, ...] = TURNS
    seconds: float = 3.0
    decoders: tuple[decoder.Shape, ...] = decoder.SHAPES
    rounds: int = 8
    cold_bytes: int | None = None


def calibrate(effort: Effort | None = None, progress: Progress | None = None) -> Target:
    """The profile of this machine with what its operators cost, all measured here and now.

    Args:
      effort: how much to measure.
      progress: called after every shape.
    """
    effort = effort or Effort()
    say = progress or (lambda done, total, what: None)
    host = detect_host(measure=True)
    machine = Machine(host.bandwidth_bytes_per_s / 1e6, host.cores)
    has_genai = installed_version("onnxruntime-genai") is not None and bool(effort.decoders)
    total = len(effort.turns) + (effort.rounds if has_genai else 0)
    found: dict[str, list[Sample]] = {}
    for i, turn in enumerate(effort.turns):
        for sample in _timed(host, turn, effort):
            found.setdefault(sample.operations[0][0].kernel, []).append(sample)
        say(i + 1, total, "timing operators")
    figures: Figures = {}
    for samples in found.values():
        figures |= fit(samples, machine)
    if has_genai:
        beside = _decoder_samples(
            effort, host.cores, lambda i: say(i, total, "timing whole tokens")
        )
        figures |= fit(beside, machine)
    sources = {**host.sources, "kernels": _source(has_genai)}
    return dataclasses.replace(host, kernels=figures, sources=sources)


def _source(has_genai: bool) -> str:
    day = datetime.datetime.now(datetime.timezone.utc).date()
    left = "" if has_genai else "; attention, node and runtime are not, for want of a genai"
    return (
        f"measured by slc devices --calibrate on {day}, onnxruntime "
        f"{installed_version('onnxruntime')}{left}"
    )


def _decoder_samples(effort: Effort, threads: int, done: Callable[[int], None]) -> list[Sample]:
    kept, rounds = [], len(effort.turns)
    with tempfile.TemporaryDirectory(prefix="slc-calibrate-") as folder:
        for sample in decoder.samples(Path(folder), effort.decoders, effort.rounds, threads):
            if sample is None:
                rounds += 1
                done(rounds)
            else:
                kept.append(sample)
    done(rounds + 1)
    return kept


def _timed(host: Target, turn: Turn, effort: Effort) -> list[Sample]:
    """A sample of every operator of one turn."""
    cold_bytes = effort.cold_bytes or _cold_bytes()
    operations: list[tuple[Operation, int]] = []
    steps: list[Callable[[], object]] = []
    for operation, proto, feeds in _graphs(host, turn, cold_bytes):
        operations.append((operation, len(proto.graph.node)))
        steps.append(_step(proto, feeds, host.cores))
    times = interleave(steps, effort.seconds)
    del steps
    gc.collect()  # sessions hold their weights until they are gone
    return [
        Sample(((operation, 1),), *(us / count for us in median_and_fastest(one)))
        for (operation, count), one in zip(operations, times, strict=True)
    ]


def _graphs(
    host: Target, turn: Turn, cold_bytes: int
) -> Iterator[tuple[Operation, ModelProto, graphs.Feeds]]:
    N, K = turn.N, turn.K
    rng = np.random.default_rng(0)
    W, chance = rng.standard_normal((N, K), np.float32), rng.random((N, K), np.float32)
    S, delta = (W * (chance < share * turn.density) for share in (1, DELTA_SHARE))
    yield from graphs.sparse_graphs(S, delta, blob_layout(host), cold_bytes)
    yield graphs.dense_graph(N, K, cold_bytes)
    for bits in (4, 8):
        yield graphs.quantized_graph(N, K, bits, turn.group, "", cold_bytes)
    yield graphs.quantized_graph(N, K, 4, turn.group, "_level1", cold_bytes)
    if N * K <= SMALL_POSITIONS:
        yield graphs.quantized_graph(N, K, 8, turn.group, "_level1", 0)
    for adapter_type in ("f16", "i8"):
        yield from graphs.adapter_graphs(N, K, turn.rank, adapter_type, cold_bytes)


def _cold_bytes() -> int:
    free = int(psutil.virtual_memory().available)
    cache = last_level_cache_bytes() or CACHE_BYTES_UNKNOWN
    return min(COLD_CACHES * cache, free // (4 * _KERNELS_BESIDE))


def _step(proto: ModelProto, feeds: graphs.Feeds, threads: int) -> Callable[[], object]:
    session, name = _session(proto, threads), str(proto.graph.output[0].name)
    fed: dict[str, Any] = dict(feeds)
    return lambda: session.run([name], fed)


def _session(proto: ModelProto, threads: int) -> Any:
    """A session whose threads sleep once a run is over, so that the next has the cores."""
    import onnxruntime

    from slc import ops

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    ops.register(options)
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
