"""Virtual environments of other Pythons and onnxruntimes, without anything of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def interpreter(oldest: tuple[int, int], newest: tuple[int, int]) -> str | None:
    """A Python within the range: ours if it fits, else one that is installed."""
    if oldest <= sys.version_info[:2] <= newest:
        return sys.executable
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(newest[1], oldest[1] - 1, -1):
        found = sorted(versions.glob(f"3.{minor}.*/bin/python3"))
        if found:
            return str(found[-1])
        path = shutil.which(f"python3.{minor}")
        if path is not None and _runs(path):
            return path
    return None


def _runs(python: str) -> bool:
    """Whether it is one: pyenv has a name on the path for each version, chosen or not."""
    return subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0


def environment(folder: Path, python: str, *packages: str) -> Path:
    """A new virtual environment with `packages`; returns its interpreter."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    binary = folder / "bin" / "python"
    subprocess.run([str(binary), "-m", "pip", "install", "-q", *packages], check=True)
    return binary
