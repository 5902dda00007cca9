"""Measures what a session adds to its process, in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from slc.compiler.artifact import elf
from slc.compiler.errors import ArtifactError

LIBRARY_FILE = "libslc_ops.so"
_TIMEOUT_S = 3600
_RUN_FILE = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one fresh process saw.

    Attributes:
      peak_bytes: highest resident memory from just before the session was made to the end of the
        last decode step, every mapped weight page touched, less what was resident before.
      before_bytes: resident before, the imports of onnxruntime and numpy included.
      load_seconds: making the session.
      touched_bytes: of the weight file's mapping.
      added_bytes: what was resident at the end and not before, as "weights" (the mapped file),
        "code" (pages of libraries that ran for the first time) and "anonymous" (all else, with
        weights that onnxruntime packed again).
      engine: "onnxruntime" or "onnxruntime-genai".
      method: how the peak was read.
    """

    peak_bytes: int
    before_bytes: int
    load_seconds: float
    touched_bytes: int
    added_bytes: dict[str, int]
    engine: str
    method: str


def measure_session(artifact: Path, *, context: int, batch: int = 1) -> Measurement:
    """Loads `artifact` in a fresh process, runs it, and reads its peak memory.

    A genai model folder is run by onnxruntime-genai, where that is installed: a prefill and a few
    decode steps, `context` tokens in all. Any other graph gets inputs of its declared shapes,
    twice, since onnxruntime takes a second block of memory in the second run.

    Args:
      artifact: a folder with model.onnx, or an ONNX file.
      context: tokens of each sequence; the number for every open dimension but the first.
      batch: sequences; the number for the first open dimension.

    Raises:
      ArtifactError: onnxruntime can't load or run it.
    """
    model = artifact / "model.onnx" if artifact.is_dir() else artifact
    genai = (model.parent / "genai_config.json").is_file()
    genai = genai and importlib.util.find_spec("onnxruntime_genai") is not None
    library = runtime_library(model.parent)
    with with_library(model, library, genai) as runnable:
        # Run as a file: importing the package would load what an application has no need of.
        child = str(Path(__file__).with_name("measure_child.py"))
        command = [sys.executable, "-c", _RUN_FILE, child, str(runnable)]
        command += ["--context", str(context), "--batch", str(batch)]
        command += ["--genai"] if genai else []
        command += ["--library", str(library)] if library is not None and not genai else []
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ArtifactError(f"{artifact} can't be run to measure its memory: {lines[-1]}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def runtime_library(folder: Path) -> Path | None:
    """The artifact's own op library if it runs here, else the installed one, else none."""
    beside = folder / LIBRARY_FILE
    if _runs_here(beside):
        return beside
    import slc.ops

    try:
        return Path(slc.ops.library_path())
    except FileNotFoundError:
        return None


def _runs_here(library: Path) -> bool:
    """Whether the file is there and for this machine's processor."""
    return library.is_file() and elf.machine(library) == platform.machine()


@contextlib.contextmanager
def with_library(model: Path, library: Path | None, genai: bool) -> Iterator[Path]:
    """`model`, or a copy of its folder with the op library that its genai_config names.

    An artifact for another platform has that one's library, and genai takes one only from the
    model's folder (links are refused as external data, hence a copy).
    """
    wanted = None
    if genai:
        config = json.loads((model.parent / "genai_config.json").read_text())
        options = config["model"]["decoder"].get("session_options", {})
        wanted = options.get("custom_ops_library")
    if wanted is None or library is None or _runs_here(model.parent / wanted):
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="slc-measure-") as folder:
        shutil.copytree(model.parent, folder, dirs_exist_ok=True)
        shutil.copyfile(library, Path(folder) / wanted)
        yield Path(folder) / model.name
