"""`sbom.cdx.json`: an artifact's bill of materials, in CycloneDX 1.6 (ECMA-424).

The artifact is the component described, the model it was compiled from its ancestor; every file
is a component with its sha256, and so is the op library. The tools are those that made it, in the
versions that are installed. It is made from the manifest, which then lists it: of the manifest
itself it holds a digest, so that neither can be altered by itself without the other telling.
Nothing in it depends on where the export ran; the time is SOURCE_DATE_EPOCH's, or left out.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slc.compiler.artifact.manifest import (
    CUDA_LIBRARY_FILE,
    LIBRARY_FILE,
    SBOM_FILE,
    Json,
    file_entry,
    write_json,
)
from slc.compiler.errors import ArtifactError, RequestError

if TYPE_CHECKING:
    from slc.compiler.frontends.source import Source

LICENSE = "Apache-2.0"  # of slc and its op library; a model's own is not known here
MANIFEST_DIGEST = "slc:manifest:sha256"
_FILE = "file:"
_LIBRARY = "op-library"
# Whatever the source is; numpy and scipy decompose the weights.
_ALWAYS = ("slc-compiler", "numpy", "onnx", "onnx-ir", "onnxruntime", "scipy")
# One package is built under several names.
_BUILDS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "onnxruntime-genai": ("onnxruntime-genai", "onnxruntime-genai-cuda"),
}


def add_sbom(folder: Path, manifest: Json, source: Source, tools: Iterable[str] = ()) -> None:
    """Writes folder/sbom.cdx.json and enters it in the manifest's files.

    Args:
      folder: the artifact, all its other files written.
      manifest: of those files; it must not change afterwards.
      source: what was compiled.
      tools: distributions that were used beside those that every export uses.

    Raises:
      RequestError: SOURCE_DATE_EPOCH is no time.
    """
    write_json(folder / SBOM_FILE, build_sbom(manifest, source, tools))
    manifest["files"][SBOM_FILE] = file_entry(folder / SBOM_FILE)


def renewed_sbom(folder: Path, old: Mapping[str, Any], manifest: Mapping[str, Any]) -> Json | None:
    """The bill of materials of an artifact whose files change, for the manifest of the new ones.

    Args:
      folder: the artifact.
      old: its manifest.
      manifest: what takes the manifest's place; files of the op library stay what they were.

    Returns:
      None where the artifact has none: it is older than these.

    Raises:
      ArtifactError: it and `old` do not belong together, which a new one would hide.
    """
    if SBOM_FILE not in old["files"]:
        return None
    document = read_sbom(folder)
    if document is None or said_digest(document) != manifest_digest(old):
        raise ArtifactError(
            f"{SBOM_FILE} and manifest.json of {folder} do not belong together: slc verify "
            "--checksums says what was altered, copy the artifact again."
        )
    files = {name: one for name, one in manifest["files"].items() if name != SBOM_FILE}
    about = {**manifest, "files": files}
    component = document["metadata"]["component"]
    component["version"] = _files_version(about)
    for entry in component["properties"]:
        if entry["name"] == MANIFEST_DIGEST:
            entry["value"] = manifest_digest(about)
    listed = [_file(name, entry["sha256"]) for name, entry in sorted(files.items())]
    document["components"] = [document["components"][0], *listed]
    document["dependencies"] = _dependencies(about)
    return {**document, "serialNumber": serial_number(document)}


def build_sbom(manifest: Mapping[str, Any], source: Source, tools: Iterable[str] = ()) -> Json:
    """The document of `add_sbom`."""
    metadata: Json = {
        "lifecycles": [{"phase": "build"}],
        "tools": {"components": [_tool(name) for name in sorted({*_ALWAYS, *tools})]},
        "component": _artifact(manifest, source),
    }
    time = source_date()
    if time is not None:
        metadata["timestamp"] = time
    files = [_file(name, entry["sha256"]) for name, entry in sorted(manifest["files"].items())]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": [_op_library(manifest), *files],
        "dependencies": _dependencies(manifest),
    }
    return {**document, "serialNumber": serial_number(document)}


def serial_number(document: Mapping[str, Any]) -> str:
    """Of a bill of materials: a name for its content, the number itself aside."""
    content = {key: value for key, value in document.items() if key != "serialNumber"}
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'slc:sbom:{_text(content)}')}"


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Of all that a manifest says, the entry of the bill of materials aside."""
    files = {name: entry for name, entry in manifest["files"].items() if name != SBOM_FILE}
    return hashlib.sha256(_text({**manifest, "files": files}).encode()).hexdigest()


def read_sbom(folder: Path) -> Json | None:
    """folder/sbom.cdx.json as `add_sbom` wrote it.

    Returns:
      None when there is none, or it was altered: its serial number is not that of its content.
    """
    try:
        document: Json = json.loads((folder / SBOM_FILE).read_text(encoding="utf-8"))
        return document if document["serialNumber"] == serial_number(document) else None
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def said_digest(sbom: Mapping[str, Any]) -> str | None:
    """`manifest_digest` of the manifest that it was made from."""
    properties = sbom["metadata"]["component"]["properties"]
    return next((p["value"] for p in properties if p["name"] == MANIFEST_DIGEST), None)


def said_files(sbom: Mapping[str, Any]) -> dict[str, str]:
    """{relative name: sha256} of every file of the artifact that it lists."""
    return {
        component["name"]: component["hashes"][0]["content"]
        for component in sbom["components"]
        if component["type"] == "file"
    }


def source_date() -> str | None:
    """SOURCE_DATE_EPOCH as CycloneDX spells a time, None where it is not set.

    Raises:
      RequestError: it is no time.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if not given:
        return None
    try:
        time = datetime.datetime.fromtimestamp(int(given), datetime.timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise RequestError(
            f"SOURCE_DATE_EPOCH: got {given!r}, wanted whole seconds since 1970; correct or "
            "unset it"
        ) from error
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: Mapping[str, Any]) -> str:
    """The same for equal values, however they were written."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _artifact(manifest: Mapping[str, Any], source: Source) -> Json:
    """Its version is a digest of its files: two artifacts with one version are the same."""
    device, provider = manifest["device"]["name"], manifest["provider"]
    return {
        "type": "machine-learning-model",
        "bom-ref": "artifact",
        "name": manifest["source"]["name"],
        "version": _files_version(manifest),
        "description": f"compiled by slc for {device}, {provider}",
        "pedigree": {"ancestors": [_source(manifest, source), *_adapters(manifest)]},
        "properties": [
            {"name": "slc:device", "value": device},
            {"name": "slc:provider", "value": provider},
            {"name": MANIFEST_DIGEST, "value": manifest_digest(manifest)},
        ],
    }


def _files_version(manifest: Mapping[str, Any]) -> str:
    digests = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return hashlib.sha256(_text(digests).encode()).hexdigest()[:16]


def _source(manifest: Mapping[str, Any], source: Source) -> Json:
    """The model that was compiled; of a structured checkpoint also the one it was made from."""
    said = manifest["source"]
    model = _model("source", said["name"], said["kind"], said["sha256"])
    if source.checkpoint is not None:
        meta = source.checkpoint.meta
        ancestor = _model("source-of-checkpoint", meta.source_name, meta.kind, meta.source_sha256)
        model["pedigree"] = {"ancestors": [ancestor]}
        model["properties"].append({"name": "slc:method", "value": meta.method})
    return model


def _adapters(manifest: Mapping[str, Any]) -> list[Json]:
    """Those that went into the weights; those for slots are files."""
    return [
        {"type": "machine-learning-model", "bom-ref": f"adapter:{name}", "name": name}
        for name in manifest["adapters"]["static"]
    ]


def _model(reference: str, name: str, kind: str, sha256: str) -> Json:
    return {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": name,
        "hashes": _hashes(sha256),
        "properties": [{"name": "slc:kind", "value": kind}],
    }


def _op_library(manifest: Mapping[str, Any]) -> Json:
    library = manifest["op_library"]
    component = {
        "type": "library",
        "bom-ref": _LIBRARY,
        "name": "slc-ops",
        **_version("slc-compiler"),
        "licenses": [{"license": {"id": LICENSE}}],
    }
    if library["sha256"]:
        component["hashes"] = _hashes(library["sha256"])
    else:
        component["description"] = f"not in the artifact: {library['note']}"
    return component


def _file(name: str, sha256: str) -> Json:
    component = {
        "type": "file", "bom-ref": f"{_FILE}{name}", "name": name, "hashes": _hashes(sha256)
    }  # fmt: skip
    if name in (LIBRARY_FILE, CUDA_LIBRARY_FILE):
        component["licenses"] = [{"license": {"id": LICENSE}}]
    return component


def _dependencies(manifest: Mapping[str, Any]) -> list[Json]:
    """The artifact needs all of them; a component that needs none stands there without any."""
    files = [f"{_FILE}{name}" for name in sorted(manifest["files"])]
    libraries = [f for f in (f"{_FILE}{LIBRARY_FILE}", f"{_FILE}{CUDA_LIBRARY_FILE}") if f in files]
    return [
        {"ref": "artifact", "dependsOn": [_LIBRARY, *files]},
        {"ref": _LIBRARY, "dependsOn": libraries},
        *({"ref": name} for name in files),
    ]


def _tool(name: str) -> Json:
    """A distribution from PyPI, under the name and in the version that is installed here."""
    for build in _BUILDS.get(name, (name,)):
        if version := _version(build):
            return {"type": "library", "name": build, **version}
    return {"type": "library", "name": name}


def _version(distribution: str) -> Json:
    """Version and package URL; empty when it is not installed as a distribution."""
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return {}
    quoted = urllib.parse.quote(version, safe="")
    return {"version": version, "purl": f"pkg:pypi/{distribution}@{quoted}"}


def _hashes(sha256: str) -> list[Json]:
    return [{"alg": "SHA-256", "content": sha256}]
