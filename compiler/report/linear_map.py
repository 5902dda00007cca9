"""The whole model at a glance: a cell for every Linear, darker where a weight takes more bits.

Columns are layers and rows the places in a layer, found from the numbers in the names; a model
without such a pattern has no map.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from slc.compiler.report.plot import NARROW, both_widths

LAYERS_MIN = 2
_CELL = 18  # pixels: height of a row
_BITS_LEAST, _BITS_MOST = 1.5, 32.0

Row = Mapping[str, Any]  # as inspect lists Linears


def linear_map(rows: Sequence[Row]) -> str:
    """The picture, "" where names have no layers."""
    places, layers = _grid(rows)
    if layers < LAYERS_MIN:
        return ""

    def draw(width: int) -> tuple[int, list[str]]:
        inside = width > NARROW
        left = 190 if inside else 4  # a phone's rows have their names above them
        step = _CELL if inside else _CELL + 16
        parts = []
        across = (width - left - 4) / layers
        for i, (name, cells) in enumerate(places.items()):
            top = i * step + (0 if inside else 16)
            parts.append(_name(name, left, top, inside))
            parts += [_cell(row, left + n * across, top, across) for n, row in cells.items()]
        bottom = len(places) * step
        parts += [
            f"<text x='{left + (n + 0.5) * across:.1f}' y='{bottom + 16}' text-anchor='middle'>"
            f"{n}</text>"
            for n in _numbered(layers, inside)
        ]
        return bottom + 22, parts

    return both_widths(draw, "bits per weight of every Linear, by layer")


def _numbered(layers: int, wide: bool) -> range:
    """Which layers have their number below."""
    return range(0, layers, max(1, math.ceil(layers / (20 if wide else 8))))


def _grid(rows: Sequence[Row]) -> tuple[dict[str, dict[int, Row]], int]:
    """{place in a layer: {layer: Linear}} of what repeats, and how many layers there are."""
    places: dict[str, dict[int, Row]] = {}
    for row in rows:
        match = re.search(r"(?<![A-Za-z0-9])(\d+)(?![A-Za-z0-9])", row["name"])
        if match:
            place = f"{row['name'][: match.start()]}*{row['name'][match.end() :]}"
            places.setdefault(place, {})[int(match[1])] = row
    places = {name: cells for name, cells in places.items() if len(cells) >= LAYERS_MIN}
    layers = 1 + max((n for cells in places.values() for n in cells), default=-1)
    return _shortened(places), layers


def _shortened(places: dict[str, dict[int, Row]]) -> dict[str, dict[int, Row]]:
    """Names without what all of them share up to the layer's number and at the end."""
    tails = {name: name.split("*", 1)[1].strip("./_") for name in places}
    if len(set(tails.values())) < len(places) or not all(tails.values()):
        return places
    ends = [tail.split(".")[-1].split("/")[-1] for tail in tails.values()]
    common = ends[0] if len(set(ends)) == 1 and len(ends) > 1 else ""
    return {tails[name].removesuffix(common).strip("./_"): cells for name, cells in places.items()}


def shade(bits: float) -> float:
    """How dark, 0.08 to 1, for a number of bits on a logarithmic scale."""
    least, most = math.log(_BITS_LEAST), math.log(_BITS_MOST)
    part = (math.log(min(max(bits, _BITS_LEAST), _BITS_MOST)) - least) / (most - least)
    return 0.08 + 0.92 * part


def _name(name: str, left: float, top: float, beside: bool) -> str:
    if beside:
        shown = name if len(name) <= 26 else "…" + name[-25:]
        x, y, anchor = left - 8, top + 13, "end"
    else:
        shown, x, y, anchor = name, left, top - 4, "start"
    return f"<text x='{x}' y='{y}' text-anchor='{anchor}'>{escape(shown)}</text>"


def _cell(row: Row, x: float, y: float, width: float) -> str:
    hint = f"{row['name']}: {row['encoding']}, {row['bits_per_weight']:.2f} bits per weight"
    gap = min(1.0, width / 8)
    return (
        f"<rect class='hover' x='{x:.2f}' y='{y + 1}' width='{width - gap:.2f}' "
        f"height='{_CELL - 2}' fill='var(--accent)' "
        f"fill-opacity='{shade(row['bits_per_weight']):.2f}'>"
        f"<title>{escape(hint)}</title></rect>"
    )
