"""What gpu_check.py found, as a table and as a line of ops/csrc/cuda/gpu_table.h."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

from bench.gpu_plans import GpuRow, Plan, best_split, kind

Timed = list[dict[str, Any]]
BUSY_WARPS = (4, 8, 12, 16, 24, 32, 48)
SPLIT_ROUNDS = (0, 1, 2, 3, 4, 6, 8)


def tuned_row(row: GpuRow, sms: int, timed: Timed) -> dict[str, Any]:
    """Which line of the table would have chosen best of what was timed.

    A line's loss is the geometric mean, over cases, of the time of what it chooses over that of the
    fastest split of the same kernel.
    """
    cases: dict[tuple[Any, ...], dict[Plan, float]] = {}
    for one in timed:
        plan = Plan(*one["plan"])
        case = (one["n"], one["k"], one["m"], one["values"], kind(plan), plan.rows)
        cases.setdefault(case, {})[plan] = one["us"]
    if not cases:
        return {"row": row, "loss": None, "loss_of_present": None}
    made = [
        row._replace(busy_warps=busy, split_rounds=rounds)
        for busy, rounds in itertools.product(BUSY_WARPS, SPLIT_ROUNDS)
    ]
    best = min(made, key=lambda one: _loss(one, sms, cases))
    limit = _faster_up_to(cases, {"stream"}, "tiled")
    if limit is not None:
        best = best._replace(stream_rows_max=limit)
    before_wide = _faster_up_to(cases, {"stream", "tiled"}, "wide")
    if before_wide is not None:
        best = best._replace(wide_rows_min=before_wide + 1)
    return {
        "row": best,
        "loss": _loss(best, sms, cases),
        "present_row": row,
        "loss_of_present": _loss(row, sms, cases),
    }


def _loss(row: GpuRow, sms: int, cases: dict[tuple[Any, ...], dict[Plan, float]]) -> float:
    return statistics.geometric_mean(
        us[best_split(row, sms, sorted(us, key=lambda p: (p.cluster, p.warps)), n, k, m)]
        / min(us.values())
        for (n, k, m, *_), us in cases.items()
    )


def _faster_up_to(
    cases: dict[tuple[Any, ...], dict[Plan, float]], kinds: set[str], other: str
) -> int | None:
    """The most rows of X for which kernels of `kinds` beat `other`; None where nothing compares."""
    best: dict[tuple[Any, ...], dict[bool, float]] = {}
    for (n, k, m, values, which, _), us in cases.items():
        if which in kinds or which == other:
            both = best.setdefault((n, k, m, values), {})
            both[which == other] = min(both.get(which == other, math.inf), *us.values())
    ratios: dict[int, list[float]] = {}
    for (_, _, m, _), both in best.items():
        if len(both) == 2:
            ratios.setdefault(m, []).append(both[False] / both[True])
    if not ratios:
        return None
    faster = [m for m, some in sorted(ratios.items()) if statistics.geometric_mean(some) <= 1]
    return max(faster, default=8)


def table(document: dict[str, Any]) -> str:
    """Markdown; what was not run is said."""
    lines = [f"# {document.get('device', 'no GPU')}, {document.get('date', '')}", ""]
    lines += _correct(document["correct"]) if "correct" in document else ["Correctness: not run."]
    for tool in ("memcheck", "racecheck"):
        lines.append(f"compute-sanitizer {tool}: {document.get(tool, 'not run')}")
    lines.append(f"onnxruntime: {document.get('ort', 'not run')}")
    lines += _timed(document["time"]) if "time" in document else ["Timing: not run."]
    lines += ["", _tuned(document.get("tune"))]
    return "\n".join(lines) + "\n"


def means(results: Timed) -> dict[str, float]:
    """Geometric means of ratios over shapes, by values, density and M."""
    ratios: dict[tuple[Any, ...], list[float]] = {}
    for one in results:
        if "ratio" in one:
            key = (one["values"], one["density"], one["m"])
            ratios.setdefault(key, []).append(one["ratio"])
    return {
        " ".join(map(str, key)): statistics.geometric_mean(some)
        for key, some in sorted(ratios.items())
    }


def _correct(found: dict[str, Any]) -> list[str]:
    if "cases" not in found:
        return [f"Correctness: STOPPED: {found['stopped']}"]
    return [
        f"Correctness: {found['cases']} cases, {found['failed']} failed, the largest error "
        f"{found['worst_of_bound']:.2g} of the bound, {found['left_out']} left out.",
        *_stopped(found),
        *[f"- {text}" for text in found["failures"]],
    ]


def _stopped(found: dict[str, Any]) -> list[str]:
    return [f"STOPPED: {found['stopped']}"] if "stopped" in found else []


def _timed(timed: dict[str, Any]) -> list[str]:
    columns = ("values", "density", "M", "N", "K", "µs", "cuBLAS µs", "ratio", "bytes allow",
               "of copy", "plan")  # fmt: skip
    results = timed.get("results", [])
    return [
        "",
        f"cuBLAS: {timed.get('cublas')}. Copy: {timed.get('copy_gb_per_s', 0):.0f} GB/s.",
        f"Left out: {timed['left_out']}.",
        *_stopped(timed),
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *[_line(one) for one in results],
        "",
        "| values, density, M | geometric mean of ratios |",
        "|---|---|",
        *[f"| {key} | {mean:.3f} |" for key, mean in means(results).items()],
        "",
        "| M | adapters × rank | Down and Up, µs |",
        "|---|---|---|",
        *[
            f"| {one['m']} | {one['adapters']} × {one['rank']} | {one['us']:.1f} |"
            for one in timed.get("adapters", [])
        ],
    ]


def _tuned(tuned: dict[str, Any] | None) -> str:
    if not tuned or tuned.get("loss") is None:
        return "gpu_table.h: no alternatives timed."
    fields = ", ".join(map(str, tuned["row"]))
    slower, present = (100 * (tuned[key] - 1) for key in ("loss", "loss_of_present"))
    return (
        f"gpu_table.h here: `{{{fields}}}`, {slower:.1f} % slower than the fastest plan of each "
        f"case; the present line {present:.1f} %. Left out: {tuned['left_out']}."
    )


def _line(one: dict[str, Any]) -> str:
    cublas = f"{one['cublas_us']:.1f} | {one['ratio']:.2f}" if "ratio" in one else "– | –"
    return (
        f"| {one['values']} | {one['density']} | {one['m']} | {one['n']} | {one['k']} "
        f"| {one['us']:.1f} | {cublas} | {one['byte_ceiling']:.2f} | {one['share_of_copy']:.2f} "
        f"| {' '.join(map(str, one['plan']))} |"
    )
