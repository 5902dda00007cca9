"""examples/python_app in an environment that has onnxruntime and numpy and nothing of ours."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from artifact.graphs import write_artifact
from environments import environment

import slc.ops
from examples.python_app.__main__ import make_inputs
from slc.compiler import export
from slc.compiler.artifact.artifact import Artifact

pytestmark = pytest.mark.slow

APP = Path(__file__).resolve().parents[1] / "examples" / "python_app" / "__main__.py"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter beside the onnxruntime and numpy that run here."""
    packages = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy")]
    return environment(tmp_path_factory.mktemp("app") / "venv", sys.executable, *packages)


@pytest.fixture(scope="module")
def encoder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(minilm, tmp_path_factory.mktemp("encoder") / "out", density=0.5, rank=4)


@pytest.fixture(scope="module")
def decoder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_llama, tmp_path_factory.mktemp("decoder") / "out", density=0.5, rank=4)


def run(python: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The example, copied to a folder of its own and run there with a bare environment."""
    folder.mkdir()
    app = shutil.copy(APP, folder / "app.py")
    return subprocess.run(
        [str(python), str(app), *map(str, arguments)],
        cwd=folder, env={"PATH": os.defpath}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def check(done: subprocess.CompletedProcess[str], artifact: Path, ids: list[int]) -> None:
    """What it printed against a session made here: the same library on the same machine."""
    assert done.returncode == 0, done.stderr
    *lines, speed = done.stdout.splitlines()
    session = Artifact.open(artifact).session()
    outputs = session.run(None, make_inputs(session, artifact, ids))
    assert len(lines) == len(outputs)
    for line, declared, value in zip(lines, session.get_outputs(), outputs, strict=True):
        name, dtype, rest = line.split(" ", 2)
        shape, values = rest.split("] [")
        assert (name, dtype) == (declared.name, str(value.dtype))
        assert ast.literal_eval(shape + "]") == list(value.shape)
        got, here = np.array(ast.literal_eval("[" + values)), value.reshape(-1)[:5]
        assert got.size == min(5, value.size) > 0
        # Threads may split sums otherwise there: a few ulps of a value a layer.
        np.testing.assert_allclose(got, here, rtol=2.0**-16, atol=2.0**-16 * np.abs(value).max())
    assert float(speed.split(" ms, the first ")[0]) > 0
    assert speed.endswith("CPUExecutionProvider")


def test_nothing_of_ours_is_there(python: Path) -> None:
    for module in ("slc", "slc.ops", "onnx", "torch"):
        done = subprocess.run(
            [str(python), "-c", f"import {module}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "ModuleNotFoundError" in done.stderr


def test_encoder_by_token_ids(python: Path, encoder: Path, tmp_path: Path) -> None:
    ids = [101, 7592, 2088, 102]
    done = run(python, tmp_path / "app", encoder, *ids)
    check(done, encoder, ids)
    assert done.stdout.startswith("last_hidden_state float32 [1, 4, 384] [")
    other = run(python, tmp_path / "other", encoder, 101, 7592, 2089, 102)
    assert other.stdout.splitlines()[0] != done.stdout.splitlines()[0]


def test_decoder_without_ids(python: Path, decoder: Path, tmp_path: Path) -> None:
    done = run(python, tmp_path / "app", decoder)
    drawn = np.random.default_rng(0).integers(1, 200, 8).tolist()
    check(done, decoder, drawn)
    names = [line.split()[0] for line in done.stdout.splitlines()[:-1]]
    assert sorted(names) == [
        "logits",
        *(f"present.{i}.{kind}" for i in (0, 1) for kind in ("key", "value")),
    ]


def test_other_inputs_from_a_relative_folder(python: Path, tmp_path: Path) -> None:
    """Floats of a fixed last axis; the library lies beside the model and is found from there."""
    out = write_artifact(tmp_path / "out")
    shutil.copyfile(slc.ops.library_path(), out / "libslc_ops.so")
    check(run(python, tmp_path / "app", Path("..") / "out", 1, 2, 3), out, [1, 2, 3])


def test_artifact_without_a_library(python: Path, tmp_path: Path) -> None:
    """With operators of ours in the graph that is onnxruntime's error."""
    out = write_artifact(tmp_path / "out")
    done = run(python, tmp_path / "app", out)
    assert done.returncode == 1
    assert "ai.slc:BitmapSparseGemm(-1) is not a registered function/op" in done.stderr


def test_dense_artifact_needs_no_library(python: Path, tmp_path: Path) -> None:
    from artifact.test_sbom import onnx_model

    model = onnx_model(tmp_path / "one.onnx")
    out = export(model, tmp_path / "out", values="dense")
    (out / "libslc_ops.so").unlink()
    check(run(python, tmp_path / "app", out), out, [0] * 8)


def test_no_artifact_is_a_sentence(python: Path, tmp_path: Path) -> None:
    done = run(python, tmp_path / "app")
    assert done.returncode == 1
    assert done.stderr.startswith("got no artifact, wanted: python examples/python_app ARTIFACT")
