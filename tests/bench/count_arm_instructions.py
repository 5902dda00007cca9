"""Count the instructions that each 64-bit Arm kernel takes, under emulation.

    python tests/bench/count_arm_instructions.py [--json FILE] [--shape 64,512] [--density 0.5]

An emulator knows nothing of time, but the count is exact and the same on every machine: it shows a
loop that the compiler spoiled. qemu logs one line an instruction; a program that runs the kernel
twice, less one that runs it once, leaves one run. GEMV kernels get one row of X, GEMM kernels
GEMM_ROWS; all counts are for each of the N*K weights and each row of X.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from arm_kernels import COMPILER, EMULATOR, Cases, build_arm, kernel_names, missing_tools
from kernel_cases import STORED
from ops_models import sparse

from slc.ops import bitmap

CPU = "cortex-a76"  # runs all kernels
GEMM_ROWS = 12
READ_BYTES = 1 << 20


def instructions(program: Path, cases: Cases, repeats: int) -> int:
    """How many instructions the program executes."""
    trace = ["-singlestep", "-d", "exec,nochain", "-D", "/dev/stdout"]
    command = [EMULATOR, "-cpu", CPU, *trace, *cases.command(program, repeats)]
    lines = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while block := process.stdout.read(READ_BYTES):
            lines += block.count(b"\n")
    assert process.returncode == 0, command
    return lines


def per_weight(program: Path, name: str, S: np.ndarray, folder: Path) -> float:
    """Instructions of one kernel for each weight and row of X."""
    m = 1 if "gemv" in name else GEMM_ROWS
    X = np.random.default_rng(0).standard_normal((m, S.shape[1])).astype(np.float32)
    cases = Cases(folder)
    cases.sparse(name, bitmap.encode(S, **STORED[name.split("_")[2]]), X)
    one_run = instructions(program, cases, 1) - instructions(program, cases, 0)
    return one_run / (S.size * m)


def table(counts: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Counts by what a kernel does, an ISA a column, and how many times fewer than generic."""
    rows: dict[str, dict[str, Any]] = {}
    for name, count in counts.items():
        loops, isa = name.removeprefix("sparse_").split("__")
        rows.setdefault("_".join(loops.split("_")[:3]), {})[isa] = round(count, 3)
    for row in rows.values():
        for isa in [isa for isa in row if isa != "generic"]:
            row[f"generic/{isa}"] = round(row["generic"] / row[isa], 2)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write the table")
    parser.add_argument("--shape", default="64,512", help="N,K")
    parser.add_argument("--density", type=float, default=0.5)
    options = parser.parse_args()
    if missing := missing_tools():
        sys.exit(f"needs {missing}")
    n, k = (int(size) for size in options.shape.split(","))
    S = sparse(n, k, options.density)
    with tempfile.TemporaryDirectory() as scratch:
        program = build_arm(Path(scratch) / "build")
        names = [name for name in kernel_names(program, CPU) if name.startswith("sparse_")]
        rows = table({name: per_weight(program, name, S, Path(scratch)) for name in names})
    for name, row in rows.items():
        print(f"{name:22}", *(f"{key} {value:<8}" for key, value in row.items()))
    if options.json:
        compiler = subprocess.run([COMPILER, "-dumpfullversion"], capture_output=True, text=True)
        settings = {
            "n": n, "k": k, "density": options.density, "gemv_rows": 1, "gemm_rows": GEMM_ROWS,
            "cpu": CPU, "compiler": f"{COMPILER} {compiler.stdout.strip()}",
        }  # fmt: skip
        document = {"settings": settings, "instructions_per_weight_and_row": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
