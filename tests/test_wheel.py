"""The wheel, in an environment without a compiler: it exports for a board.

On the oldest Python that slc supports where there is one, without any extra.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from environments import environment, interpreter
from test_cli import mlp

from slc.compiler.artifact import elf

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.large  # minutes: everything is compiled twice
def test_a_wheel_exports_for_arm_without_a_compiler(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is missing")
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    subprocess.run(["make", "wheel"], cwd=ROOT, check=True, timeout=1800)
    (wheel,) = dist.glob("slc_compiler-*-py3-none-manylinux_2_28_*.whl")
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
        assert {"slc/ops/libslc_ops.so", "slc/ops/linux-aarch64/libslc_ops.so"} <= {*libraries}
        for name in libraries:
            needed = elf.glibc_needed(Path(archive.extract(name, tmp_path)))
            assert needed is not None
            assert tuple(map(int, needed.split("."))) <= (2, 28)

    model = mlp(tmp_path / "model.onnx")
    oldest = interpreter((3, 10), (3, 10)) or sys.executable
    python = environment(tmp_path / "venv", oldest, str(wheel))
    bare = {"PATH": str(tmp_path / "nothing"), "HOME": str(tmp_path)}
    for command in (
        ["export", model, "--device", "raspberry-pi-4", "--density", "0.5", "-o", tmp_path / "out"],
        ["verify", tmp_path / "out"],
        ["verify", tmp_path / "out", "--checksums"],
        ["doctor"],
    ):
        slc = [python, "-m", "slc.compiler.cli", *command]
        done = subprocess.run(slc, env=bare, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert elf.machine(tmp_path / "out/libslc_ops.so") == "aarch64"
