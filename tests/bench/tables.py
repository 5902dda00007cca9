"""Ratios between the candidates of one shape, and the table that a person reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

from operators import DENSE
from timing import Candidate, Timing

SCALING_HEAD = "speed-up of the fastest tenth / of the median"


def add_ratios(rows: Sequence[Timing], candidates: Sequence[Candidate]) -> None:
    """Fills in how many times faster and smaller than the dense operators each row is."""
    dense = next((row for row in rows if row.name == DENSE), None)
    for row, candidate in zip(rows, candidates, strict=True):
        if dense is not None:
            row.matmul_ratio = dense.fastest_tenth_us / row.fastest_tenth_us
            row.matmul_ratio_median = dense.median_us / row.median_us
        best = best_nbits(rows, candidate.nbits)
        if best is not None:
            row.nbits_ratio = best.fastest_tenth_us / row.fastest_tenth_us
            row.nbits_bytes_ratio = row.weight_bytes / best.weight_bytes


def best_nbits(rows: Sequence[Timing], bits: int) -> Timing | None:
    """The fastest MatMulNBits of that many bits, whatever its block."""
    found = [row for row in rows if re.match(rf"MatMulNBits-{bits} ", row.name)]
    return min(found, key=lambda row: row.fastest_tenth_us, default=None)


def print_rows(title: str, rows: Sequence[Timing]) -> None:
    """One line a candidate; ratios above 1 are in its favour, but for the bytes."""
    with_ratios = rows[0].matmul_ratio is not None
    print(f"\n{title}")
    heads = "".join(
        f"{head:>{width}}"
        for head, width in (
            ("MB", 8), ("median us", 11), ("tenth us", 11), ("Gw/s", 8), ("GB/s", 7), ("roof", 6),
        )
    )  # fmt: skip
    ratios = f"{'x MatMul':>10}{'(median)':>9}{'x NBits':>9}{'bytes':>7}" if with_ratios else ""
    width = max(len(row.name) for row in rows) + 1
    print(f"{'':{width}}{heads}{ratios}")
    for row in rows:
        print(
            f"{row.name:{width}}{row.weight_bytes / 1e6:8.2f}{row.median_us:11.1f}"
            f"{row.fastest_tenth_us:11.1f}{row.gw_s:8.2f}{row.gb_s:7.2f}{row.roofline_share:6.2f}"
            + (_ratio_cells(row) if with_ratios else ""),
            flush=True,
        )


def _ratio_cells(row: Timing) -> str:
    cells = f"{row.matmul_ratio:10.2f}{row.matmul_ratio_median:9.2f}"
    if row.nbits_ratio is not None:
        cells += f"{row.nbits_ratio:9.2f}{row.nbits_bytes_ratio:7.2f}"
    return cells


def print_scaling(documents: dict[int, dict[str, object]]) -> None:
    """The same candidates at several thread counts, each beside the first."""
    first, *others = documents
    for at, shape in enumerate(documents[first]["shapes"]):
        print(f"\nM N K density = {shape['shape']}: {SCALING_HEAD}, against {first} thread(s)")
        print(f"{'':34}{'tenth us':>11}" + "".join(f"{f'{t} threads':>16}" for t in others))
        for row in shape["operators"]:
            cells = [f"{row['name']:34}{row['fastest_tenth_us']:11.1f}"]
            for threads in others:
                rows = documents[threads]["shapes"][at]["operators"]
                other = next((r for r in rows if r["name"] == row["name"]), None)
                if other is not None:
                    tenth = row["fastest_tenth_us"] / other["fastest_tenth_us"]
                    median = row["median_us"] / other["median_us"]
                    cells.append(f"{tenth:9.2f} / {median:.2f}")
            print("".join(cells))
