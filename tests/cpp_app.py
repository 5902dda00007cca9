"""examples/cpp_app: built for this machine or by zig for another, and run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from native_kernels import OPS_SOURCE, run

SOURCE = Path(__file__).resolve().parents[1] / "examples" / "cpp_app"


def build_app(folder: Path, *options: str) -> Path:
    """Build into `folder` with CMake options; the path of the program."""
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(["cmake", "-S", str(SOURCE), "-B", str(folder), *generator, *options])
    run(["cmake", "--build", str(folder)])
    return folder / "cpp_app"


def zig() -> Path:
    """The compiler of the package ziglang."""
    import ziglang

    return Path(ziglang.__file__).with_name("zig")


def zig_options(cpu: str) -> list[str]:
    """CMake options that compile for linux on `cpu` and glibc 2.28."""
    toolchain = OPS_SOURCE / "cmake" / "zig.cmake"
    return [f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", f"-DSLC_ZIG={zig()}", f"-DSLC_ZIG_CPU={cpu}"]


def run_app(
    program: Path, *arguments: str | Path, emulator: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """The program's return code and what it printed."""
    command = [*emulator, str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
