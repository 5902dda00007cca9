"""Measures an artifact, and holds it against another one and against limits."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.bench.calibration import calibration
from slc.compiler.bench.causes import likely_causes
from slc.compiler.bench.counts import count
from slc.compiler.bench.environment import (
    environment,
    throttle_counts,
    throttled_between,
    throttling_now,
)
from slc.compiler.bench.gate_counts import check_counts
from slc.compiler.bench.gate_limits import LimitCheck, reasons_against
from slc.compiler.bench.gate_paired import MEMORY, compare
from slc.compiler.bench.measurement import measure
from slc.compiler.bench.report import BenchReport
from slc.compiler.bench.request import BenchRequest
from slc.compiler.bench.subject import Subject, make_load, prepared
from slc.compiler.errors import RequestError
from slc.compiler.progress import Progress, as_stage


def bench(
    artifact: Path | str,
    *,
    against: Path | str | None = None,
    request: BenchRequest | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Runs what `request` asks for.

    Args:
      artifact: what `slc export` wrote: what is measured, the head of a comparison.
      against: the base: with it gates A and B run, and the artifact is measured by itself only
        for `max_p90_ms`.
      request: the options; left out: their defaults.
      progress: called as progress(done, total, what).

    Raises:
      ArtifactError: one of the two can't be opened or run here.
      RequestError: an option is wrong, or the two can't be given the same inputs.
    """
    request = BenchRequest() if request is None else request
    if against is not None and (request.calibrate or request.cold):
        option = "--calibrate" if request.calibrate else "--cold"
        raise RequestError(f"{option} is about one artifact: leave out --against")
    if against is None and (request.allow or request.counts_only):
        option = "--allow" if request.allow else "--counts-only"
        raise RequestError(f"{option} is about a comparison: add --against BASE")
    head = Artifact.open(artifact)
    base = None if against is None else Artifact.open(against)
    both = [head] if base is None else [head, base]
    load = make_load(both, request.batch, request.context, request.threads)
    report = BenchReport(
        head.path.resolve().name,
        None if base is None else base.path.resolve().name,
        request,
        environment(load.threads),
        count(head),
    )
    if base is not None:
        report.base_counts = count(base)
        _count_gate(report, base, head)
    if not request.counts_only:
        report.load = load
        before = throttle_counts()
        _run(report, base, head, progress)
        during = throttled_between(before, throttle_counts())
        now = throttling_now()
        report.throttled = (*report.environment.throttling, *now, *during)
        report.throttled = tuple(dict.fromkeys(report.throttled))
        _limit_gate(report, head)
    return report


def _count_gate(report: BenchReport, base: Artifact, head: Artifact) -> None:
    assert report.base_counts is not None
    everything = check_counts(report.base_counts, report.counts)
    report.findings = check_counts(report.base_counts, report.counts, report.request.allow)
    report.causes = likely_causes(base.manifest, head.manifest, everything)


def _run(
    report: BenchReport, base: Artifact | None, head: Artifact, progress: Progress | None
) -> None:
    request, load = report.request, report.load
    assert load is not None
    with contextlib.ExitStack() as stack:

        def subject(artifact: Artifact) -> Subject:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="slc-bench-"))
            return stack.enter_context(prepared(artifact, load, Path(folder)))

        of_head = subject(head)
        if base is not None or request.calibrate:
            of_base = of_head if base is None else subject(base)
            _check_same(of_base, of_head)
            comparison = compare(
                of_base,
                of_head,
                max_slowdown=request.slowdown,
                max_growth=request.growth,
                time_limit_s=request.time_limit_s,
                progress=as_stage(progress, "pairs of processes"),
                stop_early=not request.calibrate,
            )
            if request.calibrate:
                times = [q for q in comparison.quantities if q.name != MEMORY]
                report.calibration = [calibration(q.name, q.pairs) for q in times]
                return
            report.comparison = comparison
        if base is None or request.max_p90_ms is not None:
            report.measured = measure(
                of_head,
                seconds=request.seconds,
                read_bytes=report.counts.read_bytes,
                cold=request.cold,
                progress=progress,
            )


def _check_same(base: Subject, head: Subject) -> None:
    """Raises RequestError where the two do not do the same work."""
    names = [
        sorted(str(v.name) for v in s.artifact.model().graph.inputs if not v.is_initializer())
        for s in (base, head)
    ]
    if names[0] != names[1] or base.works != head.works:
        raise RequestError(
            f"--against: {base.artifact.path} takes the inputs {names[0]} and "
            f"{head.artifact.path} takes {names[1]}: give two artifacts of one model"
        )


def _limit_gate(report: BenchReport, head: Artifact) -> None:
    request, measured = report.request, report.measured
    if request.max_p90_ms is None or measured is None:
        return
    refusals: tuple[str, ...] = ()
    if not request.any_machine:
        refusals = reasons_against(
            report.environment, head.manifest["device"], request.expect, report.throttled
        )
    # Of a decoder the token, of another graph the pass of the whole context.
    steps = [samples for samples in measured.quantities if samples.tokens]
    judged = (steps or measured.quantities)[0]
    report.limits = [
        LimitCheck(judged.name, judged.percentile_ms(90), request.max_p90_ms, refusals)
    ]
