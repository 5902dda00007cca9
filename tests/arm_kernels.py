"""The kernels of a 64-bit Arm build, cross-compiled here and run under qemu's emulation."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from native_kernels import OPS_SOURCE, build, run

Array = npt.NDArray[Any]

COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64-static"
# Programs are static: the emulator needs no Arm libraries then.
OPTIONS = (
    f"-DCMAKE_TOOLCHAIN_FILE={OPS_SOURCE / 'cmake' / 'aarch64-linux-gnu.cmake'}",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
)


def missing_tools() -> str:
    """What has to be installed before anything here works; empty when nothing is missing."""
    packages = {COMPILER: "g++-aarch64-linux-gnu", EMULATOR: "qemu-user-static"}
    missing = [name for name in packages if shutil.which(name) is None]
    return ", ".join(f"{name} (Debian: {packages[name]})" for name in missing)


def build_arm(folder: Path) -> Path:
    """Build the library and run_kernel; the path of run_kernel."""
    build(folder, "slc_ops", "run_kernel", options=OPTIONS)
    return folder / "run_kernel"


def kernel_names(program: Path, cpu: str) -> list[str]:
    """The kernels that an emulated processor runs."""
    return run([EMULATOR, "-cpu", cpu, str(program)]).split()


@dataclass
class Cases:
    """Cases for run_kernel, with their data in files.

    Attributes:
      folder: an empty folder for the files.
      lines: run_kernel's CASES.
      shapes: of the results.
    """

    folder: Path
    lines: list[str] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    _files: dict[bytes, Path] = field(default_factory=dict)

    def sparse(self, name: str, blob: Array, X: Array, bias: Array | None = None) -> None:
        """Add X · decode(blob)ᵀ + bias by one kernel. X: float32 [m, K], bias: float32 [N]."""
        added = "-" if bias is None else self._file(bias)
        self.lines.append(f"sparse {name} {X.shape[0]} {self._file(blob)} {self._file(X)} {added}")
        self.shapes.append((X.shape[0], int(blob[8:16].view(np.uint64)[0])))

    def dense(self, name: str, W: Array, X: Array) -> None:
        """Add X · Wᵀ by one adapter kernel."""
        rows, k = W.shape
        self.lines.append(f"dense {name} {X.shape[0]} {rows} {k} {self._file(W)} {self._file(X)}")
        self.shapes.append((X.shape[0], rows))

    def names(self) -> set[str]:
        """The kernels that have a case."""
        return {line.split()[1] for line in self.lines}

    def command(self, program: Path, repeats: int = 0) -> list[str]:
        """The program's command line for all cases."""
        cases, results = self.folder / "cases", self.folder / "results"
        cases.write_text("".join(f"{line}\n" for line in self.lines))
        return [str(program), str(cases), str(results), str(repeats)]

    def run(self, program: Path, cpu: str) -> list[Array]:
        """The results of all cases in order."""
        run([EMULATOR, "-cpu", cpu, *self.command(program)])
        values = np.fromfile(self.folder / "results", np.float32)
        ends = np.cumsum([m * n for m, n in self.shapes])
        assert values.size == ends[-1]
        parts = np.split(values, ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _file(self, array: Array) -> Path:
        """A file with the bytes of an array; the same file for the same bytes."""
        data = array.tobytes()
        if data not in self._files:
            path = self.folder / f"data{len(self._files)}"
            path.write_bytes(data)
            self._files[data] = path
        return self._files[data]
