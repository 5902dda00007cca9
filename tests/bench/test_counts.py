"""Gate A: what was planted is found and named; what is equal or smaller passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.planted import add_dense, make_dense

from slc.compiler import export
from slc.compiler.artifact.artifact import Artifact
from slc.compiler.bench.causes import likely_causes
from slc.compiler.bench.counts import Counts, count
from slc.compiler.bench.gate_counts import Finding, check_counts
from slc.compiler.errors import RequestError

WEIGHTS = 96 * 96


def counts(path: Path) -> Counts:
    return count(Artifact.open(path))


def findings(base: Path, head: Path, allow: tuple[str, ...] = ()) -> dict[str, Finding]:
    return {f.rule: f for f in check_counts(counts(base), counts(head), allow)}


def named(finding: Finding) -> set[str]:
    return {name for name, _ in finding.names}


def test_counts_are_those_of_the_files(mlp_base: Path) -> None:
    got, manifest = counts(mlp_base), Artifact.open(mlp_base).manifest
    files = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    del files["sbom.cdx.json"]  # it grows with the names of versions
    assert got.files == files
    assert got.artifact_bytes == sum(files.values())
    assert got.ops == {"Relu": 3, "ai.slc.BitmapSparseGemm": 3}
    assert set(got.initializers) == {f"layer{i}.packed" for i in range(3)}
    assert got.read_bytes == got.initializer_bytes  # every weight once, no table
    assert got.initializer_bytes == sum(c["choice"]["weight_bytes"] for c in manifest["linears"])
    assert got.planned_bytes == manifest["memory"]["predicted_bytes"]
    assert got.dense == {}
    assert got.undeclared == []


def test_equal_and_smaller_pass(mlp_base: Path, mlp_copy: Path, tmp_path: Path) -> None:
    assert findings(mlp_base, mlp_copy) == {}
    larger = make_dense(mlp_base, tmp_path / "larger", ["layer1"])
    found = check_counts(counts(larger), counts(mlp_base))
    assert [f.rule for f in found] == ["ops.ai.slc.BitmapSparseGemm"]  # one more of ours, again


def test_one_extra_dense_linear_is_named(mlp_base: Path, tmp_path: Path) -> None:
    found = findings(mlp_base, make_dense(mlp_base, tmp_path / "head", ["layer1"]))
    assert set(found) == {"files", "initializers", "read", "ops.MatMul", "dense"}
    assert named(found["dense"]) == {"layer1"}
    assert "layer1" in found["dense"].what
    assert "planted" in found["dense"].what  # the manifest's reason
    assert found["read"].head - found["read"].base == found["initializers"].names[0][1] > 0
    assert named(found["initializers"]) == {"layer1", "layer1.weight"}
    assert found["ops.MatMul"].what == "1 nodes of MatMul instead of 0"


def test_undeclared_dense_is_found_without_a_base(mlp_base: Path, tmp_path: Path) -> None:
    head = make_dense(mlp_base, tmp_path / "head", ["layer0"], declare=False)
    (found,) = check_counts(None, counts(head))
    assert found.rule == "undeclared"
    assert named(found) == {"layer0"}
    head = add_dense(mlp_base, tmp_path / "more", 1)
    (found,) = check_counts(None, counts(head))
    assert named(found) == {"planted0"}


def test_one_added_byte_per_weight_is_named(mlp_base: Path, tmp_path: Path) -> None:
    """f16 instead of i8: a byte more for every stored weight, but no scales."""
    model = mlp_base.parent / "mlp.onnx"
    head = export(model, tmp_path / "head", density=0.5, rank=0, values="f16")
    found = findings(mlp_base, head)
    assert {"files", "initializers", "read"} <= set(found)
    assert "ops.MatMul" not in found
    for rule in ("files", "initializers", "read"):
        assert {f"layer{i}" for i in range(3)} <= named(found[rule])
    grown = dict(found["initializers"].names)
    scales = 2 * 96 * 2  # f16, one for 64 of the 96 columns
    assert grown["layer0.packed"] == WEIGHTS // 2 - scales


def test_one_byte_is_too_much(mlp_base: Path, mlp_copy: Path) -> None:
    with open(mlp_copy / "model.onnx.data", "ab") as file:
        file.write(b"\0")
    found = findings(mlp_base, mlp_copy)
    assert set(found) == {"files"}
    assert found["files"].names == (("model.onnx.data", 1),)


def test_planned_memory(mlp_base: Path, mlp_copy: Path) -> None:
    manifest = json.loads((mlp_copy / "manifest.json").read_text())
    manifest["memory"]["lines"][0]["bytes"] += 1
    manifest["memory"]["predicted_bytes"] += 1
    (mlp_copy / "manifest.json").write_text(json.dumps(manifest))
    found = findings(mlp_base, mlp_copy)
    assert set(found) == {"memory"}
    assert found["memory"].names == ((manifest["memory"]["lines"][0]["what"], 1),)


def test_what_is_meant_can_be_allowed(mlp_base: Path, tmp_path: Path) -> None:
    head = make_dense(mlp_base, tmp_path / "head", ["layer1"])
    allowed = ("files", "initializers", "read", "ops.MatMul", "dense")
    assert findings(mlp_base, head, allowed) == {}
    assert set(findings(mlp_base, head, allowed[:-1])) == {"dense"}
    with pytest.raises(RequestError, match="--allow: got 'bytes', wanted one of dense, files"):
        findings(mlp_base, head, ("bytes",))


def test_tables_are_read_by_the_row(tiny_llama_i8: Path) -> None:
    got = counts(tiny_llama_i8)
    tables = [name for name in got.read if got.read[name] < got.initializers[name]]
    assert tables
    for name in tables:
        assert "embed" in name or name in ("cos_cache", "sin_cache"), name
    assert got.read_bytes < got.initializer_bytes
    assert got.undeclared == []


def test_causes_name_what_changed(mlp_base: Path, tmp_path: Path) -> None:
    head = make_dense(mlp_base, tmp_path / "head", ["layer2"])
    manifests = [Artifact.open(path).manifest for path in (mlp_base, head)]
    found = check_counts(counts(mlp_base), counts(head))
    causes = likely_causes(*manifests, found)
    assert causes[0] == (
        "1 Linears went from bitmap i8 of density 0.5 at level 1 to dense f32 at level 1: layer2"
    )
    assert "more Linears dense" in causes[1]
    (nothing,) = likely_causes(manifests[0], manifests[0], [])
    assert "nothing that is counted grew" in nothing
