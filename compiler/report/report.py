"""`slc report`: one page on an artifact, with everything inside.

What is shown is what the manifest says and what was measured; whatever is missing says which
command would give it. The page is made of those files alone: the same files, the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.inspect import linear_rows
from slc.compiler.artifact.manifest import MANIFEST_FILE, MEASURED_FILE, REPORT_FILE, sha256
from slc.compiler.artifact.measured import merged, read_measured
from slc.compiler.budget.frontier import Point
from slc.compiler.budget.sizes import format_size
from slc.compiler.errors import RequestError
from slc.compiler.report.budget_bar import budget_bar
from slc.compiler.report.checks import checks_section, verdict
from slc.compiler.report.comparison import comparison, predicted_error
from slc.compiler.report.frontier_chart import Mark, chart
from slc.compiler.report.frontier_file import read_frontier
from slc.compiler.report.frontier_page import frontier_table
from slc.compiler.report.latency import NAMES, format_ms, latency_section, percentiles, timed
from slc.compiler.report.linear_map import linear_map
from slc.compiler.report.linears_table import choices_table, refusals_table
from slc.compiler.report.page import document
from slc.compiler.report.provenance import provenance

Json = Mapping[str, Any]


def write_report(
    path: Path | str,
    out: Path | str | None = None,
    *,
    frontier: Path | str | None = None,
    measured: Sequence[Path | str] = (),
    force: bool = False,
) -> Path:
    """Writes the page of the artifact at `path` and returns where it is.

    Args:
      path: what `slc export` wrote.
      out: the file to write; None: report.html in the artifact, which is made anew each time.
      frontier: what `slc frontier --json` printed.
      measured: files of `slc verify --output` and `slc bench --output`, later ones over earlier
        ones and all over the artifact's own measured.json.
      force: replace a file at `out`.

    Raises:
      ArtifactError: the artifact or its measured.json can't be read.
      RequestError: a file that was named can't be read, is of another artifact or can't be written.
    """
    artifact = Artifact.open(path)
    digest = sha256(artifact.path / MANIFEST_FILE)
    found = read_measured(artifact.path / MEASURED_FILE, digest, missing_ok=True)
    for name in measured:
        found = merged(found, read_measured(Path(name), digest))
    points = None if frontier is None else read_frontier(Path(frontier), artifact.manifest)
    text = render(artifact.manifest, found, points, digest)
    destination = artifact.path / REPORT_FILE if out is None else Path(out)
    if out is not None and destination.exists() and (destination.is_dir() or not force):
        raise RequestError(f"{out} exists already: choose another name or pass --force")
    try:
        temporary = destination.with_name(f".{destination.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(destination)
    except OSError as error:
        raise RequestError(
            f"{destination}: got a place that can't be written to ({error.strerror}), wanted a "
            "file in a folder that can; name one with -o FILE"
        ) from error
    return destination


def render(
    manifest: Json, measured: Json, points: Sequence[Point] | None, manifest_sha256: str
) -> str:
    """The page.

    Args:
      manifest: of the artifact.
      measured: of measured.json; {} where nothing was measured.
      points: the frontier of the model, None when there is none.
      manifest_sha256: hex.
    """
    sections = [
        ("memory", "Memory", _memory(manifest, measured)),
        ("predicted", "Predicted and measured", [comparison(manifest, measured)]),
        ("linears-section", "Linears", _linears(manifest, measured)),
        ("refusals", "Left as it was", refusals_table(manifest["linears"], manifest["refusals"])),
        ("frontier", "Frontier", _frontier(manifest, points)),
        ("latency", "Latency", latency_section(measured.get("latency"))),
        ("checks", "Checks", checks_section(measured.get("verify"))),
        ("provenance", "Provenance", provenance(manifest, manifest_sha256)),
    ]
    source, device = manifest["source"]["name"], manifest["device"]["name"]
    title = f"{source} for {device}"
    links = "".join(f"<a href='#{key}'>{head}</a>" for key, head, _ in sections)
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f"<p class='status'>{verdict(measured.get('verify'))} <span class='note'>"
        f"{escape(manifest['source']['kind'])}, {escape(manifest['provider'])} provider, "
        f"slc {escape(manifest['versions']['slc'])}</span></p>",
        _tiles(manifest, measured),
        f"<nav aria-label='sections'>{links}</nav></header>\n<main>",
    ]
    for key, head, parts in sections:
        body += [f"<section id='{key}'><h2>{head}</h2>", *parts, "</section>"]
    return document(title, [*body, "</main>"], styles=["report.css"], script="report.js")


def _tiles(manifest: Json, measured: Json) -> str:
    """The figures that one looks for first."""
    memory, rows = manifest["memory"], linear_rows(manifest)
    taken = measured.get("verify", {}).get("memory")
    size = taken["measured_bytes"] if taken else memory["predicted_bytes"]
    budget = memory["budget_bytes"]
    limit = "no budget" if budget is None else f"of {format_size(budget)}"
    weights, places = sum(r["bytes"] for r in rows), sum(r["N"] * r["K"] for r in rows)
    kept = sum(row["encoding"] == "dense" for row in rows)
    tiles = [
        ("session memory", format_size(size), f"{'measured' if taken else 'predicted'}, {limit}"),
        ("weights", format_size(weights), f"{8 * weights / max(places, 1):.2f} bits per weight"),
        ("Linears", str(len(rows)), f"{len(rows) - kept} compressed, {kept} left dense"),
    ]
    error = predicted_error(manifest)
    if error is not None:
        tiles.append(("predicted error", f"{error:.3g}", "of the output, Linears added up"))
    tiles += _speed(manifest, measured)
    inside = "".join(
        f"<div><dt>{name}</dt><dd class='figure'>{figure}</dd><dd class='note'>{note}</dd></div>"
        for name, figure, note in tiles
    )
    return f"<dl class='tiles'>{inside}</dl>"


def _speed(manifest: Json, measured: Json) -> list[tuple[str, str, str]]:
    """Of a token, else of the first thing that was timed, else as predicted."""
    latency = timed(measured.get("latency"))
    for key in ("decode", *latency):
        values = percentiles(latency.get(key, {}))
        if 50 in values:
            p90 = f", p90 {format_ms(values[90])}" if 90 in values else ""
            name = escape(NAMES.get(key, key))
            return [(name, format_ms(values[50]), f"measured median{p90}")]
    us = (manifest.get("predicted") or {}).get("us_per_token")
    return [] if us is None else [("one token", format_ms(us / 1000), "predicted")]


def _memory(manifest: Json, measured: Json) -> list[str]:
    taken = measured.get("verify", {}).get("memory")
    options = manifest["options"]
    return [
        "<p>What a session adds to the process that loads it, at "
        f"{options.get('context') or 1} tokens and a batch of {options.get('batch') or 1}.</p>",
        *budget_bar(manifest["memory"], taken and taken["measured_bytes"]),
    ]


def _linears(manifest: Json, measured: Json) -> list[str]:
    drift = measured.get("verify", {}).get("linear_distances", [])
    moved = {one["linear"]: float(one["relative_error"]) for one in drift}
    parts = []
    if picture := linear_map(linear_rows(manifest)):
        parts += [
            "<p>Bits per weight by layer: the darker, the more. Point at a cell for figures.</p>",
            picture,
        ]
    told = []
    choices = [linear["choice"] for linear in manifest["linears"]]
    if any(choice.get("error") is not None for choice in choices):
        told.append("error: what the Linear is predicted to add to the output's")
    if any(choice.get("us") is not None for choice in choices):
        told.append("µs: predicted, of a token on the device")
    if moved:
        told.append(
            "drift: how far its output was measured from the original model's, "
            "‖ours − original‖ / ‖original‖, with all that came before"
        )
    if told:
        parts.append(f"<p class='note'>{escape('; '.join(told))}.</p>")
    return [*parts, *choices_table(manifest["linears"], moved)]


def _frontier(manifest: Json, points: Sequence[Point] | None) -> list[str]:
    if points is None:
        name = escape(manifest["device"]["name"])
        return [
            "<p class='note'>Not drawn: a frontier is of a checkpoint and a device. "
            f"<code>slc frontier MODEL.slr --device {name} -o FILE.html --json &gt; FILE.json"
            "</code>, then <code>slc report ARTIFACT --frontier FILE.json</code>.</p>"
        ]
    mark = Mark(manifest["memory"]["predicted_bytes"], predicted_error(manifest))
    return [
        f"<p>Predicted error over session bytes at {len(points)} budgets, and this artifact. "
        "Lower is better.</p>",
        chart(points, mark),
        f"<details><summary>The figures</summary>{frontier_table(points)}</details>",
    ]
