"""`slc doctor` as a user meets it: eight staged faults, each named with its fix, and exit 1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from artifact.graphs import write_artifact

import slc.ops
from slc.compiler.artifact.manifest import hash_files, read_manifest, write_manifest

Stage = Callable[[Path, Path], None]  # (artifact, a folder that comes first on the Python path)


def vouch(out: Path, change: Callable[[dict], object] = lambda m: None) -> None:
    manifest = read_manifest(out)
    change(manifest)
    manifest["files"] = hash_files(out)
    library = manifest["files"].get("libslc_ops.so")
    manifest["op_library"]["sha256"] = library and library["sha256"]
    write_manifest(out, manifest)


def installed(path: Path, name: str, version: str) -> None:
    """As if that version of a package were installed."""
    folder = path / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def change_bytes(path: Path, at: int, new: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(new)] = new
    path.write_bytes(data)


def library_missing(out: Path, path: Path) -> None:
    (out / "libslc_ops.so").unlink()


def wrong_architecture(out: Path, path: Path) -> None:
    change_bytes(out / "libslc_ops.so", 18, (0xB7).to_bytes(2, "little"))
    vouch(out)


def runtime_too_old(out: Path, path: Path) -> None:
    installed(path, "onnxruntime", "1.16.3")


def corrupt_blob(out: Path, path: Path) -> None:
    data = out / "model.onnx.data"
    change_bytes(data, data.read_bytes().index(b"SLCB") + 200, b"\xff\x00\xff")
    vouch(out)


def no_cuda_provider(out: Path, path: Path) -> None:
    shutil.copyfile(slc.ops.library_path(), out / "libslc_ops_cuda.so")
    vouch(out, lambda m: m.update(provider="cuda"))


def manifest_altered(out: Path, path: Path) -> None:
    vouch(out, lambda m: m["linears"][0]["choice"].update(value_type="i4"))


def genai_too_old(out: Path, path: Path) -> None:
    installed(path, "onnxruntime-genai", "0.8.3")
    (out / "genai_config.json").write_text("{}")
    vouch(out)


def unreadable_file(out: Path, path: Path) -> None:
    (out / "model.onnx.data").chmod(0)


FAULTS: dict[Stage, tuple[str, str]] = {
    library_missing: ("op library libslc_ops.so is missing", "copy it from where"),
    wrong_architecture: ("libslc_ops.so is for aarch64", "put a libslc_ops.so built for linux-"),
    runtime_too_old: ("onnxruntime 1.16.3 is older than 1.17", "install onnxruntime 1.17 or newer"),
    corrupt_blob: ("first.packed are damaged: ", "copy the artifact again"),
    no_cuda_provider: ("no CUDA provider", "install onnxruntime-gpu"),
    manifest_altered: ("manifest.json was altered: it says value type i4", "copy the manifest"),
    genai_too_old: ("onnxruntime-genai 0.8.3 does not find", "onnxruntime-genai 0.9.1 or newer"),
    unreadable_file: ("model.onnx.data can't be read: Permission denied", "chmod"),
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = write_artifact(tmp_path / "out")
    shutil.copyfile(slc.ops.library_path(), folder / "libslc_ops.so")
    vouch(folder, lambda m: m["op_library"].update(file="libslc_ops.so"))
    return folder


def doctor(out: Path, path: Path, *, unprivileged: bool = False) -> tuple[int, dict, str]:
    command = [sys.executable, "-m", "slc.compiler.cli", "doctor", str(out), "--json"]
    if unprivileged and os.geteuid() == 0:  # root reads everything
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv can read every file")
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={rights}", "--inh-caps=-all", *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), *_python_path()])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, json.loads(done.stdout), done.stderr


def _python_path() -> list[str]:
    return [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []


def schema() -> dict:
    text = resources.files("slc.compiler.artifact").joinpath("doctor.schema.json").read_text()
    return json.loads(text)


@pytest.mark.parametrize("stage", FAULTS, ids=lambda stage: stage.__name__)
def test_fault_is_named_with_its_fix(stage: Stage, out: Path, tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.mkdir()
    stage(out, path)
    code, document, text = doctor(out, path, unprivileged=stage is unreadable_file)
    what, fix = FAULTS[stage]
    assert code == 1
    jsonschema.validate(document, schema())
    assert document["passed"] is False
    (error,) = [f for f in document["findings"] if f["severity"] == "error"]
    assert what in error["what"]
    assert fix in error["fix"]
    assert error["what"] in text
    assert error["fix"] in text


def test_sound_artifact(out: Path, tmp_path: Path) -> None:
    code, document, text = doctor(out, tmp_path)
    assert (code, document["findings"]) == (0, [])
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(document, schema())
    assert document["facts"]["python"] == sys.version.split()[0]
    assert "nothing wrong found" in text


def explain(text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slc.compiler.cli", "doctor", "--explain", text, "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_explains_a_text() -> None:
    done = explain("Failed to load library /x.so with error: /x.so: cannot open shared object file")
    assert done.returncode == 0
    assert json.loads(done.stdout)["what"] == "the op library can't be loaded"
    done = explain("no such words")
    assert done.returncode == 2
    assert "none of the known errors" in json.loads(done.stdout)["error"]
