"""`slc report` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from artifact.graphs import write_artifact


def slc(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slc.compiler.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_writes_a_page(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    done = slc("report", out, "--json")
    assert done.returncode == 0, done.stderr
    text = resources.files("slc.compiler.report").joinpath("report.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(text))
    assert document["page"] == str(out / "report.html")
    assert document["bytes"] == (out / "report.html").stat().st_size
    assert "open it in a browser" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "not an artifact folder"),
        (["OUT", "-o", "OUT/manifest.json"], "exists already: choose another name or pass --force"),
        (["OUT", "--measured", "OUT/model.onnx"], "got a file that can't be read"),
        (["OUT", "--frontier", "OUT/manifest.json"], "wanted what slc frontier --json printed"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    out = write_artifact(tmp_path / "out")
    done = slc("report", *(one.replace("OUT", str(out)) for one in arguments), "--json")
    assert done.returncode == 2
    assert words in json.loads(done.stdout)["error"]
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / "report.html").exists()
