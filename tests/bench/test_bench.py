"""`slc bench` as a user meets it: every part once on a small artifact, and every error."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from artifact.graphs import write_artifact
from bench.planted import make_dense

from slc.compiler.bench import gate_paired, measurement, process, subject
from slc.compiler.bench.bench import bench
from slc.compiler.bench.report import BenchReport
from slc.compiler.bench.request import BenchRequest, share
from slc.compiler.bench.sequential import pairs_least
from slc.compiler.bench.tables import lines, markdown
from slc.compiler.errors import ArtifactError, RequestError

NEVER = "1000%"  # a limit that no noise reaches: these tests run beside others


def schema() -> dict[str, Any]:
    folder = importlib.resources.files("slc.compiler.bench")
    return dict(json.loads(folder.joinpath("bench.schema.json").read_text()))


def checked(report: BenchReport) -> dict[str, Any]:
    """The document, which the published schema takes and JSON can write."""
    document = report.to_json()
    jsonschema.validate(document, schema(), cls=jsonschema.Draft202012Validator)
    json.dumps(document, allow_nan=False)
    return document


def slc(*arguments: object) -> subprocess.CompletedProcess[str]:
    return slc_command("bench", *arguments)


def slc_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "slc.compiler.cli", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of a moment: what is tested here is not what they measure."""
    monkeypatch.setattr(gate_paired, "PAIR_SECONDS", 0.05)


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_an_artifact_by_itself(mlp_base: Path) -> None:
    report = bench(mlp_base, request=BenchRequest(seconds=0.3, threads=1, batch=2))
    document = checked(report)
    assert document["verdict"] == "measured"
    assert document["exit_code"] == 0
    assert document["load"] | {"context": 0} == {
        "batch": 2, "cold": False, "context": 0, "decoder": False, "prompt_tokens": None,
        "threads": 1,
    }  # fmt: skip
    measured = document["measured"]
    assert measured["engine"] == "onnxruntime"
    (passes,) = measured["quantities"]
    assert passes["name"] == "batch 2"
    assert passes["runs"] == len(passes["samples_ms"]) >= 5
    assert 0 < passes["p50_ms"] <= passes["p90_ms"] <= passes["p99_ms"]
    rate = document["counts"]["read_bytes"] / passes["p50_ms"] * 1e3
    assert passes["bytes_per_s"] == pytest.approx(rate)
    assert passes["bandwidth_share"] == pytest.approx(rate / measured["bandwidth_bytes_per_s"])
    assert len(measured["load"]["samples_ms"]) == 3
    assert measured["session_bytes"]["median"] > 0
    assert document["gate_counts"] is None
    assert document["gate_paired"] is None


def test_times_beside_what_verify_found(mlp_copy: Path) -> None:
    file = mlp_copy / "measured.json"
    assert slc_command("verify", mlp_copy).returncode == 0
    found = json.loads(file.read_text())["verify"]
    done = slc(mlp_copy, "--seconds", 0.2, "--output", file)
    assert done.returncode == 0, done.stderr
    document = json.loads(file.read_text())
    assert document["verify"] == found
    (timed,) = document["latency"].values()
    assert timed["p50_ms"] > 0
    refused = slc(mlp_copy, "--counts-only", "--against", mlp_copy, "--output", file)
    assert refused.returncode == 2
    assert "name another file" in refused.stderr
    assert json.loads(file.read_text()) == document


def test_lengths_where_they_are_open(tmp_path: Path) -> None:
    report = bench(write_artifact(tmp_path / "two"), request=BenchRequest(seconds=0.1, context=40))
    names = [q["name"] for q in checked(report)["measured"]["quantities"]]
    assert names == ["1x40", "1x16"]


def test_cold(mlp_copy: Path) -> None:
    document = checked(bench(mlp_copy, request=BenchRequest(cold=True)))
    assert document["load"]["cold"] is True
    assert document["measured"]["quantities"] == []
    assert len(document["measured"]["first_run"]["samples_ms"]) == 5


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("engine", ["onnxruntime-genai", "onnxruntime, caches fed back"])
def test_decoder(tiny_llama_i8: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through genai, and without it, by plain onnxruntime."""
    if engine.startswith("onnxruntime,"):
        monkeypatch.setattr(subject.importlib.util, "find_spec", lambda name: None)
    report = bench(tiny_llama_i8, request=BenchRequest(seconds=0.3, threads=1))
    document = checked(report)
    assert document["measured"]["engine"] == engine
    first, decode = document["measured"]["quantities"]
    assert (first["name"], decode["name"]) == ("first token", "decode")
    assert decode["tokens_per_s"] == pytest.approx(1e3 / decode["p50_ms"])
    assert first["tokens_per_s"] is None
    assert document["load"]["context"] == 32
    request = BenchRequest(max_slowdown=NEVER, max_growth=NEVER, threads=1)
    paired = checked(bench(tiny_llama_i8, against=tiny_llama_i8, request=request))["gate_paired"]
    assert [q["name"] for q in paired["quantities"]] == ["first token", "decode", "session memory"]
    assert paired["decision"] == "pass"


@pytest.mark.usefixtures("short")
def test_against_a_copy_passes_and_says_so(mlp_base: Path, mlp_copy: Path) -> None:
    request = BenchRequest(max_slowdown=NEVER, max_growth=NEVER, threads=1)
    report = bench(mlp_copy, against=mlp_base, request=request)
    document = checked(report)
    assert document["verdict"] == "passed"
    assert document["gate_counts"]["passed"] is True
    times, memory = document["gate_paired"]["quantities"]
    assert times["pairs"] == memory["pairs"] == pairs_least()
    assert times["interval"][0] < times["ratio"] < times["interval"][1] < times["ratio_most"]
    assert memory["unit"] == "bytes"
    assert memory["base"] > 10**6
    text = markdown(report)
    assert "`copy` against `base`: **passed**" in text
    assert "| batch 1 |" in text


def test_the_time_limit_is_kept(mlp_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where a process does not answer: the document says that nothing was compared."""
    monkeypatch.setattr(process, "_RUN_FILE", "import time; time.sleep(600)")
    begin = time.perf_counter()
    request = BenchRequest(time_limit_s=3.0)
    document = checked(bench(mlp_base, against=mlp_base, request=request))
    assert time.perf_counter() - begin < 60  # the processes are ended, not waited for
    assert document["verdict"] == "inconclusive"
    assert document["gate_paired"]["ended"] == "time"
    assert [q["pairs"] for q in document["gate_paired"]["quantities"]] == [0, 0]
    assert "not one pair of processes" in document["doubts"][0]


def test_growth_fails_with_names_and_causes(mlp_base: Path, tmp_path: Path) -> None:
    head = make_dense(mlp_base, tmp_path / "head", ["layer1"])
    request = BenchRequest(counts_only=True)
    document = checked(bench(head, against=mlp_base, request=request))
    assert document["verdict"] == "failed"
    assert document["exit_code"] == 1
    assert any("layer1" in failure for failure in document["failures"])
    assert "1 Linears went from bitmap i8" in document["likely_causes"][0]


def test_limits(mlp_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "PROCESSES", 1)

    def judged(max_p90_ms: float, **options: Any) -> BenchReport:
        request = BenchRequest(seconds=0.1, threads=1, max_p90_ms=max_p90_ms, **options)
        return bench(mlp_base, request=request)

    machine = judged(1e6, any_machine=True)
    assert checked(machine)["verdict"] == "passed"
    slow = judged(1e-6, any_machine=True)
    assert checked(slow)["exit_code"] == 1
    assert "at most 1e-06 ms allowed (gate C)" in slow.failures()[0]
    other = judged(1e6, expect="0" * 12)
    assert checked(other)["exit_code"] == 3
    assert machine.environment.fingerprint in other.doubts()[0]
    assert any("--any-machine" in line for line in lines(other))


@pytest.mark.usefixtures("short")
def test_calibrate(mlp_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_paired, "HORIZON", 7)
    request = BenchRequest(calibrate=True, threads=1, time_limit_s=15)
    document = checked(bench(mlp_base, request=request))
    assert document["verdict"] == "measured"
    (found,) = document["calibration"]
    assert found["pairs"] == len(found["ratios"])
    if found["pairs"] >= pairs_least():  # a busy machine may be slower than that
        assert found["smallest_max_slowdown"] > 0
        both = (1 + found["max_slowdown"]) * (1 + found["smallest_max_slowdown"]) - 1
        assert found["detectable_slowdown"] == pytest.approx(both)


BAD_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "no percent sign": ({"max_slowdown": "5"}, "a percentage such as 5%"),
    "negative": ({"max_growth": "-5%"}, "--max-growth"),
    "absurd": ({"max_slowdown": "2000%"}, "2000%"),
    "no time": ({"time_limit_s": 0.0}, "--time-limit: got 0, wanted a number above 0"),
    "too little time": ({"time_limit_s": 0.5}, "--time-limit: got 0.5 s, wanted at least"),
    "no seconds": ({"seconds": -1.0}, "--seconds"),
    "endless": ({"seconds": float("nan")}, "--seconds"),
    "no limit": ({"max_p90_ms": 0.0}, "--max-p90"),
    "bad fingerprint": ({"expect": "here", "max_p90_ms": 1.0}, "12 digits"),
    "machine without a limit": ({"any_machine": True}, "--any-machine is about --max-p90"),
    "runner without a limit": ({"expect": "0" * 12}, "--expect is about --max-p90"),
    "both": ({"expect": "0" * 12, "any_machine": True, "max_p90_ms": 1.0}, "contradict"),
    "cold limit": ({"cold": True, "max_p90_ms": 1.0}, "--cold times no warm run"),
    "cold calibration": ({"cold": True, "calibrate": True}, "--calibrate needs"),
    "counts that run": ({"counts_only": True, "calibrate": True}, "--counts-only runs nothing"),
    "calibrated limit": ({"calibrate": True, "max_p90_ms": 1.0}, "leave out --max-p90"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests(case: str) -> None:
    options, wanted = BAD_REQUESTS[case]
    with pytest.raises(RequestError, match=wanted):
        BenchRequest(**options)


def test_shares() -> None:
    assert share("--max-slowdown", "2.5 %") == pytest.approx(0.025)
    assert share("--max-slowdown", "0%") == 0


BAD_COMMANDS = {
    "no artifact": (["nowhere"], "nowhere is not an artifact folder"),
    "no base": (["BASE", "--against", "nowhere"], "nowhere is not an artifact folder"),
    "cold comparison": (["BASE", "--against", "BASE", "--cold"], "--cold is about one artifact"),
    "calibrated comparison": (["BASE", "--against", "BASE", "--calibrate"], "about one artifact"),
    "allowed without a base": (["BASE", "--allow", "files"], "add --against BASE"),
    "counted without a base": (["BASE", "--counts-only"], "add --against BASE"),
    "no such rule": (["BASE", "--against", "BASE", "--allow", "bytes"], "--allow: got 'bytes'"),
    "no threads": (["BASE", "--threads", "0"], "--threads: got 0, wanted at least 1"),
    "two on stdout": (["BASE", "--json", "--markdown"], "both want stdout"),
    "output nowhere": (["BASE", "--output", "nowhere/x.json"], "whose folder does not exist"),
    "output a folder": (["BASE", "--output", "."], "name a file"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_bad_commands(case: str, mlp_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process: an interpreter for each would take longer than all of them."""
    from slc.compiler.cli import app
    from slc.compiler.cli.console import report_error

    arguments, wanted = BAD_COMMANDS[case]
    with pytest.raises((RequestError, ArtifactError)) as error:
        app(
            ["bench", *(str(mlp_base) if a == "BASE" else a for a in arguments)],
            standalone_mode=False,
        )
    assert report_error(error.value) == 2
    assert "\n" not in str(error.value)
    assert wanted in str(error.value), error.value


def test_another_model_is_refused(mlp_base: Path, tmp_path: Path) -> None:
    other = write_artifact(tmp_path / "two")
    with pytest.raises(RequestError, match="give two artifacts of one model"):
        bench(other, against=mlp_base, request=BenchRequest(threads=1))


def test_context_beyond_the_cache(tiny_llama_i8: Path) -> None:
    for context in (2, 4096):
        with pytest.raises(
            RequestError, match=f"--context: got {context} tokens, wanted at least 16"
        ):
            bench(tiny_llama_i8, request=BenchRequest(context=context))


def test_what_can_not_be_run_is_one_sentence(mlp_copy: Path) -> None:
    with open(mlp_copy / "model.onnx.data", "r+b") as file:
        file.write(b"\0" * 4096)
    with pytest.raises(ArtifactError, match=r"can't be timed: its process ended \(.*\); slc") as e:
        bench(mlp_copy, request=BenchRequest(seconds=0.1))
    assert "\n" not in str(e.value)


def test_the_command(mlp_base: Path, tmp_path: Path) -> None:
    """Gate A by itself, once as a process: exit codes, stdout, the file."""
    equal = shutil.copytree(mlp_base, tmp_path / "equal")
    output = tmp_path / "bench.json"
    done = slc(equal, "--against", mlp_base, "--counts-only", "--json", "--output", output)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema())
    assert document == json.loads(output.read_text())
    assert document["load"] is None
    head = make_dense(mlp_base, tmp_path / "head", ["layer0"])
    done = slc(head, "--against", mlp_base, "--counts-only", "--markdown")
    assert done.returncode == 1
    assert "**failed**" in done.stdout
    assert "layer0" in done.stderr


def test_help_and_what_it_imports() -> None:
    script = (
        "import sys\nfrom slc.compiler.cli import app\nfrom typer.testing import CliRunner\n"
        "done = CliRunner().invoke(app, ['bench', '--help'])\nassert done.exit_code == 0\n"
        "print(done.stdout, file=sys.stderr)\n"
        "print(sorted({'torch', 'transformers', 'scipy', 'onnxruntime'} & {*sys.modules}))\n"
        "import slc.compiler.bench.bench\nprint('torch' in sys.modules, 'scipy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={"COLUMNS": "200"},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[]", "False False"]
    for option in ("--against", "--max-slowdown", "--max-growth", "--allow", "--counts-only",
                   "--time-limit", "--max-p90", "--expect", "--any-machine", "--calibrate",
                   "--cold", "--batch", "--context", "--threads", "--seconds", "--output",
                   "--markdown", "--json"):  # fmt: skip
        assert option in done.stderr
