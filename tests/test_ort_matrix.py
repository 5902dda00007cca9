"""One op library for every onnxruntime: artifacts run on old and new ones, with nothing of ours.

A few cells of what `make matrix` runs in full, and the run-time half on the oldest Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from environments import environment, interpreter
from support_matrix.cells import RUNS, Artifacts, Cell, run_ort
from support_matrix.kinds import KINDS, Sources
from support_matrix.releases import interpreters, runtime

from slc.targets.target import version_tuple

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
# onnxruntime -> pythons, from 3.10 on, that have a wheel
RUNTIMES = {
    "1.17.3": ((3, 10), (3, 12)),
    "1.19.2": ((3, 10), (3, 12)),
    "1.23.2": ((3, 10), (3, 13)),
    "1.32.0": ((3, 11), (3, 14)),
}
KINDS_HERE = ("bitmap_i4", "adapters_i8", "dense_int8")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    folder = tmp_path_factory.mktemp("artifacts")
    return Artifacts(Sources(folder), folder)


@pytest.mark.parametrize("version", RUNTIMES)
def test_artifacts_run_on(version: str, artifacts: Artifacts, tmp_path: Path) -> None:
    oldest, newest = RUNTIMES[version]
    fitting = [p for p in interpreters() if oldest <= version_tuple(p) <= newest]
    if not fitting:
        pytest.skip(f"no Python {oldest}–{newest} here, which onnxruntime {version} needs")
    where = runtime(tmp_path / "environments", version, fitting[0])
    for name in KINDS_HERE:
        offered = artifacts.offer(name, KINDS[name], version)
        if offered.folder is None:
            assert name == "dense_int8"
            assert version in ("1.17.3", "1.19.2")
            continue
        reference = artifacts.reference(offered.folder)
        assert run_ort(where, offered.folder, reference, tmp_path) == Cell(RUNS), name


def test_run_time_half_on_python_3_10(tmp_path: Path) -> None:
    """`slc.ops` and `slc.targets` import and work where there is only numpy and onnxruntime."""
    python = interpreter((3, 10), (3, 10))
    if python is None:
        pytest.skip("no Python 3.10 here")
    namespace = tmp_path / "site" / "slc"
    namespace.mkdir(parents=True)
    for name in ("ops", "targets"):
        (namespace / name).symlink_to(REPOSITORY / name)
    binary = environment(tmp_path / "venv", python, "onnxruntime", "numpy", "tomli")
    script = (
        "import json, slc.ops, slc.targets, onnxruntime as ort\n"
        "options = ort.SessionOptions(); slc.ops.register(options)\n"
        "import sys; print(json.dumps([slc.targets.load('jetson').name, "
        "sorted(m for m in sys.modules if m in ('onnx', 'torch', 'slc.compiler'))]))\n"
    )
    import slc.ops

    done = subprocess.run(
        [str(binary), "-c", script],
        env={"PYTHONPATH": str(tmp_path / "site"), "SLC_OPS_LIBRARY": slc.ops.library_path()},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["jetson-orin-nano-8gb", []]


def test_decoder_for_an_old_runtime_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slc.compiler.cli", "export", str(tiny_llama), "--device",
         "jetson-xavier-nx", "-o", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "onnxruntime" in done.stderr
    assert "1.19" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
