"""Predicted against measured: memory, time, error. What was not measured says how to."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from slc.compiler.budget.sizes import format_size
from slc.compiler.report.latency import NAMES, format_ms, percentiles, timed
from slc.compiler.report.page import table

Json = Mapping[str, Any]

# What `slc export` promises of its memory (design: predicted within 3 % or 5 MB of measured).
MEMORY_PART, MEMORY_BYTES = 0.03, 5_000_000
_NOT_YET = "<span class='note'>not measured yet</span>"


def comparison(manifest: Json, measured: Json) -> str:
    """One row per quantity: predicted, measured, how far apart, what that means."""
    rows = [memory_row(manifest["memory"], measured.get("verify", {}).get("memory"))]
    predicted = manifest.get("predicted") or {}
    latency = timed(measured.get("latency"))
    if predicted.get("us_per_token") is not None or "decode" in latency:
        rows.append(_time_row(predicted, latency.get("decode")))
    elif latency:
        name, one = next(iter(latency.items()))
        median = format_ms(percentiles(one).get(50))
        note = "only decoders have a predicted speed"
        rows.append((escape(NAMES.get(name, name)), "", median, "", note))
    rows.append(_error_row(manifest, predicted, measured.get("verify", {})))
    return table(("", "predicted", "measured", "difference", ""), rows, text=(0, 4), stacked=True)


def memory_row(memory: Json, check: Json | None) -> tuple[str, ...]:
    """Of the session."""
    predicted, budget = memory["predicted_bytes"], memory["budget_bytes"]
    if not check:
        how = "<code>slc verify ARTIFACT</code> measures it"
        return ("session memory", format_size(predicted), _NOT_YET, "", how)
    size = check["measured_bytes"]
    apart = abs(predicted - size)
    verdicts = []
    if budget is not None:
        within = size <= budget
        verdicts.append(
            f"<span class='{'good' if within else 'bad'}'>{'within' if within else 'over'} the "
            f"budget of {format_size(budget)}</span>"
        )
    if apart > max(MEMORY_BYTES, MEMORY_PART * size):
        verdicts.append("<span class='warn'>prediction off by more than 3 % and 5 MB</span>")
    else:
        verdicts.append("<span class='good'>predicted within 3 % or 5 MB</span>")
    return (
        "session memory", format_size(predicted), format_size(size),
        f"{(size - predicted) / max(predicted, 1):+.1%}", ", ".join(verdicts),
    )  # fmt: skip


def _time_row(predicted: Json, timed: Json | None) -> tuple[str, ...]:
    us = predicted.get("us_per_token")
    guess = "" if us is None else format_ms(us / 1000)
    at = predicted.get("context")
    where = "" if at is None else f"predicted with {at} tokens in the cache"
    got = None if timed is None else percentiles(timed).get(50)
    if got is None:
        how = "<code>slc bench ARTIFACT</code> measures it"
        return ("one token", guess, _NOT_YET, "", f"{where}; {how}" if where else how)
    apart = "" if us is None else f"{(got - us / 1000) / (us / 1000):+.1%}"
    return ("one token, median", guess, format_ms(got), apart, where)


def _error_row(manifest: Json, predicted: Json, verify: Json) -> tuple[str, ...]:
    """The model's error. Both are relative squared errors of an encoder's output."""
    error, what = predicted_error(manifest), "error of the output"
    guess = "" if error is None else f"{error:.3g}"
    distances = [d for d in verify.get("distances", []) if d.get("against") == "original"]
    if not distances:
        how = "<code>slc verify ARTIFACT --reference MODEL</code> measures it"
        return (what, guess, _NOT_YET, "", how)
    worst = max(distances, key=lambda d: number(d.get("relative_squared_error")))
    cosine = min(number(d["cosine"]) for d in distances)
    note = f"worst output of {len(distances)}, on random inputs; cosine at least {cosine:.5f}"
    if manifest["source"]["kind"] == "decoder":
        what, note = "error", f"predicted: divergence of the next token in nats; measured: {note}"
    return (what, guess, f"{number(worst.get('relative_squared_error')):.3g}", "", note)


def predicted_error(manifest: Json) -> float | None:
    """Of the model's output: the Linears' added up, None where any is unknown."""
    errors = [linear["choice"].get("error") for linear in manifest["linears"]]
    if not errors or any(error is None for error in errors):
        return None
    return float(sum(errors))


def number(value: Any) -> float:
    """A JSON number, or one that JSON can't hold and that stands as text ("inf")."""
    return float("nan") if value is None else float(value)
