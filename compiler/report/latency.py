"""How long a run or a token took: the distribution of what `slc bench` timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from slc.compiler.report.page import table
from slc.compiler.report.plot import NARROW, both_widths, frame

Json = Mapping[str, Any]

NAMES = {"decode": "one token", "first token": "the first token", "run": "one run"}
_PERCENTILES = (50, 90, 99)
_SAMPLES_MIN = 10  # fewer make no histogram
_TAIL = 1.25  # the picture ends at this multiple of the 99th percentile


def timed(latency: Json | None) -> dict[str, Json]:
    """What there are times of, by name.

    Args:
      latency: of measured.json or of `slc bench`: what was timed -> {"samples_ms", "p50_ms", …},
        each of them optional.
    """
    return {
        name: one
        for name, one in (latency or {}).items()
        if isinstance(one, Mapping) and (one.get("samples_ms") or "p50_ms" in one)
    }


def latency_section(latency: Json | None) -> list[str]:
    """A histogram and the percentiles of each thing that was timed; `latency` as in `timed`."""
    found = timed(latency)
    if not found:
        return [
            "<p class='note'>Not measured yet: <code>slc bench ARTIFACT --output bench.json"
            "</code>, then <code>slc report ARTIFACT --measured bench.json</code>.</p>"
        ]
    parts = []
    for name, one in found.items():
        samples = one.get("samples_ms") or []
        if len(samples) >= _SAMPLES_MIN:
            parts.append(f"<h3>{escape(NAMES.get(name, name))}</h3>")
            parts.append(histogram(samples, percentiles(one)))
    rows = [_row(name, one) for name, one in found.items()]
    heads = ["", "samples", "fastest", *(f"p{p}" for p in _PERCENTILES), "slowest"]
    return [*parts, table(heads, rows, text=[0], stacked=True)]


def percentiles(one: Json) -> dict[int, float]:
    """Milliseconds by percentile: as given, else those of the samples."""
    samples = one.get("samples_ms") or []
    known = {p: one.get(f"p{p}_ms") for p in _PERCENTILES}
    return {
        p: float(np.percentile(samples, p)) if value is None else float(value)
        for p, value in known.items()
        if value is not None or samples
    }


def _row(name: str, one: Json) -> list[str]:
    samples = one.get("samples_ms") or []
    values = percentiles(one)
    ends = (min(samples, default=None), max(samples, default=None))
    cells = [ends[0], *(values.get(p) for p in _PERCENTILES), ends[1]]
    count = str(len(samples) or one.get("samples", ""))
    return [escape(NAMES.get(name, name)), count, *map(format_ms, cells)]


def format_ms(value: float | None) -> str:
    """Three digits and the unit; "" of nothing."""
    if value is None:
        return ""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def histogram(samples: Sequence[float], marks: Mapping[int, float]) -> str:
    """How many samples (ms) took how long, the percentiles marked.

    What is slower than the picture is wide is counted in its last bar, which then says so.
    """
    values = np.asarray(samples, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    end = min(high, _TAIL * marks.get(99, high))
    if end <= low:
        end = low + max(abs(low), 1e-3) * 0.1
    bins = int(np.clip(2 * np.sqrt(values.size), 10, 50))
    counts, edges = np.histogram(np.minimum(values, end), bins=bins, range=(low, end))
    beyond = int((values > end).sum())

    def draw(width: int) -> tuple[int, list[str]]:
        height = 250 if width > NARROW else 220
        axes = frame(width, height, (low, end), (0.0, float(counts.max()) * 1.18))
        name = "milliseconds"
        if beyond:
            name += f"; the last bar holds {beyond} up to {high:.3g}"
        parts = axes.grid(
            x=lambda v: f"{v:.4g}", y=lambda v: f"{v:.0f}", x_name=name, y_name="samples"
        )
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
            if count:
                x, top = axes.x(left), axes.y(count)
                parts.append(
                    f"<rect class='hover' x='{x:.1f}' y='{top:.1f}' "
                    f"width='{max(axes.x(right) - x - 1, 0.5):.1f}' "
                    f"height='{axes.y.start - top:.1f}' fill='var(--accent)'>"
                    f"<title>{left:.4g} to {right:.4g} ms: {count}</title></rect>"
                )
        for i, (p, value) in enumerate(marks.items()):
            if low <= value <= end:
                x, y = axes.x(value), axes.y.stop + 12 * i
                parts.append(
                    f"<path d='M{x:.1f} {axes.y.start:.1f}V{y - 4:.1f}' stroke='var(--ink)' "
                    "stroke-dasharray='3 3'/>"
                )
                anchor, dx = ("end", -5) if x > width * 0.7 else ("start", 5)
                parts.append(
                    f"<text class='strong' x='{x + dx:.1f}' y='{y + 4:.1f}' "
                    f"text-anchor='{anchor}'>p{p} {format_ms(value)}</text>"
                )
        return height, parts

    return both_widths(draw, "histogram of the times")
