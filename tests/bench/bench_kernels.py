"""Time every kernel of kernels.inc, and the sparse operator against onnxruntime's own.

    python tests/bench/bench_kernels.py [--shapes FILE...] [--threads 2] [--isa avx2] [--json FILE]
    python tests/bench/bench_kernels.py --densities 0.05,0.1,0.3,0.5,1 --plot ratio.svg
    python tests/bench/bench_kernels.py --scaling

A shape file holds a line "M N K density" a shape; with "full" for the density it is one of full
blobs. Kernels run on one thread through the test
library; operators run in sessions that share one pool of --threads threads. Weights are cold: equal
copies of twice the last cache take turns. The candidates of a shape are interleaved, in another
order every turn, so that a noisy neighbour hits them alike; the table gives the median and the
fastest tenth. Gw/s counts N*K weights a row of X; GB/s counts the bytes of the weights; "roof" is
the least time over the fastest tenth. The least time is that of the weights' bytes at the rate of a
streaming read measured beside it, or that of the same kernel on weights in the cache (for MatMul
with 4 rows or more: of a MatMul in the cache), whichever is longer. "x NBits" and "bytes" compare
with the fastest MatMulNBits (level 4) of as many bits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from kernel_level import floors, kernel_candidates
from machine import describe, l3_bytes
from native_kernels import NativeKernels, build
from operators import Sessions, operator_candidates
from plot import series_of, svg
from tables import add_ratios, print_rows, print_scaling
from timing import Candidate, ReadProbe, Timing, interleave, timing

ISAS = ("generic", "avx2", "avx512", "neon", "dotprod")
KERNEL_SECONDS_SHARE = 0.3
PARTS = ("kernels", "operators")
FULL = "full"


class Bench:
    """Everything that outlives one shape.

    Args:
      kernels: the test library.
      threads: of the operators.
      seconds: for each operator; a kernel gets KERNEL_SECONDS_SHARE of it.
      parts: which of PARTS to time. The kernels' floors come from the first.
    """

    def __init__(
        self, kernels: NativeKernels, threads: int, seconds: float, parts: tuple[str, ...]
    ) -> None:
        self._kernels, self._seconds, self._parts = kernels, seconds, parts
        self._make = Sessions(threads)
        self._probe = ReadProbe(l3_bytes())
        self._refused: dict[str, str] = {}
        self._machine = describe(threads=threads, shared_thread_pool=self._make.shared_pool)
        self._shapes: list[dict[str, Any]] = []

    def run(self, line: str) -> None:
        """Measures and prints the shape "M N K density"."""
        m, n, k, density = numbers(line)
        rng = np.random.default_rng(0)
        S = rng.standard_normal((n, k), np.float32)
        if density is not None:
            S *= rng.random((n, k), np.float32) < density
        shape: dict[str, Any] = {"shape": line, "m": m, "n": n, "k": k, "density": density}
        candidates = kernel_candidates(self._kernels, m, S, density, self._refuse)
        least = floors(candidates, m * n * k)
        if "kernels" in self._parts:
            shape["kernels"] = self._timed(line, candidates, 1, KERNEL_SECONDS_SHARE)
        del candidates
        if "operators" in self._parts:
            candidates = operator_candidates(self._make, m, S, density, least, self._refuse)
            shape["operators"] = self._timed(line, candidates, self._make.threads, 1.0)
        self._shapes.append(shape)

    def document(self) -> dict[str, Any]:
        """All that was measured, for JSON."""
        read = {str(threads): rate / 1e9 for threads, rate in self._probe.best.items()}
        return {
            "machine": self._machine,
            "read_gb_s": read,
            "not_offered": self._refused,
            "shapes": self._shapes,
        }

    def _refuse(self, name: str, error: Exception) -> None:
        if name not in self._refused:
            self._refused[name] = str(error).splitlines()[0] if str(error) else repr(error)
            print(f"{name} not offered: {self._refused[name]}")

    def _timed(
        self, line: str, candidates: list[Candidate], threads: int, share: float
    ) -> list[dict[str, Any]]:
        self._probe.bytes_per_s(threads)
        times = interleave(candidates, self._seconds * share)
        rate = self._probe.bytes_per_s(threads)
        rows: list[Timing] = [timing(c, times[c.name], rate) for c in candidates]
        add_ratios(rows, candidates)
        print_rows(
            f"M N K density = {line}; {threads} thread(s), memory {rate / 1e9:.1f} GB/s", rows
        )
        return [asdict(row) for row in rows]


def main() -> None:
    """Reads the options and runs every shape."""
    arguments = parse()
    lines = shape_lines(arguments)
    if arguments.isa:
        os.environ["SLC_ISA"] = arguments.isa  # the library reads it when a session is made
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.build or Path(temporary)
        build(folder, "slc_ops", "slc_ops_testing")
        os.environ.setdefault("SLC_OPS_LIBRARY", str(folder / "libslc_ops.so"))
        document = (
            scaling(arguments, folder) if arguments.scaling else run(arguments, lines, folder)
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", type=Path, nargs="+", default=[HERE / "shapes" / "gate.txt"])
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each operator of a shape")
    parser.add_argument("--only", choices=PARTS, help="default: both")
    parser.add_argument("--isa", choices=ISAS, help="the most the sparse operator may use")
    parser.add_argument("--densities", help="time --shape at these instead of --shapes: 0.05,0.5,1")
    parser.add_argument("--shape", default="1 4096 4096", help='"M N K" for --densities')
    parser.add_argument("--plot", type=Path, help="SVG of --densities")
    parser.add_argument("--scaling", action="store_true", help="operators at 1 and 2 threads")
    parser.add_argument("--build", type=Path, help="keep the built libraries here")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.plot and (not arguments.densities or arguments.only == "kernels"):
        parser.error("--plot needs --densities and the operators")
    if arguments.plot and FULL in arguments.densities.split(","):
        parser.error("--plot has no place for full among --densities")
    return arguments


def numbers(line: str) -> tuple[int, int, int, float | None]:
    """M, N, K and the density of a shape's line, None for full."""
    words = line.split()
    try:
        m, n, k = map(int, words[:3])
        (density,) = (None if word == FULL else float(word) for word in words[3:])
    except ValueError:
        raise SystemExit(f"shape: got {line!r}, wanted 'M N K density': 1 4096 4096 0.5") from None
    if min(m, n, k) < 1 or not 0 <= (density or 0) <= 1:
        raise SystemExit(f"shape: got {line!r}, wanted M, N, K of 1 or more, a density of 0 to 1")
    return m, n, k, density


def shape_lines(arguments: argparse.Namespace) -> list[str]:
    """ "M N K density" of every shape asked for, each checked before anything is built."""
    if arguments.densities:
        lines = [f"{arguments.shape} {word}" for word in arguments.densities.split(",")]
    else:
        try:
            texts = [path.read_text() for path in arguments.shapes]
        except OSError as error:
            raise SystemExit(f"--shapes: {error}") from None
        lines = [line.strip() for text in texts for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    for line in lines:
        numbers(line)
    return lines


def run(arguments: argparse.Namespace, lines: list[str], folder: Path) -> dict[str, Any]:
    """Every shape in this process."""
    parts = (arguments.only,) if arguments.only else PARTS
    kernels = NativeKernels(folder / "libslc_ops_testing.so")
    bench = Bench(kernels, arguments.threads, arguments.seconds, parts)
    for line in lines:
        bench.run(line)
    document = bench.document()
    if arguments.plot:
        title = f"{arguments.shape.split()[1]} x {arguments.shape.split()[2]}"
        title += f", {arguments.shape.split()[0]} row(s) of X, {arguments.threads} thread(s)"
        arguments.plot.write_text(svg(series_of(document["shapes"]), title))
    return document


def scaling(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The operators at 1 and 2 threads, in two processes: a process has one pool for all."""
    documents = {}
    for threads in (1, 2):
        output = folder / f"threads-{threads}.json"
        command = [sys.executable, __file__, "--build", str(folder), "--threads", str(threads)]
        command += ["--only", "operators", "--seconds", str(arguments.seconds)]
        command += ["--json", str(output)]
        if arguments.densities:
            command += ["--shape", arguments.shape, "--densities", arguments.densities]
        else:
            command += ["--shapes", *map(str, arguments.shapes)]
        subprocess.run(command, check=True)
        documents[threads] = json.loads(output.read_text())
    print_scaling(documents)
    return {str(threads): document for threads, document in documents.items()}


if __name__ == "__main__":
    main()
