"""The command as a user meets it: exit codes, one sentence per mistake, JSON, --force, kill -9."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import slc.ops as slc_ops
from slc.compiler import export
from slc.compiler.artifact import elf
from slc.compiler.budget.sizes import format_size


def slc(*arguments: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Runs `slc ARGUMENTS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "slc.compiler.cli", *map(str, arguments)],
        capture_output=True, text=True, check=False, **kwargs,
    )  # fmt: skip


def mlp(path: Path, *, nan: bool = False, seed: int = 0) -> Path:
    """An ONNX file: x[b, 96] → Gemm 80 → Relu → MatMul 70."""
    rng = np.random.default_rng(seed)
    w1 = rng.standard_normal((80, 96)).astype(np.float32)
    w2 = rng.standard_normal((80, 70)).astype(np.float32)
    if nan:
        w2[3, 4] = np.nan
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first", transB=1),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 70])],
        [
            numpy_helper.from_array(w1, "w1"),
            numpy_helper.from_array(w2, "w2"),
            numpy_helper.from_array(rng.standard_normal(80).astype(np.float32), "b1"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlp(tmp_path_factory.mktemp("mlp") / "mlp.onnx")


@pytest.fixture(scope="module")
def artifact(model: Path) -> Path:
    out = model.parent / "out"
    done = slc("export", model, "-o", out, "--density", 0.5, "--rank", 4)
    assert done.returncode == 0, done.stderr
    return out


def test_export_then_verify(artifact: Path) -> None:
    done = slc("verify", artifact, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    (line,) = [line for line in done.stderr.splitlines() if "of which after the last run" in line]
    for kind, size in report["memory"]["added_bytes"].items():
        assert f"{kind} {format_size(size)}" in line


def test_help_names_every_command() -> None:
    text = slc("--help").stdout
    commands = "export plan frontier structure verify report inspect adapters devices doctor"
    for command in commands.split():
        assert command in text
        assert slc(command, "--help").returncode == 0


def test_help_does_not_import_torch() -> None:
    script = (
        "import sys\nfrom slc.compiler.cli import app\nfrom typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(sorted({'torch', 'transformers', 'scipy', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


BAD_EXPORTS = {
    "no such folder": (["nowhere"], "nowhere"),
    "unknown device": (["MODEL", "--device", "jetsen"], "jetson"),
    "bad size": (["MODEL", "--mem", "4XB"], "4XB"),
    "budget too small": (["MODEL", "--mem", "10kB"], "smallest"),
    "bad density": (["MODEL", "--density", "1.5"], "density"),
    "bad rank": (["MODEL", "--rank", "-1"], "rank"),
    "bad values": (["MODEL", "--values", "f17"], "f17"),
    "bad adapter values": (["MODEL", "--adapter-values", "i4"], "wanted f16 or i8"),
    "int8 activations of f16": (["MODEL", "--accuracy-level", "4"], "--values i8 or i4"),
    "bad method": (["MODEL", "--method", "magic"], "magic"),
    "oats without text": (["MODEL", "--method", "oats"], "--calibrate"),
    "hessian without text": (["MODEL", "--method", "hessian"], "--calibrate"),
    "iterations of salr": (["MODEL", "--iterations", "9"], "--calibrate"),
    "matching of salr": (["MODEL", "--match-blocks", "9"], "--calibrate"),
    "no matching": (["MODEL", "--match-blocks", "0"], "at least 1"),
    "gamma without a budget": (["MODEL", "--gamma", "0.5"], "--mem"),
    "gamma beyond 1": (["MODEL", "--gamma", "2", "--mem", "1GB"], "0 to 1"),
    "no iterations": (["MODEL", "--iterations", "0"], "at least 1"),
    "no GPU": (["MODEL", "--device", "raspberry-pi-5", "--provider", "cuda"], "no GPU"),
    "an old GPU": (["MODEL", "--device", "jetson-xavier-nx", "--provider", "cuda"], "sm_72"),
    "no provider": (["MODEL", "--provider", "tensorrt"], "wanted cpu or cuda"),
    "no such adapter": (["MODEL", "--adapter", "lora"], "lora"),
    "bad slots": (["MODEL", "--adapter-slots", "-1"], "adapter-slots"),
    "adapter name that is a path": (["MODEL", "--adapter", "lora=../../evil"], "../../evil"),
    "checkpoint inside the artifact": (["MODEL", "--save-structured", "out/m.slr"], "outside"),
    "calibration that is not used": (
        ["MODEL", "--method", "salr", "--calibrate", "default"],
        "hessian",
    ),
    "no such calibration": (["MODEL", "--calibrate", "text.txt"], "text.txt"),
}


@pytest.mark.parametrize("case", BAD_EXPORTS)
def test_bad_request_is_one_sentence(case: str, model: Path, tmp_path: Path) -> None:
    arguments, wanted = BAD_EXPORTS[case]
    out = tmp_path / "out"
    done = slc(
        "export", *[model if a == "MODEL" else a for a in arguments], "-o", out, cwd=tmp_path
    )
    check_refused(done, wanted)
    assert list(tmp_path.iterdir()) == []


def check_refused(done: subprocess.CompletedProcess[str], wanted: str) -> None:
    """Exit 2, one line on stderr that holds `wanted`, no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert wanted in done.stderr, done.stderr


def test_bad_models(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.onnx"
    text.write_text("this is no model")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (text, empty):
        done = slc("export", path, "-o", tmp_path / "out", "--density", 0.5, "--rank", 2)
        check_refused(done, path.name)
        assert not (tmp_path / "out").exists()


def test_nan_names_the_weight(tmp_path: Path) -> None:
    path = mlp(tmp_path / "nan.onnx", nan=True)
    done = slc("export", path, "-o", tmp_path / "out", "--density", 0.5, "--rank", 2)
    check_refused(done, "'w2'")


def test_truncated_safetensors(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    shutil.copytree(tiny_llama, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    check_refused(slc("export", folder, "-o", tmp_path / "out"), "model.safetensors")


def test_force_keeps_a_checkpoint_until_the_new_one_is_whole(model: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "mlp.slr"
    assert slc("structure", model, "-o", checkpoint, "--rank", 4).returncode == 0
    before = (checkpoint / "slr.json").read_bytes()
    check_refused(slc("structure", "nowhere", "-o", checkpoint, "--force"), "nowhere")
    check_refused(slc("structure", checkpoint, "-o", checkpoint, "--force"), "the model itself")
    other = checkpoint.with_name("again.slr")
    check_refused(slc("structure", checkpoint, "-o", other), "structured checkpoint already")
    assert not list(other.parent.glob("again.slr*"))
    assert (checkpoint / "slr.json").read_bytes() == before
    done = slc("structure", model, "-o", checkpoint, "--rank", 2, "--force")
    assert done.returncode == 0, done.stderr
    assert (checkpoint / "slr.json").read_bytes() != before


@pytest.mark.parametrize("density", [0, 1])
def test_extreme_densities(density: int, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = slc("export", model, "-o", out, "--density", density, "--rank", 3)
    assert done.returncode == 0, done.stderr
    assert slc("verify", out).returncode == 0


def test_the_smallest_budget_that_is_named_does(model: Path, tmp_path: Path) -> None:
    refused = slc("plan", model, "--mem", "10kB", "--context", 4, "--json")
    smallest = json.loads(refused.stdout)["smallest_bytes"]
    out = tmp_path / "out"
    done = slc("export", model, "-o", out, "--mem", smallest, "--context", 4)
    assert done.returncode == 0, done.stderr
    verified = slc("verify", out, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["memory"]["measured_bytes"] <= smallest


def test_checkpoint_with_a_missing_tensor(model: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "mlp.slr"
    done = slc("structure", model, "-o", checkpoint, "--density", 0.5, "--rank", 4)
    assert done.returncode == 0, done.stderr
    first = sorted((checkpoint / "linears").iterdir())[0]
    first.unlink()
    check_refused(slc("export", checkpoint, "-o", tmp_path / "out"), first.name)


def test_existing_out_is_untouched_without_force(model: Path, artifact: Path) -> None:
    before = {p.name: p.read_bytes() for p in artifact.iterdir()}
    check_refused(slc("export", model, "-o", artifact), "--force")
    assert {p.name: p.read_bytes() for p in artifact.iterdir()} == before


def test_twice_the_same_bytes(model: Path, artifact: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = slc("export", model, "-o", again, "--density", 0.5, "--rank", 4, "--jobs", 1)
    assert done.returncode == 0, done.stderr
    names = {p.name for p in artifact.iterdir()} - {"measured.json"}
    assert names == {p.name for p in again.iterdir()}
    for name in names:
        assert (again / name).read_bytes() == (artifact / name).read_bytes(), name


def test_kill_leaves_no_out_and_the_next_run_clears(minilm: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "slc.compiler.cli", "export", str(minilm), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert list(tmp_path.iterdir()), "the killed export had begun to write"
    done = slc("export", mlp(tmp_path / "mlp.onnx"), "-o", out)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"mlp.onnx", "out"}


def test_plan_prints_json_on_stdout_only(model: Path) -> None:
    done = slc("plan", model, "--density", 0.5, "--rank", 4, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {choice["linear"] for choice in document["choices"]} == {"w1", "w2"}
    assert done.stderr.strip()


def test_a_size_error_in_json_carries_the_smallest(model: Path) -> None:
    done = slc("plan", model, "--mem", "10kB", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["smallest_bytes"] > 10_000


def test_export_says_what_it_decided_and_keeps_it(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = slc("export", model, "-o", out, "--density", 0.5, "--values", "i8")
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert said.endswith("what is missing is density 0.5, rank 32")
    (kept,) = json.loads((out / "manifest.json").read_text())["notes"]
    assert said == f"note: {kept}"
    page = tmp_path / "report.html"
    assert slc("report", out, "-o", page).returncode == 0
    assert kept in page.read_text()


def test_devices(tmp_path: Path) -> None:
    names = {d["name"] for d in json.loads(slc("devices", "--json").stdout)["devices"]}
    assert {"host", "x86-64-avx2", "raspberry-pi-5", "jetson-orin-nano-8gb"} <= names
    assert json.loads(slc("devices", "jetson", "--json").stdout)["name"] == "jetson-orin-nano-8gb"
    check_refused(slc("devices", "rasberry-pi-5"), "raspberry-pi-5")


def test_a_board_gets_its_own_library(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = slc("export", model, "--device", "raspberry-pi-5", "-o", out, "--density", 0.5)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["op_library"]["file"] == "libslc_ops.so"
    assert manifest["op_library"]["note"] is None
    assert elf.machine(out / "libslc_ops.so") == "aarch64"
    assert slc("verify", out).returncode == 0  # by the library that is installed here


def test_a_platform_without_a_library_says_what_is_missing(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slc_ops, "library_path", _no_library)
        export(model, out, device="raspberry-pi-5", density=0.5)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["op_library"]["file"] is None
    assert "linux-aarch64" in manifest["op_library"]["note"]
    assert "slc ops build" in manifest["op_library"]["note"]
    assert slc("verify", out).returncode == 0


def _no_library(platform: str | None = None) -> str:
    raise slc_ops.LibraryNotFoundError(platform)


def test_verify_names_a_tampered_file(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert slc("export", model, "-o", out, "--density", 0.5).returncode == 0
    data = bytearray((out / "model.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (out / "model.onnx.data").write_bytes(data)
    done = slc("verify", out, "--checksums")
    assert done.returncode == 1
    assert "model.onnx.data" in done.stderr


def test_inspect_artifact_and_doctor(artifact: Path) -> None:
    document = json.loads(slc("inspect", artifact, "--json").stdout)
    assert document["operators"]["ai.slc.BitmapSparseGemm"] == 2
    done = slc("doctor", artifact)
    assert done.returncode == 0, done.stderr
