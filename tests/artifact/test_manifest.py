"""manifest.json: its schema, its hashes, its sameness."""

from __future__ import annotations

import importlib.resources
import json
import shutil
from pathlib import Path

import jsonschema
import pytest
from artifact.graphs import two_layers, write_artifact

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.genai import patch_genai_config
from slc.compiler.artifact.manifest import read_manifest, sha256
from slc.compiler.errors import ArtifactError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "out")


def schema() -> dict:
    folder = importlib.resources.files("slc.compiler.artifact")
    return json.loads(folder.joinpath("manifest.schema.json").read_text())


def test_manifest_obeys_the_published_schema(out: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(read_manifest(out), schema())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m.pop("files"),
        lambda m: m.update(extra=1),
        lambda m: m["source"].update(name="home/me/model"),
        lambda m: m["linears"][0]["choice"].pop("reason"),
        lambda m: m["files"]["model.onnx"].update(sha256="abc"),
    ],
)
def test_schema_refuses(out: Path, spoil) -> None:
    manifest = read_manifest(out)
    spoil(manifest)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, schema())


def test_says_what_is_in_the_folder(out: Path) -> None:
    manifest = read_manifest(out)
    assert set(manifest["files"]) == {"model.onnx", "model.onnx.data"}
    for name, entry in manifest["files"].items():
        assert entry == {"bytes": (out / name).stat().st_size, "sha256": sha256(out / name)}
    assert manifest["memory"]["predicted_bytes"] == 10_042_600
    assert [row["choice"]["reason"] for row in manifest["linears"]] == [None, "for the test"]
    assert manifest["refusals"] == [{"name": "tiny", "reason": "under 1 KB"}]
    rows = [{"parameter": "first.weight", "start": 0, "stop": 160}]
    assert manifest["adapters"] == {
        "static": [], "slots": 0, "sources": {"first": rows}, "loadable": [],
    }  # fmt: skip
    assert manifest["source"]["name"] == "two.onnx"


def test_two_exports_are_equal_wherever_and_whenever(tmp_path: Path) -> None:
    a = write_artifact(tmp_path / "a")
    b = write_artifact(tmp_path / "elsewhere" / "b", two_layers())
    for path in a.iterdir():
        assert path.read_bytes() == (b / path.name).read_bytes(), path.name
    text = (a / "manifest.json").read_text()
    assert str(tmp_path) not in text


def test_untouched_is_sound_and_notes_beside_are_allowed(out: Path) -> None:
    (out / "measured.json").write_text("{}")
    (out / "report.html").write_text("")
    (out / "libslc_ops.so").write_text("")  # the manifest asks for one
    (out / ".DS_Store").write_text("")
    assert Artifact.open(out).check() == []


def test_every_kind_of_damage_is_named(out: Path) -> None:
    data = out / "model.onnx.data"
    blob = bytearray(data.read_bytes())
    blob[len(blob) // 2] ^= 1
    data.write_bytes(blob)
    (out / "model.onnx").unlink()
    (out / "extra.txt").write_text("x")
    assert Artifact.open(out).check() == [
        "extra.txt is not in the manifest",
        "model.onnx is missing",
        "model.onnx.data was altered: its sha256 is not the manifest's",
    ]
    data.write_bytes(blob[:-1])
    problem = f"model.onnx.data has {len(blob) - 1} bytes instead of {len(blob)}"
    assert problem in Artifact.open(out).check()


def test_what_is_no_artifact(tmp_path: Path, out: Path) -> None:
    for path, sentence in (
        (tmp_path / "nowhere", "is not an artifact folder"),
        (out / "model.onnx", "is not an artifact folder"),
        (tmp_path, "has no manifest.json"),
    ):
        with pytest.raises(ArtifactError, match=sentence):
            Artifact.open(path)
    manifest = out / "manifest.json"
    for text, sentence in (
        ("{", "can't be read"),
        ("[1]", "not a manifest of slc"),
        ('{"schema_version": "1", "files": {}}', "not a manifest of slc"),
        ('{"schema_version": 2, "files": {}}', "schema version 2 and this slc reads up to 1"),
    ):
        manifest.write_text(text)
        with pytest.raises(ArtifactError, match=sentence):
            Artifact.open(out)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda m: m["linears"][0].pop("choice"), r"linears\[0\]\.choice is missing"),
        (lambda m: m.update(memory="x"), "memory is not of type object"),
        (lambda m: m["memory"].update(budget_bytes="x"), "budget_bytes is not of type integer or"),
        (lambda m: m.update(provider="tpu"), "provider is not one of 'cpu', 'cuda'"),
        (lambda m: m["linears"][1].update(N=0), r"linears\[1\]\.N is below 1"),
        (lambda m: m["files"].update(a=1), r"files\.a is not of type object"),
        (lambda m: m.update(schema_version=0), "schema_version is not 1"),
        (lambda m: m["adapters"].update(slots=True), r"adapters\.slots is not of type integer"),
        (lambda m: m["adapters"].update(loadable=[{}]), r"adapters\.loadable\[0\]\.linears is"),
    ],
)
def test_damaged_field_is_named(out: Path, spoil, problem: str) -> None:
    manifest = read_manifest(out)
    spoil(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=f"is damaged: .*{problem}.*; export the model again"):
        Artifact.open(out)


def test_session_runs_where_it_lies_and_after_a_move(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    x = np.ones((1, 2, 96), np.float32)
    first = Artifact.open(out).session().run(None, {"x": x})[0]
    moved = shutil.move(out, tmp_path / "moved")
    np.testing.assert_array_equal(Artifact.open(moved).session().run(None, {"x": x})[0], first)
    monkeypatch.chdir(tmp_path)
    again = Artifact.open("moved").session().run(None, {"x": x})[0]
    np.testing.assert_array_equal(again, first)


def test_no_silent_fallback_from_cuda(out: Path) -> None:
    manifest = read_manifest(out)
    manifest["provider"] = "cuda"
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="exported for CUDA"):
        Artifact.open(out).session()


def test_library_that_is_none_is_a_sentence(out: Path) -> None:
    (out / "libslc_ops.so").write_text("hi")
    with pytest.raises(ArtifactError, match=r"can't load the op library .*libslc_ops\.so: "):
        Artifact.open(out).session()


def test_missing_library_is_a_sentence(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLC_OPS_LIBRARY", "/nowhere/libslc_ops.so")
    with pytest.raises(ArtifactError, match="No op library for"):
        Artifact.open(out).session()


def test_genai_config_runs_what_was_counted() -> None:
    config = {
        "model": {"context_length": 2048, "decoder": {"session_options": {"log_id": "x"}}},
        "search": {"max_length": 2048},
    }
    before = json.dumps(config)
    patched = patch_genai_config(config, context=300, library_name="libslc_ops.so")
    assert json.dumps(config) == before
    assert patched["model"]["decoder"]["session_options"] == {
        "log_id": "x",
        "custom_ops_library": "libslc_ops.so",
    }
    assert patched["model"]["context_length"] == 300
    assert patched["search"]["max_length"] == 300
    longer = patch_genai_config(config, context=9999, library_name=None)
    assert longer["model"]["context_length"] == 2048
    assert "custom_ops_library" not in longer["model"]["decoder"]["session_options"]
