"""Holds an artifact's files against the hashes in its manifest and in its bill of materials.

Nothing is run, and neither onnxruntime nor a graph library is imported. The bill of materials has
every file's hash a second time, and a digest of the manifest: whoever altered the manifest alone,
or a file and the manifest, is found. Whoever rewrites all three is not: hashes are no signature.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from slc.compiler.artifact.manifest import (
    LIBRARY_FILE,
    MANIFEST_FILE,
    SBOM_FILE,
    Json,
    file_entry,
    list_files,
    read_manifest,
)
from slc.compiler.artifact.report import VerifyReport
from slc.compiler.artifact.sbom import manifest_digest, read_sbom, said_digest, said_files
from slc.compiler.errors import ArtifactError
from slc.compiler.progress import Progress


@dataclasses.dataclass(frozen=True)
class Checked:
    """What was hashed, and one sentence per difference."""

    problems: list[str]
    files: int
    bytes: int


def verify_checksums(path: Path | str, progress: Progress | None = None) -> VerifyReport:
    """Verifies the files of the artifact at `path` and nothing else.

    Args:
      path: what `slc export` wrote.
      progress: called as progress(bytes hashed, bytes in all, file).

    Raises:
      ArtifactError: it is no artifact, or a file can't be read.
    """
    path = Path(path)
    report = VerifyReport(path.name)
    report.take_checksums(check_files(path, read_manifest(path), progress))
    return report


def check_files(folder: Path, manifest: Json, progress: Progress | None = None) -> Checked:
    """Compares every file with its hashes; problems are in name order, the manifest's own last.

    Raises:
      ArtifactError: a file can't be read.
    """
    try:
        present = list_files(folder)
        found = _hashed(folder, present, manifest["files"], progress)
        by_name = _file_problems(present, found, manifest)
        own = _manifest_problems(folder, manifest, found, by_name)
    except OSError as error:
        raise ArtifactError(
            f"{error.filename} can't be read: {error.strerror}; give the user that runs it the "
            "right to (chmod -R a+rX)."
        ) from error
    problems = [problem for _, problem in sorted(by_name.items())]
    size = sum(entry["bytes"] for entry in found.values())
    return Checked(problems + own, len(found), size)


def awaited_library(manifest: Json) -> str | None:
    """The op library's name when the manifest asks the user to put one beside the model."""
    return None if manifest["op_library"]["file"] else LIBRARY_FILE


def _hashed(
    folder: Path, present: list[str], wanted: Json, progress: Progress | None
) -> dict[str, Json]:
    """Bytes and sha256 of every file that is there and listed."""
    names = [name for name in present if name in wanted]
    total = sum((folder / name).stat().st_size for name in names)
    done, found = 0, {}
    for name in names:
        found[name] = file_entry(folder / name, _shifted(progress, done, total, name))
        done += found[name]["bytes"]
    return found


def _shifted(progress: Progress | None, start: int, total: int, name: str) -> Progress | None:
    """One file's progress within that of all."""
    if progress is None:
        return None
    return lambda done, _size, _what: progress(start + done, total, name)


def _file_problems(present: list[str], found: dict[str, Json], manifest: Json) -> dict[str, str]:
    """By file, what is not as the manifest says."""
    problems, wanted = {}, manifest["files"]
    for name in {*present, *wanted}:
        if name not in present:
            problems[name] = f"{name} is missing"
        elif name not in wanted:
            if name != awaited_library(manifest):
                problems[name] = f"{name} is not in the manifest"
        elif found[name]["sha256"] == wanted[name]["sha256"]:
            if found[name]["bytes"] != wanted[name]["bytes"]:
                problems[name] = (
                    f"{MANIFEST_FILE} was altered: it says {wanted[name]['bytes']} bytes of "
                    f"{name}, whose sha256 is as it should be"
                )
        elif found[name]["bytes"] != wanted[name]["bytes"]:
            got, size = found[name]["bytes"], wanted[name]["bytes"]
            problems[name] = f"{name} has {got} bytes instead of {size}"
        else:
            problems[name] = f"{name} was altered: its sha256 is not the manifest's"
    return problems


def _manifest_problems(
    folder: Path, manifest: Json, found: dict[str, Json], by_name: dict[str, str]
) -> list[str]:
    """Where the manifest and the bill of materials disagree, and which of them was altered.

    Takes out of `by_name`, or rewords, what the bill of materials knows better. An artifact of an
    slc that wrote none has nothing to disagree.
    """
    if SBOM_FILE not in found:
        return []
    sbom = read_sbom(folder)
    listed = found[SBOM_FILE]["sha256"] == manifest["files"][SBOM_FILE]["sha256"]
    if sbom is None:
        if listed:  # the manifest was made to agree with it
            by_name[SBOM_FILE] = f"{SBOM_FILE} was altered: its serial number is not its content's"
        return []
    unchanged = said_digest(sbom) == manifest_digest(manifest)
    if not listed:
        if not unchanged:
            return []  # one of another artifact; the sentence about its sha256 says enough
        del by_name[SBOM_FILE]
        return [f"{MANIFEST_FILE} was altered: its sha256 of {SBOM_FILE} is not that file's"]
    own = list(_disagreements(manifest["files"], said_files(sbom), found, by_name))
    if not unchanged and not own:
        own = [
            f"{MANIFEST_FILE} was altered: {SBOM_FILE} was made from one with other contents "
            "(its files are the same)"
        ]
    return own


def _disagreements(
    wanted: Json, said: dict[str, str], found: dict[str, Json], by_name: dict[str, str]
) -> list[str]:
    """Files of which an intact bill of materials says something else than the manifest."""
    own = []
    for name in sorted({*wanted, *said} - {SBOM_FILE}):
        ours = wanted.get(name, {}).get("sha256")
        if name not in said:
            own.append(f"{MANIFEST_FILE} was altered: it lists {name}, which {SBOM_FILE} does not")
        elif name not in wanted:
            own.append(f"{MANIFEST_FILE} was altered: it lacks {name}, which {SBOM_FILE} lists")
        elif ours == said[name]:
            continue
        elif found.get(name, {}).get("sha256") == said[name]:
            by_name.pop(name)
            own.append(
                f"{MANIFEST_FILE} was altered: its sha256 of {name} is neither the file's nor that "
                f"of {SBOM_FILE}"
            )
        else:
            if name in found:
                by_name[name] = f"{name} was altered: its sha256 is not that of {SBOM_FILE}"
            own.append(
                f"{MANIFEST_FILE} was altered: its sha256 of {name} is not that of {SBOM_FILE}"
            )
    return own
