"""One cell: what the target profile says, what happened, and whether the two agree."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from moved_inputs import rounding, with_scaled_inputs
from support_matrix.kinds import Kind, Sources, feeds, profile, write_adapter
from support_matrix.releases import Runtime

from slc.compiler import export
from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.manifest import read_manifest
from slc.compiler.artifact.sessions import quiet_options
from slc.compiler.artifact.tolerance import SEEDS, check_output
from slc.compiler.errors import RequestError

RUN_ORT = Path(__file__).with_name("run_ort.py")
ADAPTER_FILE = "adapter.onnx_adapter"

# What a cell can say. Of the first group the profile is right, of the second it is not.
RUNS, REFUSED, NO_WHEEL = "runs", "not offered", "no wheel"
FAILS, WRONG, TOO_STRICT = "fails", "wrong", "runs though not offered"
PROBLEMS = (FAILS, WRONG, TOO_STRICT)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One outcome; `why` is a sentence, empty where it runs."""

    status: str
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Reference:
    """The first output here, and each time with other signs in `rounding`."""

    feeds: Mapping[str, np.ndarray]
    here: np.ndarray
    moved: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Offer:
    """An artifact for one release, or the reason why there is none."""

    folder: Path | None
    reason: str = ""


def last_line(text: str) -> str:
    """What an onnxruntime says last: the error itself, without the place in its sources."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


class Artifacts:
    """Exports for releases, each once, and what they are held to."""

    def __init__(self, sources: Sources, folder: Path) -> None:
        """Args: sources: the models; folder: for exports."""
        self._sources, self._folder = sources, folder
        self._references: dict[tuple[str, ...], Reference] = {}

    def offer(self, name: str, kind: Kind, onnxruntime: str) -> Offer:
        """What `slc export` makes of a kind for a device that has just this release."""
        out = self._folder / f"{name}-{onnxruntime}"
        if out.exists():
            shutil.rmtree(out)
        device = str(profile(self._folder, onnxruntime))
        options = {"context": 64, **kind.options} if "decoder" in kind.source else kind.options
        try:
            export(self._sources.path(kind.source), out, device=device, **options)
        except RequestError as error:
            return Offer(None, str(error))
        reasons = _missing(read_manifest(out), kind.encoding)
        if reasons:
            shutil.rmtree(out)
            return Offer(None, "; ".join(reasons))
        if kind.adapter:
            self._add_adapter(out)
        return Offer(out)

    def _add_adapter(self, out: Path) -> None:
        write_adapter(Artifact.open(out).session(sess_options=quiet_options()), out / ADAPTER_FILE)

    def reference(self, folder: Path) -> Reference:
        """Of an artifact; releases whose artifacts have the same bytes share one."""
        files = read_manifest(folder)["files"]
        key = tuple(files[name]["sha256"] for name in ("model.onnx", "model.onnx.data"))
        if key not in self._references:
            self._references[key] = _reference(folder)
        return self._references[key]


def _missing(manifest: Mapping[str, Any], encoding: str) -> list[str]:
    """Why no Linear, tables and heads aside, has this encoding; empty if one has."""
    choices = [entry["choice"] for entry in manifest["linears"] if entry["kind"] == "linear"]
    if any(choice["encoding"] == encoding for choice in choices):
        return []
    return sorted({choice["reason"] or f"stored as {choice['encoding']}" for choice in choices})


def _reference(folder: Path) -> Reference:
    artifact = Artifact.open(folder)
    session = artifact.session(sess_options=quiet_options())
    inputs: dict[str, np.ndarray] = dict(feeds(session))
    if (folder / ADAPTER_FILE).exists():  # its matrices are inputs like others
        inputs |= write_adapter(session, folder / ADAPTER_FILE)
    here = session.run([session.get_outputs()[0].name], inputs)[0]
    moved = [with_scaled_inputs(folder, inputs, rounding(seed)) for seed in SEEDS]
    return Reference(inputs, here, moved)


def at_oldest_ir(folder: Path) -> str:
    """A copy of an artifact's graph that says an IR version which every release reads; its name.

    So that what a release refuses in it is not the newest release's IR version, which `slc export`
    lowers.
    """
    name = "model_oldest_ir.onnx"
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    model.ir_version = 8
    (folder / name).write_bytes(model.SerializeToString())
    return name


def run_ort(
    runtime: Runtime, folder: Path, reference: Reference, scratch: Path, graph: str = "model.onnx"
) -> Cell:
    """Runs an artifact elsewhere and holds its first output to this machine's."""
    adapter = folder / ADAPTER_FILE
    given, result = scratch / "feeds.npz", scratch / "result.npy"
    result.unlink(missing_ok=True)
    graph_inputs = {k: v for k, v in reference.feeds.items() if k not in _slots(folder, adapter)}
    np.savez(given, **graph_inputs)
    library = folder / "libslc_ops.so"
    done = runtime.run(
        RUN_ORT, folder / graph, library if library.exists() else "", given, result,
        adapter if adapter.exists() else "",
    )  # fmt: skip
    if done.returncode:
        return Cell(FAILS, last_line(done.stderr) if done.stderr else f"rc {done.returncode}")
    check = check_output("first output", "fixed", np.load(result), reference.here, reference.moved)
    if check.passed:
        return Cell(RUNS)
    return Cell(
        WRONG,
        f"outputs differ by {check.max_error:.2g} at most and {check.mean_error:.2g} in the mean, "
        f"allowed are {check.max_tolerance:.2g} and {check.mean_tolerance:.2g}",
    )


def _slots(folder: Path, adapter: Path) -> frozenset[str]:
    return _parameters(adapter) if adapter.exists() else frozenset()


@functools.cache
def _parameters(adapter: Path) -> frozenset[str]:
    import onnxruntime as ort

    return frozenset(ort.AdapterFormat.read_adapter(str(adapter)).get_parameters())


def judge(offered: Offer, ran: Cell) -> Cell:
    """What the profile says against what happened.

    Args:
      offered: for the release; where it has no artifact, `ran` is of that of the newest release.
      ran: there.
    """
    if offered.folder is not None:
        return ran
    if ran.status == RUNS:
        return Cell(TOO_STRICT, offered.reason)
    return Cell(REFUSED, offered.reason)
