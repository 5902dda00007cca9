"""Compiles the op library from the sources that lie in the package: on a device, or for one.

For this machine's processor the system's own C++ compiler does it, all there is on a board. For
another one, or where there is none, zig of the PyPI package ziglang (ops/cmake/zig.cmake).
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from slc.compiler.artifact.artifact import host_platform
from slc.compiler.artifact.manifest import LIBRARY_FILE
from slc.compiler.errors import RequestError
from slc.compiler.progress import Progress
from slc.targets import Target

_LINES = 12  # of a failed command's output, which an error shows
_COMPILERS = ("c++", "g++", "clang++")


def build_library(
    target: Target, folder: Path, *, jobs: int | None = None, progress: Progress | None = None
) -> Path:
    """Builds libslc_ops.so for `target` and puts it into `folder`, in place of any that is there.

    Args:
      target: whose processor decides; a library holds the kernels of all its ISAs.
      folder: an existing one, such as an artifact's.
      jobs: compilers at a time; None is one per CPU.
      progress: called as progress(done, total, what).

    Returns:
      The library's path.

    Raises:
      RequestError: there is no such folder, no compiler for the target, or compiling failed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RequestError(f"got {str(folder)!r}, wanted an existing folder for {LIBRARY_FILE}")
    if shutil.which("cmake") is None:
        raise RequestError("building the op library wants cmake: pip install cmake")
    source = Path(str(importlib.resources.files("slc.ops").joinpath("CMakeLists.txt"))).parent
    configure = ["cmake", "-S", str(source), *_toolchain(target, source)]
    with tempfile.TemporaryDirectory(prefix="slc-ops-") as build:
        if progress is not None:
            progress(0, 2, "configuring")
        _run([*configure, "-B", build])
        if progress is not None:
            progress(1, 2, "compiling")
        workers = str(jobs or os.cpu_count() or 1)
        _run(["cmake", "--build", build, "--parallel", workers, "--target", "slc_ops"])
        unfinished = folder / f".{LIBRARY_FILE}.writing"
        try:
            shutil.copyfile(Path(build) / LIBRARY_FILE, unfinished)
            os.replace(unfinished, folder / LIBRARY_FILE)
        except OSError as error:
            raise RequestError(
                f"{str(folder / LIBRARY_FILE)!r} can't be written ({error.strerror}): give another "
                "folder by -o"
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)
    if progress is not None:
        progress(2, 2, "compiling")
    return folder / LIBRARY_FILE


def _toolchain(target: Target, source: Path) -> list[str]:
    """What tells CMake of the compiler; nothing for the system's own."""
    own = any(shutil.which(name) for name in (os.environ.get("CXX") or "", *_COMPILERS) if name)
    if target.platform_tag == host_platform() and own:
        return []
    zig = _zig()
    if zig is None:
        has = f"a compiler for {host_platform()} only" if own else "no C++ compiler"
        raise RequestError(
            f"a library for {target.platform_tag} is wanted and here is {has}: pip install "
            "ziglang, or run slc ops build on the device"
        )
    return [
        f"-DCMAKE_TOOLCHAIN_FILE={source / 'cmake' / 'zig.cmake'}",
        f"-DSLC_ZIG={zig}",
        f"-DSLC_ZIG_CPU={target.arch}",
    ]


def _zig() -> Path | None:
    """The compiler of the package ziglang, where that is installed."""
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).with_name("zig")


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()[-_LINES:]
        raise RequestError(
            "the op library can't be built here, cmake says:\n  " + "\n  ".join(lines)
        )
