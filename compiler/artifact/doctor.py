"""Looks for what keeps an artifact, or this installation, from working, and says what to do."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slc.compiler.artifact import cuda_images, elf
from slc.compiler.artifact.artifact import Artifact, host_platform, installed_library
from slc.compiler.artifact.findings import (
    COPY_AGAIN,
    Finding,
    explain,
    explained,
    of_sentence,
)
from slc.compiler.artifact.manifest import CUDA_LIBRARY_FILE, LIBRARY_FILE
from slc.compiler.artifact.manifest_check import manifest_problems
from slc.compiler.artifact.sessions import quiet_options
from slc.compiler.artifact.this_machine import (
    check_images,
    check_isa,
    check_runtime,
    facts,
    glibc,
    parts,
)
from slc.compiler.errors import ArtifactError
from slc.compiler.passes.last_logits import gives_last_logits

__all__ = ["Diagnosis", "Finding", "diagnose", "doctor", "explain"]


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was looked at and what is wrong."""

    facts: dict[str, str]
    findings: list[Finding]

    @property
    def passed(self) -> bool:
        """Whether nothing keeps it from working; warnings do not."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As `doctor.schema.json` says."""
        return {"passed": self.passed, **dataclasses.asdict(self)}


def diagnose(path: Path | str | None = None) -> Diagnosis:
    """Examines this installation and, when `path` names one, an artifact.

    Never raises for what it is asked to find.
    """
    return Diagnosis(facts(installed_library()), doctor(path))


def doctor(path: Path | str | None = None) -> list[Finding]:
    """The findings of `diagnose`; none: all is well."""
    if path is None:
        return [*check_runtime(None, is_genai=False), *_check_installed_library()]
    try:
        artifact = Artifact.open(path)
        return _examine(artifact)
    except ArtifactError as error:
        return [of_sentence(error)]
    except OSError as error:
        return [_unreadable(error)]


def _examine(artifact: Artifact) -> list[Finding]:
    is_genai = (artifact.path / "genai_config.json").is_file()
    problems = artifact.check()
    findings = [_of_problem(artifact, problem) for problem in problems]
    own = artifact.path / (artifact.manifest["op_library"]["file"] or LIBRARY_FILE)
    sound = not any(problem.startswith("model.onnx") for problem in problems)
    last_logits = is_genai and sound and gives_last_logits(artifact.model())
    findings += check_runtime(artifact.manifest, is_genai=is_genai, last_logits=last_logits)
    if not any(problem.startswith(f"{own.name} ") for problem in problems):
        needed = sound and artifact.needs_op_library
        findings += _check_library(artifact, own, needed=needed)
        if artifact.manifest["provider"] == "cuda" and needed:
            findings += _check_cuda_library(artifact)
    here = artifact.manifest["device"]["platform"] == host_platform()
    if here:
        findings += check_isa(artifact.manifest)
    if sound:
        findings += _check_graph(artifact)
    runs_here = here or artifact.manifest["provider"] == "cpu"
    if runs_here and not any(finding.severity == "error" for finding in findings):
        findings += _check_session(artifact)
    return findings


def _unreadable(error: OSError) -> Finding:
    return Finding(
        "error",
        f"{error.filename} can't be read: {error.strerror}",
        "give the user that runs it the right to read (chmod -R a+rX ARTIFACT)",
    )


def _of_problem(artifact: Artifact, problem: str) -> Finding:
    """Of a file that is not what the manifest says."""
    library = artifact.manifest["op_library"]["file"]
    if library and problem == f"{library} is missing":
        wanted = artifact.manifest["device"]["platform"]
        return Finding(
            "error",
            f"the op library {library} is missing: no session can be made",
            f"copy it from where the artifact was exported, or put one built for {wanted} beside "
            "model.onnx",
        )
    if problem.endswith("is not in the manifest"):
        return Finding("error", problem, "delete it, or keep it outside the artifact")
    return Finding("error", problem, COPY_AGAIN)


def _check_installed_library() -> Iterator[Finding]:
    library = installed_library()
    if library is None:
        yield Finding(
            "error",
            "this installation of slc has no op library",
            "install slc-compiler from a wheel or run slc ops build",
        )
    else:
        yield from _check_loads(library)


def _check_library(artifact: Artifact, own: Path, *, needed: bool) -> Iterator[Finding]:
    manifest = artifact.manifest
    wanted, here = manifest["device"]["platform"], host_platform()
    if own.is_file():
        machine = elf.machine(own)
        if f"linux-{machine}" != wanted:
            yield Finding(
                "error",
                f"{own.name} is for {machine or 'no known processor'}, the artifact for {wanted}",
                f"put a {own.name} built for {wanted} beside model.onnx",
            )
        elif wanted == here:
            yield from _check_loads(own)
    elif needed:
        note = manifest["op_library"]["note"] or f"{own.name} is missing"
        yield Finding("warning", note, f"put a {own.name} built for {wanted} beside model.onnx")
    if wanted != here:
        yield Finding(
            "warning",
            f"the artifact is for {wanted} and this machine is {here}",
            "copy it to the device; slc verify runs it here with the installed op library",
        )


def _check_cuda_library(artifact: Artifact) -> Iterator[Finding]:
    """The CUDA kernels, which the op library looks for beside itself."""
    library = artifact.path / CUDA_LIBRARY_FILE
    wanted = artifact.manifest["device"]["platform"]
    if not library.is_file():
        listed = CUDA_LIBRARY_FILE in artifact.manifest["files"]
        yield Finding(
            "error" if listed else "warning",
            f"{library.name} is missing: the operators have no CUDA kernels without it",
            f"put a {library.name} built for {wanted} (make cuda) beside model.onnx, or export "
            "with --provider cpu",
        )
        return
    if f"linux-{elf.machine(library)}" != wanted:
        yield Finding(
            "error",
            f"{library.name} is for {elf.machine(library) or 'no known processor'}, the artifact "
            f"for {wanted}",
            f"put a {library.name} built for {wanted} beside model.onnx",
        )
    sm = cuda_images.device_sm()
    if sm is not None and wanted == host_platform():
        yield from check_images(library, sm)


def _check_loads(library: Path) -> Iterator[Finding]:
    machine = elf.machine(library)
    if machine != platform.machine():
        yield Finding(
            "error",
            f"{library.name} is for {machine or 'no known processor'}, not {platform.machine()}",
            "run slc ops build on this machine",
        )
        return
    if elf.cut_off(library):
        yield Finding("error", f"{library.name} is cut off", "copy or install it again")
        return
    needed, here = elf.glibc_needed(library), glibc()
    if needed is not None and (here is None or parts(here) < parts(needed)):
        yield Finding(
            "error",
            f"{library.name} needs glibc {needed} and this machine has {here or 'none'}",
            "run slc ops build on this machine and put the result beside model.onnx",
        )
        return
    try:
        import onnxruntime
    except ImportError:
        return  # found already
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(library.resolve()))
    except Exception as error:  # onnxruntime's own classes derive from Exception directly
        yield explained(error)


def _check_graph(artifact: Artifact) -> Iterator[Finding]:
    """The packed weights, and the manifest's own arithmetic and Choices against them."""
    try:
        model = artifact.model()
    except ArtifactError as error:
        yield of_sentence(error)
        return
    for problem, is_manifest in manifest_problems(artifact.manifest, model):
        fix = "export the model again, or copy the manifest again" if is_manifest else COPY_AGAIN
        yield Finding("error", problem, fix)


def _check_session(artifact: Artifact) -> Iterator[Finding]:
    try:
        artifact.session(sess_options=quiet_options())
    except ArtifactError as error:
        yield explained(error)
