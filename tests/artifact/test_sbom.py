"""sbom.cdx.json: CycloneDX's own schema, what it names, its sameness."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest
from artifact.graphs import source_of, two_layers, write_artifact
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from slc.compiler import export
from slc.compiler.artifact.manifest import read_manifest, sha256
from slc.compiler.artifact.sbom import add_sbom, build_sbom, read_sbom, serial_number
from slc.compiler.errors import RequestError


def problem(document: dict) -> str | None:
    """What CycloneDX's strict schema of 1.6 says of it first."""
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    return None if found is None else str(found)


def read(folder: Path) -> dict:
    return json.loads((folder / "sbom.cdx.json").read_text())


def onnx_model(path: Path) -> Path:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="only")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 48])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sbom")
    export(
        onnx_model(folder / "one.onnx"), folder / "out", density=0.5, rank=4,
        save_structured=folder / "one.slr",
    )  # fmt: skip
    return folder / "out"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "out", sbom=True)


def test_obeys_cyclonedx(exported: Path) -> None:
    assert read(exported)["specVersion"] == "1.6"
    assert problem(read(exported)) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.update(bomFormat="SPDX"),
        lambda d: d.update(made_by="slc"),
        lambda d: d["components"][0].pop("name"),
        lambda d: d["components"][1]["hashes"][0].update(content="abc"),
        lambda d: d["components"][0].update(licenses=[{"license": {"id": "Apache 2"}}]),
        lambda d: d["metadata"].update(timestamp="yesterday"),
    ],
)
def test_the_schema_that_it_is_held_to_refuses(exported: Path, spoil) -> None:
    document = read(exported)
    spoil(document)
    assert problem(document) is not None


def test_lists_every_file_but_the_manifest_and_itself(exported: Path) -> None:
    files = {c["name"]: c["hashes"] for c in read(exported)["components"] if c["type"] == "file"}
    names = {p.name for p in exported.iterdir()}
    assert {"libslc_ops.so", "model.onnx", "model.onnx.data"} <= names
    assert set(files) == names - {"manifest.json", "sbom.cdx.json"}
    for name, hashes in files.items():
        assert hashes == [{"alg": "SHA-256", "content": sha256(exported / name)}]
    entry = read_manifest(exported)["files"]["sbom.cdx.json"]
    assert entry["sha256"] == sha256(exported / "sbom.cdx.json")


def test_names_the_source_the_op_library_and_the_tools(exported: Path) -> None:
    document, manifest = read(exported), read_manifest(exported)
    (source,) = document["metadata"]["component"]["pedigree"]["ancestors"]
    assert source["name"] == "one.onnx"
    assert source["properties"] == [{"name": "slc:kind", "value": "onnx"}]
    assert source["hashes"][0]["content"] == manifest["source"]["sha256"]
    library = document["components"][0]
    slc = importlib.metadata.version("slc-compiler")
    assert (library["name"], library["version"]) == ("slc-ops", slc)
    assert library["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert library["hashes"][0]["content"] == sha256(exported / "libslc_ops.so")
    tools = {t["name"]: t.get("version") for t in document["metadata"]["tools"]["components"]}
    wanted = {"slc-compiler", "numpy", "onnx", "onnx-ir", "onnxruntime", "scipy"}
    assert tools == {name: importlib.metadata.version(name) for name in wanted}


def test_every_component_stands_in_the_dependency_graph_once(exported: Path) -> None:
    document = read(exported)
    references = [c["bom-ref"] for c in document["components"]]
    graph = {row["ref"]: row.get("dependsOn", []) for row in document["dependencies"]}
    assert sorted(graph) == sorted([*references, "artifact"])
    assert sorted(graph["artifact"]) == sorted(references)
    assert graph["op-library"] == ["file:libslc_ops.so"]


def test_of_a_checkpoint_it_names_both_models(exported: Path, tmp_path: Path) -> None:
    checkpoint = exported.parent / "one.slr"
    document = read(export(checkpoint, tmp_path / "out", density=0.4, rank=2))
    assert problem(document) is None
    (source,) = document["metadata"]["component"]["pedigree"]["ancestors"]
    (model,) = source["pedigree"]["ancestors"]
    assert (source["name"], model["name"]) == ("one.slr", "one.onnx")
    first = read(exported)["metadata"]["component"]["pedigree"]["ancestors"][0]
    assert model["hashes"] == first["hashes"]


@pytest.mark.slow
def test_of_a_decoder_it_names_what_made_the_graph(tiny_llama: Path, tmp_path: Path) -> None:
    out = export(tiny_llama, tmp_path / "out", density=0.5, rank=2)
    document = read(out)
    assert problem(document) is None
    tools = {t["name"]: t for t in document["metadata"]["tools"]["components"]}
    assert {"onnxruntime-genai", "torch", "transformers"} <= set(tools)
    torch = importlib.metadata.version("torch").replace("+", "%2B")
    assert tools["torch"]["purl"] == f"pkg:pypi/torch@{torch}"
    files = {c["name"] for c in document["components"] if c["type"] == "file"}
    assert {"genai_config.json", "tokenizer.json"} <= files


def test_library_that_is_not_there_and_adapters_are_named(out: Path) -> None:
    manifest = read_manifest(out)
    manifest["adapters"]["static"] = ["task"]
    del manifest["files"]["sbom.cdx.json"]
    document = build_sbom(manifest, source_of(two_layers()))
    assert problem(document) is None
    assert document["components"][0]["description"] == "not in the artifact: none in this test"
    ancestors = document["metadata"]["component"]["pedigree"]["ancestors"]
    assert [a["name"] for a in ancestors] == ["two.onnx", "task"]


def test_two_exports_are_equal(exported: Path, tmp_path: Path) -> None:
    model = exported.parent / "one.onnx"
    again = export(model, tmp_path / "elsewhere" / "b", density=0.5, rank=4)
    for name in ("sbom.cdx.json", "manifest.json"):
        assert (again / name).read_bytes() == (exported / name).read_bytes(), name
    assert "timestamp" not in read(again)["metadata"]
    other = export(model, tmp_path / "other", density=0.4, rank=4)
    assert read(other)["serialNumber"] != read(exported)["serialNumber"]


def test_time_is_that_of_the_environment(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    document = read(write_artifact(tmp_path / "out", sbom=True))
    assert document["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    assert problem(document) is None
    for wrong in ("noon", "1e9", "9" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(RequestError, match=f"SOURCE_DATE_EPOCH: got '{wrong}', wanted whole"):
            export(exported.parent / "one.onnx", tmp_path / "refused", density=0.5)
    assert not (tmp_path / "refused").exists()


def test_serial_number_vouches_for_the_content(out: Path) -> None:
    document = read(out)
    assert read_sbom(out) == document
    document["components"][1]["hashes"][0]["content"] = "0" * 64
    assert serial_number(document) != document["serialNumber"]
    (out / "sbom.cdx.json").write_text(json.dumps(document))
    assert read_sbom(out) is None
    for text in ("", "[]", "{}", '{"serialNumber": NaN}', '{"serialNumber": 1e999}'):
        (out / "sbom.cdx.json").write_text(text)
        assert read_sbom(out) is None
    (out / "sbom.cdx.json").unlink()
    assert read_sbom(out) is None


def test_another_build_of_onnxruntime_is_named_as_it_is(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where onnxruntime-gpu is installed no distribution has the name onnxruntime."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("onnxruntime", "onnx"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.23.0" if name == "onnxruntime-gpu" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    folder = shutil.copytree(out, out.parent / "copy")
    manifest = read_manifest(folder)
    del manifest["files"]["sbom.cdx.json"]
    add_sbom(folder, manifest, source_of(two_layers()))
    document = read(folder)
    assert problem(document) is None
    tools = {t["name"]: t for t in document["metadata"]["tools"]["components"]}
    assert tools["onnxruntime-gpu"]["purl"] == "pkg:pypi/onnxruntime-gpu@1.23.0"
    assert tools["onnx"] == {"type": "library", "name": "onnx"}
