"""Draws what bench_budget.py measured: quality over session bytes, one panel for each model.

python tests/bench/plot_budget.py -o budgets.svg "TITLE=FILE.json" ...

Lower is better in both kinds of panel: perplexity, up to `WORST` times the best, or one minus the
mean cosine; vertical axes are logarithmic.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.line_chart import Panel, svg

WORST = 30.0
NAMES = {
    "uniform": "one ratio", "hpa": "SALAAD's HPA", "dense_int4": "dense int4",
    "dense_int8": "dense int8",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", nargs="+", metavar="TITLE=FILE")
    parser.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    panels = []
    for text in asked.results:
        title, _, file = text.partition("=")
        panels.append(_panel(title, json.loads(Path(file).read_text(encoding="utf-8"))))
    asked.out.write_text(svg(panels), encoding="utf-8")


def _panel(title: str, rows: list[dict[str, Any]]) -> Panel:
    perplexity = max(row["quality"] for row in rows) > 1

    def shown(quality: float) -> float:
        return quality if perplexity else 1 - quality

    series = {"slc": [(row["mem_bytes"] / 1e6, shown(row["quality"])) for row in rows]}
    for key, name in NAMES.items():
        points = [
            (row["mem_bytes"] / 1e6, shown(row["alternatives"][key]["quality"]))
            for row in rows
            if key in row["alternatives"]
        ]
        if points:
            series[name] = points
    if perplexity:
        limit = WORST * min(value for points in series.values() for _, value in points)
        series = {
            name: kept for name, points in series.items()
            if (kept := [point for point in points if point[1] <= limit])
        }  # fmt: skip
    what = "perplexity" if perplexity else "1 - mean cosine"
    return Panel(f"{title}: {what}", "session, MB at most", series, log=True, marks=True)


if __name__ == "__main__":
    main()
