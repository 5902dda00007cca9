"""What `slc verify` found on a machine, for people."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from slc.compiler.report.comparison import number
from slc.compiler.report.page import table

Json = Mapping[str, Any]

ROWS_MAX = 24  # of the operators; the worst ones first


def checks_section(verify: Json | None) -> list[str]:
    """Every kind of check with its verdict, then the figures."""
    if not verify:
        return [
            "<p class='note'>Not verified yet: <code>slc verify ARTIFACT</code> (with "
            "<code>--reference MODEL</code> against the original), then this page again.</p>"
        ]
    parts = [f"<p>{verdict(verify)} {_machine(verify.get('machine'))}</p>", _summary(verify)]
    for key, head, draw in (
        ("outputs", "Outputs against the same weights run densely", _outputs),
        ("distances", "Outputs against other graphs", _distances),
        ("linears", "Operators against f64, nearest to their bound first", _worst),
    ):
        if verify.get(key):
            parts.append(f"<details><summary>{head}</summary>{draw(verify)}</details>")
    return parts


def verdict(verify: Json | None) -> str:
    """A word or two, in HTML."""
    if not verify:
        return "<span class='warn'>not verified yet</span>"
    return _mark(verify.get("passed"), "verified: every check passed", "a check FAILED")


def _machine(machine: Json | None) -> str:
    if not machine:
        return ""
    known = [machine.get("description"), machine.get("platform")]
    known += [f"onnxruntime {machine['onnxruntime']}"] if machine.get("onnxruntime") else []
    return f"<span class='note'>on {escape(', '.join(str(k) for k in known if k))}</span>"


def _mark(passed: Any, good: str = "passed", bad: str = "FAILED") -> str:
    kind, text = ("good", f"✓ {good}") if passed else ("bad", f"✗ {bad}")
    return f"<span class='{kind} verdict'>{text}</span>"


def _summary(verify: Json) -> str:
    problems = verify.get("checksum_problems", [])
    rows = [("files", _mark(not problems), escape("; ".join(problems)) or "every sha256 equal")]
    outputs, linears = verify.get("outputs", []), verify.get("linears", [])
    if outputs:
        failed = sum(not o["passed"] for o in outputs)
        note = f"{len(outputs)} held against their tolerance, {failed} beyond it"
        rows.append(("outputs", _mark(not failed), note))
    if linears:
        failed = sum(not check["passed"] for check in linears)
        used = max(number(check["used"]) for check in linears)
        note = f"{len(linears)} held, {failed} beyond; the worst uses {used:.1%} of its bound"
        rows.append(("operators", _mark(not failed), note))
    if tokens := verify.get("tokens"):
        note = f"{tokens['equal']} of {len(tokens['tokens'])} equal to the dense graph's"
        rows.append(("greedy tokens", _mark(tokens["passed"]), note))
    if original := verify.get("original_tokens"):
        note = (
            f"{original['agreed']} of {len(original['tokens'])} of the original model's are chosen "
            f"too, the first {original['equal']} in a row"
        )
        rows.append(("the original's tokens", "reported", note))
    if memory := verify.get("memory"):
        rows.append(("memory", _mark(memory["passed"]), f"{memory['measured_bytes']:,} bytes"))
    return table(("", "", ""), rows, text=(0, 1, 2))


def _outputs(verify: Json) -> str:
    rows = [
        (
            f"<code>{escape(o['output'])}</code>", escape(o["probe"]), _power(o["max_error"]),
            _power(o["max_tolerance"]), _power(o["mean_error"]), _power(o["mean_tolerance"]),
            _mark(o["passed"]),
        )
        for o in verify["outputs"][:ROWS_MAX]
    ]  # fmt: skip
    heads = ("output", "inputs", "max error", "allowed", "mean error", "allowed", "")
    return table(heads, rows, text=(0, 1)) + _left_out(len(verify["outputs"]))


def _distances(verify: Json) -> str:
    rows = [
        (
            f"<code>{escape(d['output'])}</code>", escape(d["against"]), escape(d["probe"]),
            _power(d["max_error"]), _power(d["mean_error"]),
            _power(d.get("relative_squared_error")), f"{number(d['cosine']):.5f}",
        )
        for d in verify["distances"][:ROWS_MAX]
    ]  # fmt: skip
    heads = (
        "output", "against", "inputs", "max error", "mean error", "relative squared error", "cosine"
    )  # fmt: skip
    return table(heads, rows, text=(0, 1, 2)) + _left_out(len(verify["distances"]))


def _worst(verify: Json) -> str:
    checks = sorted(verify["linears"], key=lambda c: (c["passed"], -number(c["used"])))
    rows = [
        (
            f"<code>{escape(c['node'])}</code>", escape(c["op"]), str(c.get("accuracy_level", 1)),
            _power(c["max_error"]), _power(c["bound"]), f"{number(c['used']):.1%}",
            _mark(c["passed"]),
        )
        for c in checks[:ROWS_MAX]
    ]  # fmt: skip
    heads = ("node", "operator", "level", "max error", "bound", "used", "")
    return table(heads, rows, text=(0, 1)) + _left_out(len(checks))


def _power(value: Any) -> str:
    return "" if value is None else f"{number(value):.2e}"


def _left_out(count: int) -> str:
    if count <= ROWS_MAX:
        return ""
    return f"<p class='note'>and {count - ROWS_MAX} more: <code>measured.json</code> has them.</p>"
