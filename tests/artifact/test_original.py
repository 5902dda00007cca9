"""An artifact against its original, Linear by Linear; and what `slc verify` keeps and prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from artifact.graphs import write_artifact
from onnx import numpy_helper
from test_cli import mlp

from slc.compiler import export
from slc.compiler.artifact.distances import distance, relative_error
from slc.compiler.artifact.manifest import sha256
from slc.compiler.artifact.verify import verify

WAYS = {
    "sparse with an adapter": {"density": 0.9, "rank": 4},
    "every weight in f16": {"density": 1.0, "rank": 0, "values": "f16"},
    "adapters in int8": {"density": 0.9, "rank": 4, "adapter_values": "i8"},
    "dense int8": {"mem": "1GB", "allocation": "dense_int8"},
    "as it is": {"values": "dense"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlp(tmp_path_factory.mktemp("mlp") / "mlp.onnx")


@pytest.mark.parametrize("way", WAYS)
def test_every_linear_is_found_and_near(way: str, model: Path, tmp_path: Path) -> None:
    report = verify(export(model, tmp_path / "out", **WAYS[way]), reference=model, memory=False)
    assert [d.linear for d in report.linear_distances] == ["w1", "w2"]
    for d in report.linear_distances:
        assert d.relative_error < 0.3
        assert d.cosine > 0.95
        if way == "every weight in f16":
            assert 0 < d.relative_error < 2.0**-11  # each weight is off by half a unit at most
        if way == "as it is":
            assert d.relative_error == 0
    outputs = [d for d in report.distances if d.against == "original"]
    assert outputs
    assert all(d.relative_squared_error < 0.1 for d in outputs)


def test_where_the_original_differs_is_named(model: Path, tmp_path: Path) -> None:
    out = export(model, tmp_path / "out", density=1.0, rank=0, values="f16")
    other = onnx.load(model)
    weight = next(i for i in other.graph.initializer if i.name == "w2")
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), "w2"))
    onnx.save(other, tmp_path / "other.onnx")
    first, second = verify(
        out, reference=tmp_path / "other.onnx", memory=False
    ).linear_distances  # fmt: skip
    assert first.relative_error < 1e-3
    assert second.relative_error == pytest.approx(0.5, abs=1e-3)  # half of what it should be
    assert second.cosine == pytest.approx(1.0, abs=1e-6)


def test_distances() -> None:
    a, b = np.array([1.0, 2.0], np.float32), np.array([1.0, 0.0], np.float32)
    d = distance("original", "y", "p", a, b)
    assert (d.max_error, d.mean_error, d.relative_squared_error) == (2.0, 1.0, 4.0)
    assert d.cosine == pytest.approx(1 / np.sqrt(5))
    zero = np.zeros(2, np.float32)
    assert relative_error(zero, zero) == 0
    assert relative_error(a, zero) == np.inf
    assert np.isnan(relative_error(np.array([np.nan]), np.ones(1)))


def slc(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slc.compiler.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def schema(name: str) -> dict:
    text = resources.files("slc.compiler.artifact").joinpath(name).read_text()
    found: dict = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def test_json_has_a_schema_and_is_kept(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    done = slc("verify", out, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema("verify.schema.json"))
    assert len(document["linears"]) == 4
    assert document["memory"]["measured_bytes"] > 0
    kept = json.loads((out / "measured.json").read_text())
    jsonschema.validate(kept, schema("measured.schema.json"))
    assert kept["verify"] == document
    assert kept["manifest_sha256"] == sha256(out / "manifest.json")
    assert "outputs against the same weights run densely" in done.stderr
    assert "operators against f64" in done.stderr
    assert "MB of 50.0 MB ok" in done.stderr.replace(", of", " of")


def test_failures_and_infinities_obey_the_schema(tmp_path: Path) -> None:
    report = verify(write_artifact(tmp_path / "out"), memory=False)
    spoilt = report.to_json()
    spoilt["distances"] = [
        {"against": "original", "output": "y", "probe": "p", "max_error": "inf", "mean_error": 0.5,
         "cosine": "nan", "relative_squared_error": "inf"}
    ]  # fmt: skip
    jsonschema.validate(spoilt, schema("verify.schema.json"))
    (tmp_path / "out" / "model.onnx").write_bytes(b"")
    broken = verify(tmp_path / "out", memory=False)
    assert not broken.passed
    jsonschema.validate(broken.to_json(), schema("verify.schema.json"))


def test_output_may_be_kept_elsewhere(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    done = slc("verify", out, "--no-memory", "--output", tmp_path / "m.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text())["verify"]["passed"] is True
    assert not (out / "measured.json").exists()
    done = slc("verify", out, "--no-memory", "--output", tmp_path / "nowhere" / "m.json", "--json")
    assert done.returncode == 2
    assert "can't be written" in json.loads(done.stdout)["error"]
    assert "--output" in json.loads(done.stdout)["error"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_artifact(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    out.chmod(0o555)
    done = slc("verify", out, "--no-memory")
    assert done.returncode == 0
    assert "can't be written" in done.stderr
