"""`slc verify --checksums`: files, manifest and bill of materials against each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from artifact.graphs import write_artifact

from slc.compiler import verify
from slc.compiler.artifact.checksums import verify_checksums
from slc.compiler.artifact.manifest import file_entry
from slc.compiler.artifact.sbom import manifest_digest, serial_number
from slc.compiler.errors import ArtifactError

DATA = "model.onnx.data"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "out", sbom=True)


def problems(out: Path) -> list[str]:
    return verify_checksums(out).checksum_problems


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=2))


def vouch(out: Path, name: str) -> None:
    """The manifest's entry of a file as it is now."""
    entry = file_entry(out / name)
    edit(out / "manifest.json", lambda m: m["files"].update({name: entry}))


def test_sound(out: Path) -> None:
    report = verify_checksums(out)
    assert report.passed
    assert report.files_checked == 3
    assert report.bytes_checked == sum(
        (out / name).stat().st_size for name in ("model.onnx", DATA, "sbom.cdx.json")
    )


def test_manifest_may_be_laid_out_otherwise(out: Path) -> None:
    edit(out / "manifest.json", lambda m: None)
    assert problems(out) == []


def test_artifact_without_a_bill_of_materials(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    assert problems(out) == []
    flip(out / DATA)
    assert problems(out) == [f"{DATA} was altered: its sha256 is not the manifest's"]


def test_tampered_missing_and_unlisted_files_are_named(out: Path) -> None:
    flip(out / DATA)
    (out / "model.onnx").unlink()
    (out / "notes").mkdir()
    (out / "notes" / "extra.txt").write_text("x")
    assert problems(out) == [
        "model.onnx is missing",
        f"{DATA} was altered: its sha256 is not the manifest's",
        "notes/extra.txt is not in the manifest",
    ]


def tampered_sbom(out: Path) -> None:
    edit(out / "sbom.cdx.json", lambda d: d["metadata"].pop("lifecycles"))


def tampered_sbom_that_the_manifest_vouches_for(out: Path) -> None:
    tampered_sbom(out)
    vouch(out, "sbom.cdx.json")


def sbom_gone(out: Path) -> None:
    (out / "sbom.cdx.json").unlink()


def sbom_of_another(out: Path) -> None:
    other = write_artifact(out.parent / "other", sbom=True)
    edit(other / "sbom.cdx.json", lambda d: d["components"].pop())
    edit(other / "sbom.cdx.json", lambda d: properties(d)[2].update(value="0" * 64))
    edit(other / "sbom.cdx.json", lambda d: d.update(serialNumber=serial_number(d)))
    (other / "sbom.cdx.json").replace(out / "sbom.cdx.json")


def properties(document: dict) -> list[dict]:
    return document["metadata"]["component"]["properties"]


def file_and_manifest(out: Path) -> None:
    flip(out / DATA)
    vouch(out, DATA)


def hash_in_manifest(out: Path) -> None:
    edit(out / "manifest.json", lambda m: m["files"][DATA].update(sha256="0" * 64))


def bytes_in_manifest(out: Path) -> None:
    edit(out / "manifest.json", lambda m: m["files"][DATA].update(bytes=7))


def hash_of_sbom_in_manifest(out: Path) -> None:
    edit(out / "manifest.json", lambda m: m["files"]["sbom.cdx.json"].update(sha256="0" * 64))


def source_in_manifest(out: Path) -> None:
    edit(out / "manifest.json", lambda m: m["source"].update(name="other.onnx"))


def file_taken_out_of_manifest(out: Path) -> None:
    edit(out / "manifest.json", lambda m: m["files"].pop(DATA))
    (out / DATA).unlink()


def file_added_to_manifest(out: Path) -> None:
    (out / "extra.bin").write_bytes(b"x")
    vouch(out, "extra.bin")


def all_three_differ(out: Path) -> None:
    flip(out / DATA)
    hash_in_manifest(out)


FAULTS: dict[Callable[[Path], None], list[str]] = {
    tampered_sbom: ["sbom.cdx.json has "],
    tampered_sbom_that_the_manifest_vouches_for: [
        "sbom.cdx.json was altered: its serial number is not its content's"
    ],
    sbom_gone: ["sbom.cdx.json is missing"],
    sbom_of_another: ["sbom.cdx.json has "],
    file_and_manifest: [
        f"{DATA} was altered: its sha256 is not that of sbom.cdx.json",
        f"manifest.json was altered: its sha256 of {DATA} is not that of sbom.cdx.json",
    ],
    hash_in_manifest: [
        f"manifest.json was altered: its sha256 of {DATA} is neither the file's nor that of sbom"
    ],
    bytes_in_manifest: [
        f"manifest.json was altered: it says 7 bytes of {DATA}, whose sha256 is as it",
        "manifest.json was altered: sbom.cdx.json was made from one with other contents",
    ],
    hash_of_sbom_in_manifest: [
        "manifest.json was altered: its sha256 of sbom.cdx.json is not that file's"
    ],
    source_in_manifest: [
        "manifest.json was altered: sbom.cdx.json was made from one with other contents"
    ],
    file_taken_out_of_manifest: [
        f"manifest.json was altered: it lacks {DATA}, which sbom.cdx.json lists"
    ],
    file_added_to_manifest: [
        "manifest.json was altered: it lists extra.bin, which sbom.cdx.json does not"
    ],
    all_three_differ: [
        f"{DATA} was altered: its sha256 is not that of sbom.cdx.json",
        f"manifest.json was altered: its sha256 of {DATA} is not that of sbom.cdx.json",
    ],
}


@pytest.mark.parametrize("stage", FAULTS, ids=lambda stage: stage.__name__)
def test_who_was_altered_is_said(out: Path, stage: Callable[[Path], None]) -> None:
    stage(out)
    found = problems(out)
    assert len(found) == len(FAULTS[stage]), found
    for got, wanted in zip(found, FAULTS[stage], strict=True):
        assert got.startswith(wanted)


def test_whoever_rewrites_all_three_is_not_found(out: Path) -> None:
    """What the module says hashes are not: a signature. This test pins the limit down."""
    flip(out / DATA)
    vouch(out, DATA)
    document = json.loads((out / "sbom.cdx.json").read_text())
    (entry,) = (c for c in document["components"] if c["name"] == DATA)
    entry["hashes"][0]["content"] = file_entry(out / DATA)["sha256"]
    manifest = json.loads((out / "manifest.json").read_text())
    properties(document)[2]["value"] = manifest_digest(manifest)
    document["serialNumber"] = serial_number(document)
    (out / "sbom.cdx.json").write_text(json.dumps(document))
    vouch(out, "sbom.cdx.json")
    assert problems(out) == []


def test_altered_file_that_the_manifest_vouches_for_is_not_run(out: Path) -> None:
    file_and_manifest(out)
    report = verify(out)
    assert not report.passed
    assert report.outputs == []


def test_progress_is_in_bytes_and_reaches_the_end(out: Path) -> None:
    with open(out / "large.bin", "wb") as file:
        file.truncate(10 << 20)
    vouch(out, "large.bin")
    steps: list[tuple[int, int, str]] = []
    report = verify_checksums(out, lambda *step: steps.append(step))
    done = [step[0] for step in steps]
    assert done == sorted(set(done))
    assert {step[1] for step in steps} == {report.bytes_checked}
    assert done[-1] == report.bytes_checked
    assert [step[2] for step in steps].count("large.bin") == 3  # pieces of 4 MiB


def slc(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "slc.compiler.cli", *map(str, args)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def schema() -> dict:
    text = resources.files("slc.compiler.artifact").joinpath("verify.schema.json").read_text()
    return json.loads(text)


def test_command(out: Path) -> None:
    done = slc("verify", out, "--checksums", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema())
    assert (document["passed"], document["files_checked"]) == (True, 3)
    assert "3 files" in done.stderr
    assert not (out / "measured.json").exists()
    file_and_manifest(out)
    (out / "[b]odd.txt").write_text("x")
    done = slc("verify", out, "--checksums", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema())
    assert len(document["checksum_problems"]) == 3
    for problem in document["checksum_problems"]:
        assert problem in done.stderr
    done = slc("verify", out.parent, "--checksums")
    assert done.returncode == 2
    assert "has no manifest.json" in done.stderr


def test_imports_nothing_that_runs_a_graph(out: Path) -> None:
    """It is there for devices, where importing a graph library takes seconds."""
    code = (
        "import sys; from slc.compiler.cli import app\n"
        f"app(['verify', {str(out)!r}, '--checksums'], standalone_mode=False)\n"
        "print(sorted({'onnx', 'onnx_ir', 'onnxruntime', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_unreadable_file_is_one_sentence(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.stat

    def stat(path: Path, **kwargs: bool) -> os.stat_result:
        if path.name == DATA and "follow_symlinks" not in kwargs:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **kwargs)

    monkeypatch.setattr("slc.compiler.artifact.checksums.list_files", lambda folder: [DATA])
    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(ArtifactError, match=r"model\.onnx\.data can't be read: Permission denied"):
        verify_checksums(out)
