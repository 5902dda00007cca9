"""`measured.json`: what a machine measured of an artifact, beside it and outside the hashed set.

{"manifest_sha256": of what artifact, "verify": what `slc verify` found, "latency": what `slc bench`
timed}; every part is optional, and each writer keeps the parts of the others. It is defined by
`measured.schema.json` beside this file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slc.compiler.artifact.manifest import MANIFEST_FILE, MEASURED_FILE, Json, sha256, write_json
from slc.compiler.artifact.schema import first_problem, load_schema
from slc.compiler.errors import ArtifactError, RequestError


def read_measured(path: Path, manifest_sha256: str, *, missing_ok: bool = False) -> Json:
    """Reads a file of `slc verify --output` or `slc bench --output`.

    Args:
      path: the file.
      manifest_sha256: of the artifact that it should be about. A file that names none is taken.
      missing_ok: {} when there is no such file.

    Raises:
      RequestError: it can't be read, is no such file, or is about another artifact.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise RequestError(
            f"{path}: got no such file, wanted what slc verify or slc bench wrote with --output"
        ) from None
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path}: got a file that can't be read ({error}), wanted what slc verify or slc bench "
            "wrote; delete it and measure again"
        ) from error
    if isinstance(document, dict) and (timed := times(document)):
        document.setdefault("latency", timed)
    if problem := _problem(document):
        raise RequestError(
            f"{path}: got JSON in which {problem.strip()}, wanted what slc verify or slc bench "
            "wrote with --output; measure again"
        )
    if document.get("manifest_sha256", manifest_sha256) != manifest_sha256:
        raise RequestError(
            f"{path}: got measurements of another artifact (its manifest has another sha256); "
            "measure this one again"
        )
    result: Json = document
    return result


def _problem(document: Any) -> str | None:
    """What is wrong with a file first."""
    problem = first_problem(document, load_schema(__package__, "measured.schema.json"))
    if problem is None and "verify" in document:
        schema = load_schema(__package__, "verify.schema.json")
        problem = first_problem(document["verify"], schema, "verify")
    return problem


def times(document: Json) -> Json:
    """Times by what was timed, of the document of `slc bench`: the part "latency"."""
    measured = document.get("measured")
    quantities = measured.get("quantities") if isinstance(measured, dict) else None
    found = quantities if isinstance(quantities, list) else []
    return {str(one["name"]): one for one in found if isinstance(one, dict) and "name" in one}


def this_machine() -> dict[str, str]:
    """What a measurement was made on, for people."""
    import onnxruntime

    from slc.targets import load

    host = load("host")
    return {
        "description": host.description,
        "platform": host.platform_tag,
        "onnxruntime": onnxruntime.__version__,
    }


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Json:
    """Both, part by part; where both have one, the new."""
    return {**old, **new}


def keep_measured(artifact: Path, destination: Path | None, part: str, value: Json) -> Path:
    """Writes one part to the artifact's measured.json, or to `destination`, and keeps the rest.

    What an older export or a broken write left there is dropped.

    Raises:
      ArtifactError: the file can't be written.
    """
    path = artifact / MEASURED_FILE if destination is None else destination
    digest = sha256(artifact / MANIFEST_FILE)
    try:
        old = read_measured(path, digest, missing_ok=True)
    except RequestError:
        old = {}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_json(temporary, {**old, "manifest_sha256": digest, part: value})
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(
            f"{path} can't be written: {error.strerror}; name another file with --output"
        ) from error
    return path
