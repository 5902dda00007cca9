"""Looks for what keeps an artifact, or this installation, from working, and says what to do."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from slc.compiler.artifact import elf
from slc.compiler.artifact.artifact import Artifact, host_platform, installed_library
from slc.compiler.artifact.manifest import LIBRARY_FILE
from slc.compiler.artifact.sessions import quiet_options
from slc.compiler.errors import ArtifactError

Severity = Literal["error", "warning"]
_GENAI_MIN = "0.11"  # older ones look for custom_ops_library in the working directory only
_CUDA_PROVIDER = "CUDAExecutionProvider"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and what to do about it."""

    severity: Severity
    what: str
    fix: str


# onnxruntime's words -> what they mean. The first that matches explains.
_KNOWN_ERRORS: tuple[tuple[str, str, str], ...] = (
    (
        r"ai\.slc:\w+\(-1\) is not a registered function/op|domain_version.*ai\.slc",
        "the session was made without the op library",
        "call slc.ops.register(session_options) or register_custom_ops_library first",
    ),
    (
        r"[Dd]omain already set in registry",
        "two op libraries with the domain ai.slc were registered in one session",
        "register libslc_ops.so once; it holds the CPU and the CUDA operators",
    ),
    (
        r"Unsupported version '\d+' in custom op",
        "this onnxruntime is older than the API that the op library was built for",
        "install the op library of this slc-compiler, which asks for API version 17",
    ),
    (
        r"wrong ELF class|cannot execute binary file|invalid ELF header|Exec format",
        "the op library is for another kind of processor",
        "put a libslc_ops.so built for this machine beside model.onnx",
    ),
    (
        r"version `GLIBC_[\d.]+' not found",
        "the op library was built against a newer C library than this machine has",
        "run slc ops build on this machine and put the result beside model.onnx",
    ),
    (
        r"lib(cuda|cudart|cublas|cudnn)[\w.]*: cannot open shared object file",
        "the CUDA libraries are missing",
        "install the NVIDIA driver and CUDA, or export with --provider cpu",
    ),
    (
        r"Failed to load library",
        "the op library can't be loaded",
        "check that the path is right and the file readable",
    ),
    (
        r"Unsupported model IR version|opset \d+ is under development|Opset \d+",
        "this onnxruntime is too old for the graph",
        "install a newer onnxruntime or export for a --device with a lower ort_min",
    ),
)


def explain(error: str) -> Finding | None:
    """What an error text of onnxruntime means, None when it is not a known one."""
    for pattern, what, fix in _KNOWN_ERRORS:
        if re.search(pattern, error):
            return Finding("error", what, fix)
    return None


def doctor(path: Path | str | None = None) -> list[Finding]:
    """Examines this installation and, when `path` names one, an artifact; no findings: all is well.

    Never raises for what it is asked to find.
    """
    if path is None:
        return [*_check_runtime(None), *_check_installed_library()]
    try:
        artifact = Artifact.open(path)
    except ArtifactError as error:
        return [_of_sentence(error)]
    findings = [*_check_files(artifact), *_check_runtime(artifact), *_check_library(artifact)]
    findings += _check_blobs(artifact)
    if not any(finding.severity == "error" for finding in findings):
        findings += _check_session(artifact)
    return findings


def _check_files(artifact: Artifact) -> Iterator[Finding]:
    try:
        problems = artifact.check()
    except ArtifactError as error:
        yield _of_sentence(error)
        return
    for problem in problems:
        yield Finding("error", problem, "copy the artifact again from where it was exported")


def _check_runtime(artifact: Artifact | None) -> Iterator[Finding]:
    found = _version("onnxruntime", "onnxruntime-gpu")
    if found is None:
        yield Finding("error", "onnxruntime is not installed", "pip install onnxruntime")
    if artifact is None:
        return
    wanted = artifact.manifest["device"]["ort_min"]
    if found is not None and _parts(found) < _parts(wanted):
        yield Finding(
            "error",
            f"onnxruntime {found} is older than {wanted}, which the artifact was made for",
            f"install onnxruntime {wanted} or newer, or export for this device",
        )
    if artifact.manifest["provider"] == "cuda" and found is not None:
        yield from _check_cuda()
    genai = _version("onnxruntime-genai", "onnxruntime-genai-cuda")
    has_config = (artifact.path / "genai_config.json").is_file()
    if has_config and genai is not None and _parts(genai) < _parts(_GENAI_MIN):
        yield Finding(
            "error",
            f"onnxruntime-genai {genai} does not find the op library beside the model",
            f"install onnxruntime-genai {_GENAI_MIN} or newer",
        )


def _check_cuda() -> Iterator[Finding]:
    import onnxruntime

    if _CUDA_PROVIDER not in onnxruntime.get_available_providers():
        yield Finding(
            "error",
            "the artifact was exported for CUDA and this onnxruntime has no CUDA provider",
            "install onnxruntime-gpu for this machine or export with --provider cpu",
        )


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


def _check_library(artifact: Artifact) -> Iterator[Finding]:
    manifest = artifact.manifest
    wanted, here = manifest["device"]["platform"], host_platform()
    own = artifact.path / (manifest["op_library"]["file"] or LIBRARY_FILE)
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
    elif artifact.needs_op_library:
        note = manifest["op_library"]["note"] or f"{own.name} is missing"
        yield Finding("warning", note, f"put a {own.name} built for {wanted} beside model.onnx")
    if wanted != here:
        yield Finding(
            "warning",
            f"the artifact is for {wanted} and this machine is {here}",
            "copy it to the device; slc verify runs it here with the installed op library",
        )


def _check_loads(library: Path) -> Iterator[Finding]:
    machine = elf.machine(library)
    if machine != platform.machine():
        yield Finding(
            "error",
            f"{library.name} is for {machine or 'no known processor'}, not {platform.machine()}",
            "run slc ops build on this machine",
        )
        return
    try:
        import onnxruntime
    except ImportError:
        return  # found already
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(library.resolve()))
    except Exception as error:  # onnxruntime's own classes derive from Exception directly
        yield _explained(error)


def _check_blobs(artifact: Artifact) -> Iterator[Finding]:
    from slc.ops import DOMAIN, bitmap

    try:
        nodes = list(artifact.model().graph.all_nodes())
    except ArtifactError as error:
        yield _of_sentence(error)
        return
    seen = set()
    for node in nodes:
        if node.domain != DOMAIN or node.op_type != "BitmapSparseGemm":
            continue
        value = node.inputs[1]
        if value is None or value.const_value is None or value.name in seen:
            continue
        seen.add(value.name)
        try:
            bitmap.check(value.const_value.numpy())
        except (bitmap.BlobError, OSError, ValueError) as error:
            what = f"the weights {value.name} are damaged: {error}"
            yield Finding("error", what, "copy the artifact again from where it was exported")


def _check_session(artifact: Artifact) -> Iterator[Finding]:
    try:
        artifact.session(sess_options=quiet_options())
    except ArtifactError as error:
        yield _explained(error)


def _of_sentence(error: ArtifactError) -> Finding:
    """Such a sentence ends in its own advice, behind the last semicolon."""
    what, _, fix = str(error).removesuffix(".").rpartition("; ")
    return Finding("error", what, fix) if what else Finding("error", fix, "export the model again")


def _explained(error: Exception) -> Finding:
    text = str(error).removesuffix("; slc doctor explains it.")
    known = explain(text)
    if known is None:
        return Finding("error", text, "report this with the output of slc doctor --json")
    return dataclasses.replace(known, what=f"{known.what} (onnxruntime says: {text})")


def _version(*packages: str) -> str | None:
    """Of the first of the packages that is installed."""
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
