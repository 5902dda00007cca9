"""`manifest.json`: what an artifact is, what it was made from and for, and the hash of every byte.

Its fields are defined by `manifest.schema.json` beside this file. Nothing in it depends on when
or where the export ran, so two exports of one input are equal; what was measured on a machine
stands in `measured.json`. The bill of materials (`sbom.py`) is one of the files that it lists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slc.compiler.artifact.schema import first_problem, load_schema
from slc.compiler.errors import ArtifactError, PostconditionError
from slc.compiler.progress import Progress

if TYPE_CHECKING:  # reading a manifest needs no graph library
    from slc.compiler.budget.choice import Choice
    from slc.compiler.frontends.source import Source
    from slc.compiler.linear import Linear

MANIFEST_FILE = "manifest.json"
MEASURED_FILE = "measured.json"
SBOM_FILE = "sbom.cdx.json"
LIBRARY_FILE = "libslc_ops.so"
CUDA_LIBRARY_FILE = "libslc_ops_cuda.so"
REPORT_FILE = "report.html"
UNHASHED = frozenset({MANIFEST_FILE, MEASURED_FILE, REPORT_FILE})
SCHEMA_VERSION = 1
_SCHEMA_FILE = "manifest.schema.json"
_CHUNK_BYTES = 1 << 22
_WRITERS = {
    "slc": "slc-compiler",
    "onnx": "onnx",
    "onnx_ir": "onnx-ir",
    "onnxruntime": "onnxruntime",
}

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class OpLibrary:
    """The op library in the folder, what is to know of it, or why there is none."""

    file: str | None
    note: str | None = None


def build_manifest(
    folder: Path,
    *,
    source: Source,
    choices: Mapping[str, Choice],
    device: Mapping[str, Any],
    provider: str,
    options: Mapping[str, Any],
    memory_lines: Sequence[tuple[str, int]],
    op_library: OpLibrary,
    budget_bytes: int | None = None,
    static_adapters: Sequence[str] = (),
    adapter_slots: int = 0,
    loadable: Sequence[Mapping[str, Any]] = (),
    predicted: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Json:
    """Describes the finished folder; every other file must have been written.

    Args:
      folder: the artifact, or what will become it.
      source: what was compiled; its Linears and refusals are listed.
      choices: by Linear name, one for every Linear of `source`.
      device: the profile's fields, at least name, platform ("linux-x86_64") and ort_min.
      provider: "cpu" or "cuda".
      options: of the export, JSON values, without paths and without the output's name.
      memory_lines: (what, bytes); they add up to the predicted session memory.
      op_library: its file's name in `folder`, or the note.
      budget_bytes: of `--mem`, None when the user gave none.
      static_adapters: names of the adapters concatenated into the weights.
      adapter_slots: pairs of overridable initializers per Linear.
      loadable: what `describe_adapter` says of each file in adapters/.
      predicted: us_per_token, context (tokens in the cache that it is reckoned at); None of what
        has no predicted speed.
      notes: what the export decided without being asked, a sentence each.
    """
    files = hash_files(folder)
    return {
        "schema_version": SCHEMA_VERSION,
        "versions": {key: _version(package) for key, package in _WRITERS.items()},
        "source": {
            "kind": source.kind,
            "name": source.path.name,
            "sha256": source.find_sha256(),
        },
        "device": dict(device),
        "provider": provider,
        "options": dict(options),
        "memory": {
            "budget_bytes": budget_bytes,
            "predicted_bytes": sum(size for _, size in memory_lines),
            "lines": [{"what": what, "bytes": size} for what, size in memory_lines],
        },
        "predicted": dict(predicted or {"us_per_token": None, "context": None}),
        "notes": list(notes),
        "linears": [_linear_entry(linear, choices) for linear in source.linears],
        "refusals": [dataclasses.asdict(refusal) for refusal in source.refusals],
        "op_library": _op_library_entry(op_library, files),
        "adapters": {
            **_adapters_entry(source, static_adapters, adapter_slots),
            "loadable": sorted(map(dict, loadable), key=lambda entry: str(entry["name"])),
        },
        "files": files,
    }


def _op_library_entry(op_library: OpLibrary, files: Mapping[str, Json]) -> Json:
    library = files.get(op_library.file or "")
    return {
        "file": op_library.file,
        "sha256": library["sha256"] if library else None,
        "note": op_library.note,
    }


def _adapters_entry(source: Source, static: Sequence[str], slots: int) -> Json:
    return {
        "static": list(static),
        "slots": slots,
        "sources": {
            linear.name: [dataclasses.asdict(rows) for rows in linear.sources]
            for linear in source.linears
            if linear.sources
        },
    }


def _linear_entry(linear: Linear, choices: Mapping[str, Choice]) -> Json:
    choice = dataclasses.asdict(choices[linear.name])
    del choice["linear"]
    return {
        "name": linear.name,
        "N": linear.N,
        "K": linear.K,
        "kind": linear.kind,
        "choice": choice,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"


def hash_files(folder: Path) -> dict[str, Json]:
    """{relative name: {"bytes", "sha256"}} of every file that the manifest vouches for.

    Hidden files and folders are no part of an artifact: an export works in one, desktops drop some.
    """
    return {name: file_entry(folder / name) for name in list_files(folder)}


def list_files(folder: Path) -> list[str]:
    """Names of the files of `hash_files`, relative to `folder`, in order."""
    paths = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return [
        path.as_posix()
        for path in paths
        if path.as_posix() not in UNHASHED and not any(part[0] == "." for part in path.parts)
    ]


def file_entry(path: Path, progress: Progress | None = None) -> Json:
    """A file as the manifest lists it; arguments as `sha256`."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path, progress)}


def sha256(path: Path, progress: Progress | None = None) -> str:
    """Of a file's bytes, read in pieces.

    Args:
      path: the file.
      progress: called as progress(bytes hashed, bytes in all, name) after each piece.
    """
    digest, done = hashlib.sha256(), 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, size, path.name)
    return digest.hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Keys sorted, one line per entry, the same bytes for the same value."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes folder/manifest.json.

    Raises:
      PostconditionError: it is not what the schema says, and nobody could read it.
    """
    problem = first_problem(manifest, load_schema(__package__, _SCHEMA_FILE))
    if problem is not None:
        raise PostconditionError(f"the manifest that was made is wrong: {problem}")
    write_json(folder / MANIFEST_FILE, manifest)


def read_manifest(folder: Path) -> Json:
    """Reads folder/manifest.json.

    Raises:
      ArtifactError: it is missing, not JSON, not ours, of a schema this slc does not know, or a
        field is missing or of the wrong type.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not an artifact folder; name what slc export wrote.")
    if not path.is_file():
        raise ArtifactError(
            f"{folder} has no {MANIFEST_FILE}; name a folder that slc export wrote."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} can't be read ({error}); export the model again.") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(
            f"{path} is not a manifest of slc; name a folder that slc export wrote."
        )
    if version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {version} and this slc reads up to {SCHEMA_VERSION}; "
            "install a newer slc-compiler."
        )
    problem = first_problem(manifest, load_schema(__package__, _SCHEMA_FILE))
    if problem is not None:
        raise ArtifactError(f"{path} is damaged: {problem}; export the model again.")
    return dict(manifest)
