"""One op library for every onnxruntime: artifacts run in fresh environments of old and new ones.

Each cell makes a virtual environment with one onnxruntime and numpy, nothing of ours, and runs the
artifact in it: the library beside the model must be all that it needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from environments import environment, interpreter

from slc.compiler import export
from slc.compiler.artifact.artifact import Artifact

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
# onnxruntime -> (numpy it was built for, pythons that have a wheel)
RUNTIMES = {
    "1.17.3": ("numpy<2", ((3, 8), (3, 12))),
    "1.19.2": ("numpy", ((3, 8), (3, 12))),
    "1.23.2": ("numpy", ((3, 10), (3, 13))),
    "1.32.0": ("numpy", ((3, 11), (3, 14))),
}
RUNNER = """
import sys, numpy, onnxruntime
folder, feeds, out = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(folder + "/libslc_ops.so")
session = onnxruntime.InferenceSession(folder + "/model.onnx", options)
numpy.save(out, session.run(None, dict(numpy.load(feeds)))[0])
print(onnxruntime.__version__, sys.version.split()[0])
"""


@pytest.fixture(scope="module")
def checkpoint(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    export(minilm, folder / "any", density=0.5, rank=8, save_structured=folder / "minilm.slr")
    return folder / "minilm.slr"


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    ids = rng.integers(1000, 20000, (2, 17))
    path = tmp_path_factory.mktemp("feeds") / "feeds.npz"
    np.savez(
        path, input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids)
    )
    return path


@pytest.mark.parametrize("version", RUNTIMES)
def test_artifact_runs_on(version: str, checkpoint: Path, feeds: Path, tmp_path: Path) -> None:
    requirement, (oldest, newest) = RUNTIMES[version]
    python = interpreter(oldest, newest)
    if python is None:
        pytest.skip(f"no Python {oldest}–{newest} here, which onnxruntime {version} needs")
    run_on(python, version, requirement, checkpoint, feeds, tmp_path)


def test_artifact_runs_on_python_3_10(checkpoint: Path, feeds: Path, tmp_path: Path) -> None:
    python = interpreter((3, 10), (3, 10))
    if python is None:
        pytest.skip("no Python 3.10 here")
    run_on(python, "1.23.2", "numpy", checkpoint, feeds, tmp_path)


def run_on(
    python: str, version: str, numpy_requirement: str, checkpoint: Path, feeds: Path, tmp_path: Path
) -> None:
    """Exports for a device that has just this onnxruntime, runs there, compares with here.

    Twice in one environment: with adapters in f16 and in int8.
    """
    profile = tmp_path / "device.toml"
    profile.write_text(
        f'name = "device"\ninherits = "x86-64-avx2"\nort_min = "{version}"\n'
        f'[sources]\nort_min = "this test"\n'
    )
    binary = environment(tmp_path / "venv", python, f"onnxruntime=={version}", numpy_requirement)
    for values in ("f16", "i8"):
        out = tmp_path / values
        export(checkpoint, out, device=str(profile), density=0.5, rank=8, adapter_values=values)
        check_on(binary, version, out, feeds, tmp_path / "result.npy")


def check_on(binary: Path, version: str, out: Path, feeds: Path, result: Path) -> None:
    """Runs one artifact in an environment and here."""
    done = subprocess.run(
        [str(binary), "-c", RUNNER, str(out), str(feeds), str(result)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(version)
    here = Artifact.open(out).session().run(None, dict(np.load(feeds)))[0]
    difference = np.abs(np.load(result) - here).max()
    # Our kernels are the same code; onnxruntime's own (LayerNorm, Softmax, Erf) may differ between
    # releases by a few ulps per layer: 6 layers of about 10 such operators on values of size ≤ 16.
    assert difference <= 6 * 10 * 16 * 2.0**-23 * 4, difference


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
