"""The table and the plot of a comparison, from what it left in its folder."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from examples.salr_finetune.methods import METHODS
from examples.salr_finetune.tagger import difference, f1

RESULTS, PLOT = "results.json", "f1.svg"
_LEFT, _WIDTH, _ROW = 330, 860, 40


def write_report(out: Path) -> str:
    """Writes results.json and f1.svg beside the counts and gives the table as Markdown."""
    results = _results(out)
    (out / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / PLOT).write_text(svg(results["methods"]), encoding="utf-8")
    lines = ["| method | F1 | per seed | against LoRA (95 %) | CPU s |", "|---|---|---|---|---|"]
    for row in results["methods"]:
        seeds = ", ".join(f"{value:.1f}" for value in row["f1_per_seed"])
        against = "" if row["name"] == "lora" else _interval(row)
        lines.append(
            f"| {row['title']} | {row['f1']:.1f} | {seeds} | {against} | {row['seconds']:.0f} |"
        )
    if "sizes" in results:
        lines += ["", *_size_lines(results["sizes"])]
    if "theorem" in results:
        lines += ["", *_theorem_lines(results["theorem"])]
    return "\n".join(lines)


def _size_lines(sizes: dict[str, Any]) -> list[str]:
    lines = ["| Linears | dense f16, bytes | S, bytes | S / dense |", "|---|---|---|---|"]
    shapes = {f"{row['linears']} of {shape}": row for shape, row in sizes["shapes"].items()}
    both = ("dense_f16", "sparse")
    shapes["all"] = {key: sum(row[key] for row in sizes["shapes"].values()) for key in both}
    for title, row in shapes.items():
        dense, sparse = (row[key] for key in both)
        lines.append(f"| {title} | {dense:,} | {sparse:,} | {sparse / dense:.4f} |")
    dense, sparse = (shapes["all"][key] for key in both)
    total = sparse + sizes["adapters"]
    lines.append(f"| with adapters | {dense:,} | {total:,} | {total / dense:.4f} |")
    return lines


def _theorem_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| matrix | mask removes | the SVD leaves | bound |", "|---|---|---|---|"]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["name"].partition(".layer.")[2].partition(".")[2], []).append(row)
    for kind, found in kinds.items():
        masked, left = (_span([row[key] for row in found]) for key in ("masked", "left"))
        lines.append(f"| {kind} × {len(found)} | {masked} | {left} | {found[0]['bound']:.4f} |")
    return lines


def _span(values: list[float]) -> str:
    return f"{min(values):.4f} … {max(values):.4f}"


def _results(out: Path) -> dict[str, Any]:
    runs: dict[str, list[Any]] = {}
    for name in METHODS:
        found = [np.load(path) for path in sorted(out.glob(f"{name}-*.npz"))]
        if found:
            runs[name] = found
    rows = []
    for name, files in runs.items():
        counts = [file["torch"] for file in files]
        rows.append(_row(name, METHODS[name].title, files, counts, runs))
        if all("onnxruntime" in file for file in files):
            counts = [file["onnxruntime"] for file in files]
            title = "the same, exported, in onnxruntime"
            rows.append(_row(f"{name}-onnxruntime", title, files, counts, runs))
    results: dict[str, Any] = {"passages": len(rows[0]["counts"]), "methods": rows}
    results["marks"] = int(sum(count[2] for count in rows[0]["counts"]))
    for row in rows:
        del row["counts"]
    for name in ("sizes", "theorem"):
        if (out / f"{name}.json").is_file():
            results[name] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    return results


def _row(
    name: str, title: str, files: list[Any], counts: list[Any], runs: dict[str, list[Any]]
) -> dict[str, Any]:
    lora = [file["torch"] for file in runs.get("lora", [])]
    row: dict[str, Any] = {
        "name": name,
        "title": title,
        "f1": float(np.mean([f1(c) for c in counts])),
        "f1_per_seed": [f1(c) for c in counts],
        "seconds": float(np.mean([float(file["seconds"]) for file in files])),
        "counts": counts[0].tolist(),
    }
    if len(lora) == len(counts):
        row["against_lora"] = difference(counts, lora)
    return row


def _interval(row: dict[str, Any]) -> str:
    if "against_lora" not in row:
        return ""
    mean, low, high = row["against_lora"]
    return f"{mean:+.2f} ({low:+.2f} … {high:+.2f})"


def svg(rows: list[dict[str, Any]]) -> str:
    """Bars of F1, one for each method, a dot for each seed, and LoRA's F1 as a line.

    Whiskers are the interval of the difference from LoRA, which is what the comparison rests on.
    """
    height = 60 + _ROW * len(rows)
    lora = next((row["f1"] for row in rows if row["name"] == "lora"), 0.0)
    right = max(10.0, max(max(row["f1_per_seed"]) for row in rows) * 1.1)

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 70) * value / right

    parts = []
    for at, row in enumerate(rows):
        y = 30 + _ROW * at
        parts.append(
            f'<rect x="{_LEFT}" y="{y}" width="{x(row["f1"]) - _LEFT:.1f}" height="22" '
            f'fill="{"#0072b2" if row["name"].startswith("salr") else "#9bb8cc"}"/>'
        )
        if "against_lora" in row and row["name"] != "lora":
            low, high = (x(lora + bound) for bound in row["against_lora"][1:])
            parts.append(
                f'<path d="M{low:.1f} {y + 11}H{high:.1f}M{low:.1f} {y + 6}v10M{high:.1f} {y + 6}'
                f'v10" stroke="#222"/>'
            )
        parts += [
            f'<circle cx="{x(value):.1f}" cy="{y + 11}" r="3" fill="#222"/>'
            for value in row["f1_per_seed"]
        ]
        parts.append(_text(_LEFT - 8, y + 15, row["title"], "end"))
        parts.append(_text(x(max(row["f1_per_seed"])) + 8, y + 15, f"{row['f1']:.1f}", "start"))
        if row["name"] == "lora":
            parts.append(
                f'<line x1="{x(row["f1"]):.1f}" y1="20" x2="{x(row["f1"]):.1f}" '
                f'y2="{height - 30}" stroke="#d55e00" stroke-dasharray="5 4"/>'
            )
    parts.append(
        _text(
            _LEFT,
            height - 10,
            "F1 of the marks put back, %; dots: seeds; whiskers: 95 % of the difference from LoRA",
            "start",
        )
    )
    body = "\n".join([f'<rect width="{_WIDTH}" height="{height}" fill="white"/>', *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="sans-serif">\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="13" fill="#222">'
        f"{escape(text)}</text>"
    )
