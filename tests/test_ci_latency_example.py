"""examples/ci_latency: the three outcomes, and that GitHub would take the workflow."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from examples.ci_latency.__main__ import build
from slc.compiler.bench import gate_paired

pytest_plugins = ["pytester"]

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "ci_latency"


@pytest.mark.slow
def test_three_outcomes(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one takes more than twice as long: even a busy machine sees that."""
    build(tmp_path)
    monkeypatch.setattr(gate_paired, "PAIR_SECONDS", 0.3)
    pytester.makepyfile((FOLDER / "test_latency.py").read_text())
    options = ("--slc-base", str(tmp_path / "base"), "--slc-artifacts", str(tmp_path / "head"))
    result = pytester.runpytest_inprocess("-v", *options, "--slc-max-slowdown", "40%")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*::test_equal_is_no_slower PASSED*",
            "*::test_slower_is_found FAILED*",
            "*::test_too_little_time_decides_nothing INCONCLUSIVE*",
            "failed: batch 1: * slower than the base, between * allowed (gate B)",
            "likely cause: 8 Linears went from bitmap i4 * at level 4 to * at level 1: layer0, *",
        ]
    )


def test_workflow_is_valid() -> None:
    schemas = pytest.importorskip("check_jsonschema.builtin_schemas")
    from check_jsonschema.parsers import ParserSet

    schema = schemas.get_builtin_schema("vendor.github-workflows")
    workflow = FOLDER / "workflow.yml"
    document = ParserSet().parse_file(workflow, "yaml")
    jsonschema.Draft7Validator(schema).validate(document)
    steps = document["jobs"]["latency"]["steps"]
    assert sum("--slc-base" in step.get("run", "") for step in steps) == 1
    # That the check bites: a step that does nothing is none.
    steps.append({"name": "nothing", "rnu": "true"})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(document)
