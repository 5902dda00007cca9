"""A report as tables and sentences: for a terminal, and in Markdown for the summary of a CI job."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from slc.compiler.bench.gate_paired import MEMORY, Quantity
from slc.compiler.bench.report import BenchReport, percent
from slc.compiler.bench.samples import Samples
from slc.compiler.budget.sizes import format_size


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table: columns that begin with ">" are right-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def grids(report: BenchReport) -> list[Grid]:
    """The tables of a report, only those that have something to say."""
    found = [_measured(report), _counts(report), _pairs(report), _limits(report)]
    found.append(_calibration(report))
    return [grid for grid in found if grid.rows]


def markdown(report: BenchReport) -> str:
    """The same for GITHUB_STEP_SUMMARY."""
    against = f" against `{report.base}`" if report.base else ""
    parts = [f"### slc bench: `{report.artifact}`{against}: **{report.verdict}**\n"]
    parts += [f"- {line}" for line in lines(report)]
    for grid in grids(report):
        heads = [column.lstrip(">") for column in grid.columns]
        marks = ["---:" if column.startswith(">") else "---" for column in grid.columns]
        rows = [heads, marks, *grid.rows]
        parts.append(f"\n**{grid.title}**\n")
        parts += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    parts.append(f"\n{machine_line(report)}; fingerprint `{report.environment.fingerprint}`")
    return "\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def lines(report: BenchReport) -> list[str]:
    """Failures, doubts, their likely causes, and throttling, one sentence each."""
    found = [f"failed: {failure}" for failure in report.failures()]
    found += [f"inconclusive: {doubt}" for doubt in report.doubts()]
    if report.failures() and report.base is not None:
        found += [f"likely cause: {cause}" for cause in report.causes]
    found += [f"throttled: {what}" for what in report.throttled]
    return found


def machine_line(report: BenchReport) -> str:
    """The environment on one line."""
    e = report.environment
    governor = "" if e.governor is None else f", governor {e.governor}"
    return (
        f"{e.cpu}, {e.isa} kernels, {e.threads} threads{governor}, onnxruntime {e.onnxruntime}, "
        f"slc {e.slc}"
    )


def _measured(report: BenchReport) -> Grid:
    columns = (
        "what",
        ">runs",
        ">p50 ms",
        ">p90 ms",
        ">p99 ms",
        ">IQR ms",
        ">tok/s",
        ">GB/s",
        ">of memory's",
    )
    m = report.measured
    if m is None:
        return Grid("", columns, [])
    first = dataclasses.replace(m.first, name=f"first run, {m.first.name}")
    rows = [_timing_row(samples, m.bandwidth_bytes_per_s) for samples in (m.load, first)]
    rows += [_timing_row(samples, m.bandwidth_bytes_per_s) for samples in m.quantities]
    peak = sorted(m.peak_bytes)[len(m.peak_bytes) // 2]
    title = (
        f"{report.artifact} by {m.engine}: the session adds {format_size(peak)}; memory gives "
        f"{m.bandwidth_bytes_per_s / 1e9:.1f} GB/s"
    )
    return Grid(title, columns, rows)


def _timing_row(samples: Samples, bandwidth: int) -> tuple[str, ...]:
    p25, p50, p75, p90, p99 = (samples.percentile_ms(p) for p in (25, 50, 75, 90, 99))
    rate, tokens = samples.bytes_per_s, samples.tokens_per_s
    return (
        samples.name,
        str(len(samples.seconds)),
        *(f"{value:.4g}" for value in (p50, p90, p99, p75 - p25)),
        "" if tokens is None else f"{tokens:.4g}",
        "" if rate is None else f"{rate / 1e9:.3g}",
        "" if rate is None else f"{rate / bandwidth:.0%}",
    )


def _counts(report: BenchReport) -> Grid:
    head, base = report.counts, report.base_counts
    columns = ("counted", ">base", ">this", "")
    if base is None:
        return Grid("", columns, [])
    rows: list[tuple[str, ...]] = []
    for rule, name in (
        ("files", "artifact bytes"),
        ("initializers", "initializer bytes"),
        ("read", "bytes read per token"),
        ("memory", "planned session memory"),
    ):
        was, now = (sum(getattr(counts, rule).values()) for counts in (base, head))
        rows.append((name, f"{was:,}", f"{now:,}", _grew(report, rule)))
    nodes = [str(sum(counts.ops.values())) for counts in (base, head)]
    rows.append(("nodes", *nodes, _grew(report, "ops")))
    rows.append(
        ("dense Linears", str(len(base.dense)), str(len(head.dense)), _grew(report, "dense"))
    )
    return Grid("gate A: nothing may grow", columns, rows)


def _grew(report: BenchReport, rule: str) -> str:
    grown = any(f.rule.partition(".")[0] == rule for f in report.findings)
    return "GREW" if grown else "ok"


def _pairs(report: BenchReport) -> Grid:
    columns = ("paired", ">base", ">this", ">ratio", ">95 % from", ">to", ">allowed", ">pairs", "")
    comparison = report.comparison
    if comparison is None:
        return Grid("", columns, [])
    rows = [_pair_row(q) for q in comparison.quantities if q.pairs]
    return Grid(f"gate B: in turns, {comparison.seconds:.0f} s", columns, rows)


def _pair_row(q: Quantity) -> tuple[str, ...]:
    interval = q.interval
    ends = [
        percent(math.exp(e)) if math.isfinite(e) else "?" for e in (interval.low, interval.high)
    ]
    sizes = (sorted(side)[len(side) // 2] for side in (q.base, q.head))
    shown = [format_size(int(s)) if q.name == MEMORY else f"{1e3 * s:.4g} ms" for s in sizes]
    word = {"pass": "ok", "regression": "REGRESSION", "undecided": "undecided"}[q.decision]
    allowed = percent(math.exp(q.limit))
    return (q.name, *shown, percent(q.ratio), *ends, allowed, str(len(q.pairs)), word)


def _limits(report: BenchReport) -> Grid:
    words = {True: "ok", False: "TOO SLOW", None: "not judged"}
    rows = [
        (c.quantity, f"{c.p90_ms:.4g}", f"{c.max_p90_ms:.4g}", words[c.passed])
        for c in report.limits
    ]
    return Grid("gate C: absolute", ("what", ">p90 ms", ">allowed", ""), rows)


def _calibration(report: BenchReport) -> Grid:
    limit = report.request.slowdown
    rows = [
        (
            c.name,
            str(len(c.ratios)),
            _share(c.smallest_limit),
            _share(limit),
            _share(c.detectable(limit)),
        )
        for c in report.calibration
    ]
    columns = (
        "an artifact against itself",
        ">pairs",
        ">smallest --max-slowdown",
        ">at",
        ">detects",
    )
    return Grid("what gate B sees on this machine, 95 times of 100", columns, rows)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else "too few pairs"
