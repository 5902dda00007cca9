"""Which releases there are, which Python here has a wheel of each, and a folder with just that.

Everything goes through pip: `pip index versions` for the names, `pip install --target` for a folder
that is put on PYTHONPATH of an interpreter without any other packages.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from environments import interpreter

from slc.targets.target import version_tuple

PYTHONS = tuple(f"3.{minor}" for minor in range(10, 15))  # that slc supports, and those to come
NUMPY_2_ORT = "1.19"  # the first onnxruntime that was built for numpy 2


class RegistryError(RuntimeError):
    """pip could not say or fetch what was asked. One sentence for the user."""


@dataclasses.dataclass(frozen=True)
class Release:
    """One version and the Pythons that have a wheel of it here, on this platform.

    Attributes:
      version: as pip knows it.
      pythons: of `PYTHONS`, oldest first; at least one.
    """

    version: str
    pythons: tuple[str, ...]


def pip(*arguments: str) -> str:
    """What pip prints.

    Raises:
      RegistryError: it failed; with its last line.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[-1] if said else done.stderr.strip()[-300:]
        raise RegistryError(f"pip {' '.join(arguments[:2])}: {reason}")
    return done.stdout


def last_patches(package: str, oldest: str) -> list[Release]:
    """The last patch of every minor release from `oldest` on, oldest first.

    Raises:
      RegistryError: there is no index, or the package is in none.
    """
    pythons: dict[str, list[str]] = {}
    for python in PYTHONS:
        try:
            printed = pip("index", "versions", package, "--python-version", python)
        except RegistryError:
            if python == PYTHONS[-1] and not pythons:
                raise
            continue  # no release has wheels for that one yet
        for version in _available(printed):
            pythons.setdefault(version, []).append(python)
    newest: dict[tuple[int, ...], str] = {}
    for version in sorted(pythons, key=version_tuple):
        if version_tuple(version) >= version_tuple(oldest):
            newest[version_tuple(version)[:2]] = version
    return [Release(version, tuple(pythons[version])) for version in newest.values()]


def _available(printed: str) -> list[str]:
    found = re.search(r"^Available versions: (.+)$", printed, flags=re.MULTILINE)
    versions = found.group(1).split(", ") if found else []
    return [version for version in versions if re.fullmatch(r"\d+(\.\d+)+", version)]


def interpreters(only: Sequence[str] = ()) -> dict[str, str]:
    """Python minor version -> interpreter, of those that are installed here."""
    found = {python: interpreter(*[version_tuple(python)[:2]] * 2) for python in only or PYTHONS}
    return {python: path for python, path in found.items() if path is not None}


def requirement_of(folder: Path, package: str) -> str | None:
    """The least version of `package` that the wheel in `folder` asks for, None if any will do."""
    (metadata,) = folder.glob("*.dist-info/METADATA")
    pattern = rf"^Requires-Dist: {re.escape(package)}\s*\(?>=\s*([\d.]+)"
    found = re.search(pattern, metadata.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found.group(1) if found else None


def installed(cache: Path, requirement: str, python: str) -> Path:
    """A folder with one package for that Python and nothing it depends on; kept in `cache`.

    Raises:
      RegistryError: there is no such wheel.
    """
    folder = cache / f"{requirement.replace('==', '-').replace('<', '-below-')}-python{python}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix="making-", dir=cache))
        try:
            pip(
                "install", "--quiet", "--no-deps", "--only-binary=:all:", "--no-compile",
                "--python-version", python, "--target", str(making), requirement,
            )  # fmt: skip
            making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return folder


@dataclasses.dataclass(frozen=True)
class Runtime:
    """An interpreter and the folders that it may import from, besides its standard library."""

    python: str
    folders: tuple[Path, ...]

    def run(self, script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs a script there; a crash is a return code."""
        path = os.pathsep.join(str(folder) for folder in self.folders)
        return subprocess.run(
            [self.python, "-S", str(script), *map(str, arguments)],  # -S: no site-packages
            env={"PATH": os.defpath, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip


def runtime(cache: Path, onnxruntime: str, python: str, genai: str | None = None) -> Runtime:
    """Python with one onnxruntime, the numpy it was built for and, if asked for, one genai."""
    path = interpreters([python])[python]
    new = version_tuple(onnxruntime) >= version_tuple(NUMPY_2_ORT)
    requirements = [f"onnxruntime=={onnxruntime}", "numpy" if new else "numpy<2"]
    if genai is not None:
        requirements.append(f"onnxruntime-genai=={genai}")
    return Runtime(path, tuple(installed(cache, each, python) for each in requirements))
