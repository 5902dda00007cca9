"""results.json, the plots and the tables of a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from examples.line_chart import Panel, svg
from examples.salaad_pretrain.train import read_log

RESULTS, TRAINING, SPECTRUM = "results.json", "training.svg", "spectrum.svg"
SMOOTH = 20  # steps whose losses are averaged for the curve


def write_report(out: Path) -> str:
    """Writes results.json and both plots into `out`, and gives the tables as Markdown.

    Args:
      out: holds what the run left: dense/log.jsonl, salaad/log.jsonl, training.json,
        spectrum.json, engines.json and, where decode was timed, decode.json.
    """
    results = {
        name: _read(out / f"{name}.json")
        for name in ("training", "spectrum", "engines", "decode")
        if (out / f"{name}.json").exists()
    }
    if "decode" in results:
        results["decode"] = _decode(results["decode"])
    logs = {name: read_log(out / name / "log.jsonl") for name in ("dense", "salaad")}
    (out / TRAINING).write_text(svg(_training_panels(logs, results["training"])), "utf-8")
    (out / SPECTRUM).write_text(svg(_spectrum_panels(results)), "utf-8")
    (out / RESULTS).write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    tables = [_training_table(results["training"]), _spectrum_table(results["spectrum"])]
    return "\n\n".join([*tables, _engine_table(results["engines"], results.get("decode", {}))])


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _decode(document: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second of each engine, and the machine."""
    keep = ("decode_tokens_per_s_median", "decode_tokens_per_s_best_tenth")
    rows = document["engines"]
    return {
        "machine": document["machine"],
        "engines": {name: {key: row[key] for key in keep} for name, row in rows.items()},
    }


def _training_panels(
    logs: dict[str, list[dict[str, Any]]], training: dict[str, Any]
) -> list[Panel]:
    held_out = {
        "dense": _curve(logs["dense"], "held_out"),
        "SALAAD, X": _curve(logs["salaad"], "held_out"),
        "SALAAD, L + S": _curve(logs["salaad"], "surrogate"),
    }
    losses = {
        "dense": _smooth(_curve(logs["dense"], "loss")),
        "SALAAD": _smooth(_curve(logs["salaad"], "loss")),
    }
    rows = [row for row in logs["salaad"] if "structure" in row]

    def mean(name: str) -> list[tuple[float, float]]:
        return [(row["step"], row["structure"][name]) for row in rows]

    settings = training["settings"]
    return [
        Panel("training loss", "step", losses, log=True),
        Panel("held-out perplexity", "step", held_out, log=True),
        Panel("‖X − L − S‖ / ‖X‖", "step", {"mean of blocks": mean("residual")}),
        Panel(
            "effective rank / min(N, K)", "step", {"mean of blocks": mean("rank_ratio")},
            levels={"target": settings["target_rank"]},
        ),
        Panel(
            "density of S", "step", {"mean of blocks": mean("density")},
            levels={"target": settings["target_density"]},
        ),
        Panel("α and β", "step", {"α": mean("alpha"), "β": mean("beta")}, log=True),
    ]  # fmt: skip


def _spectrum_panels(results: dict[str, Any]) -> list[Panel]:
    rows = results["spectrum"]
    curves = {
        "in torch, f32": [(row["weight_bytes"] / 1e6, row["torch"]) for row in rows],
        "in onnxruntime, f16": [(row["weight_bytes"] / 1e6, row["onnxruntime"]) for row in rows],
    }
    dense = {"dense model": results["training"]["dense"]["perplexity"]}
    by_parameters = {"L + S": [(row["parameters"] / 1e6, row["torch"]) for row in rows]}
    return [
        Panel("held-out perplexity", "weights, MB", curves, log=True, levels=dense, marks=True),
        Panel(
            "held-out perplexity", "million parameters of L and S", by_parameters, log=True,
            levels=dense, marks=True,
        ),
    ]  # fmt: skip


def _curve(rows: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if name in row]


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of SMOOTH points in a row."""
    groups = [points[i : i + SMOOTH] for i in range(0, len(points), SMOOTH)]
    return [
        (group[-1][0], sum(value for _, value in group) / len(group)) for group in groups if group
    ]


def _training_table(training: dict[str, Any]) -> str:
    dense, salaad = training["dense"], training["salaad"]

    def change(value: float) -> str:
        return f"{100 * (value / dense['perplexity'] - 1):+.1f} %"

    def span(name: str) -> str:
        values = [block[name] for block in salaad["blocks"]]
        return f"{sum(values) / len(values):.3f} ({min(values):.3f} … {max(values):.3f})"

    lines = [
        "| model | held-out perplexity | against dense | rank / min(N, K) | density |",
        "|---|---|---|---|---|",
        f"| dense AdamW | {dense['perplexity']:.2f} | | | |",
        f"| SALAAD, X | {salaad['vanilla']:.2f} | {change(salaad['vanilla'])} | | |",
        f"| SALAAD, L + S | {salaad['surrogate']:.2f} | {change(salaad['surrogate'])} | "
        f"{span('rank_ratio')} | {span('density')} |",
    ]
    return "\n".join(lines)


def _spectrum_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| --mem, bytes | weights, bytes | parameters of L, S | torch | onnxruntime | difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        off = 100 * (row["onnxruntime"] / row["torch"] - 1)
        lines.append(
            f"| {row['budget_bytes']:,} | {row['weight_bytes']:,} | {row['parameters']:,} | "
            f"{row['torch']:.2f} | {row['onnxruntime']:.2f} | {off:+.2f} % |"
        )
    return "\n".join(lines)


def _engine_table(engines: list[dict[str, Any]], decode: dict[str, Any]) -> str:
    lines = [
        "| artifact | weights, bytes | perplexity | decode, tok/s: median, best tenth |",
        "|---|---|---|---|",
    ]
    speeds = decode.get("engines", {})
    for row in engines:
        speed = speeds.get(row["name"])
        told = "" if speed is None else (
            f"{speed['decode_tokens_per_s_median']:.0f}, "
            f"{speed['decode_tokens_per_s_best_tenth']:.0f}"
        )  # fmt: skip
        lines.append(
            f"| {row['title']} | {row['weight_bytes']:,} | {row['perplexity']:.2f} | {told} |"
        )
    return "\n".join(lines)
