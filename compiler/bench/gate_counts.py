"""Gate A: nothing that can be counted may grow. Deterministic, for any machine, without tolerance.

Rules, each a `Finding` with the names of what grew, the largest first:
  files, initializers, read, memory   the total grew (bytes);
  ops.NAME                            more nodes of that operator;
  dense                               a Linear is dense that is not dense in the base;
  undeclared                          the graph has a dense Linear that its own manifest does not
                                      list: the one rule that needs no base.
Growth that is meant is allowed by the name of the rule: `--allow ops.MatMul`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from slc.compiler.bench.counts import Counts
from slc.compiler.budget.sizes import format_size
from slc.compiler.errors import RequestError

_TOTALS = {
    "files": "artifact bytes",
    "initializers": "initializer bytes",
    "read": "bytes read per token",
    "memory": "planned session memory",
}
_NAMES_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that grew.

    Attributes:
      rule: of the module's list.
      base: bytes or a count; None where there is no base.
      head: likewise.
      names: of what grew, the largest growth first, each with its growth: ("q.packed", 4096).
      what: in words.
    """

    rule: str
    base: int | None
    head: int
    names: tuple[tuple[str, int], ...]
    what: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "rule": self.rule,
            "base": self.base,
            "head": self.head,
            "names": [{"name": name, "grew": grew} for name, grew in self.names],
            "what": self.what,
        }


def check_counts(base: Counts | None, head: Counts, allow: Collection[str] = ()) -> list[Finding]:
    """Everything that grew from `base` to `head`; without a base only what is undeclared.

    Args:
      base: what is held to be good.
      head: what is judged.
      allow: rules whose findings are left out, e.g. "files" or "ops.MatMul".

    Raises:
      RequestError: `allow` names no rule.
    """
    rules = {*_TOTALS, "dense", "undeclared"}
    for name in allow:
        if name not in rules and not name.startswith("ops."):
            raise RequestError(
                f"--allow: got {name!r}, wanted one of {', '.join(sorted(rules))} or ops.OPERATOR"
            )
    found = [] if base is None else [*_totals(base, head), *_ops(base, head), *_dense(base, head)]
    if head.undeclared:
        names = tuple((name, 1) for name in head.undeclared)
        what = f"dense in the graph and not in the manifest's list: {_listed(names, sized=False)}"
        found.append(Finding("undeclared", None, len(names), names, what))
    return [finding for finding in found if finding.rule not in allow]


def _totals(base: Counts, head: Counts) -> list[Finding]:
    found = []
    for rule, title in _TOTALS.items():
        was, now = getattr(base, rule), getattr(head, rule)
        before, after = sum(was.values()), sum(now.values())
        if after <= before:
            continue
        names = _grown(was, now)
        if rule in ("initializers", "read", "files"):
            names = (*_grown(base.linears, head.linears), *names)
        by = format_size(after - before)
        what = f"{title} grew by {by}, to {format_size(after)}: {_listed(names)}"
        found.append(Finding(rule, before, after, names, what))
    return found


def _ops(base: Counts, head: Counts) -> list[Finding]:
    found = []
    for op, now in head.ops.items():
        before = base.ops.get(op, 0)
        if now > before:
            what = f"{now} nodes of {op} instead of {before}"
            found.append(Finding(f"ops.{op}", before, now, ((op, now - before),), what))
    return found


def _dense(base: Counts, head: Counts) -> list[Finding]:
    fell = [name for name in head.dense if name not in base.dense]
    if not fell:
        return []
    names = tuple(
        (name, head.linears[name] - base.linears.get(name, 0))
        for name in sorted(fell, key=lambda n: -head.linears[n])
    )
    reasons = ", ".join(sorted({head.dense[name] for name in fell}))
    what = f"{len(fell)} more Linears dense ({reasons}): {_listed(names)}"
    return [Finding("dense", len(base.dense), len(head.dense), names, what)]


def _grown(was: Mapping[str, int], now: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    grown = [(name, size - was.get(name, 0)) for name, size in now.items()]
    return tuple(sorted((g for g in grown if g[1] > 0), key=lambda g: (-g[1], g[0])))


def _listed(names: tuple[tuple[str, int], ...], *, sized: bool = True) -> str:
    """The first few, each with the bytes that it grew by."""
    shown = [
        f"{name} +{format_size(grew)}" if sized else name for name, grew in names[:_NAMES_SHOWN]
    ]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
