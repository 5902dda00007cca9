"""libslc_ops_cuda.so: images for every GPU by NVRTC, the host's part, on machines without a GPU."""

from __future__ import annotations

import ctypes
import json
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arm_kernels import EMULATOR, OPTIONS, missing_tools
from native_kernels import OPS_SOURCE, build, run
from ops_models import session, sparse, sparse_model

from slc.compiler.artifact import cuda_images
from slc.ops import bitmap

SCRIPT = OPS_SOURCE / "csrc" / "cuda" / "build_images.py"
CUBINS, PTX = {80, 87, 90, 110}, {80}
ARM_LIBRARIES = Path("/usr/aarch64-linux-gnu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every image, compiled now."""
    folder = tmp_path_factory.mktemp("cuda-images")
    module = runpy.run_path(str(SCRIPT))
    try:
        module["build"](folder)
    except module["BuildError"] as error:
        if "is not installed" in str(error):
            pytest.skip(str(error))
        raise
    return folder


@pytest.fixture(scope="module")
def library(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both libraries of this machine, beside each other."""
    folder = tmp_path_factory.mktemp("cuda-build")
    build(folder, "slc_ops", "slc_ops_cuda", options=(f"-DSLC_CUDA_IMAGES={images}",))
    return folder / "libslc_ops_cuda.so"


def _entry_points(sm: str) -> set[str]:
    gemms = [
        f"slc_{kind}_{values}_{x}{rows}"
        for values in ("f16", "i8", "i4")
        for x in ("half", "float")
        for kind, rows in [
            *[("wide", "")] * (sm == "sm_90"),
            ("tiled", ""),
            *[("stream", f"_{m}") for m in (8, 16, 32, 64)],
        ]
    ]
    return {
        *gemms,
        "slc_check",
        *[f"slc_{op}_{x}" for op in ("up", "down") for x in ("half", "float", "gemm")],
    }


def test_every_kernel_for_every_gpu(images: Path) -> None:
    """None spills, and matrix products run on tensor cores."""
    figures = json.loads((images / "figures.json").read_text())
    assert {int(sm.removeprefix("sm_")) for sm in figures} == CUBINS
    for sm, made in figures.items():
        assert set(made["kernels"]) == _entry_points(sm)
        for name, kernel in made["kernels"].items():
            assert kernel["stack_bytes"] == 0, (sm, name)
            products = name.startswith(("slc_stream", "slc_tiled")) or name.endswith("_gemm")
            assert (kernel["hmma"] > 0) == products, (sm, name)
            assert (kernel["hgmma"] > 0) == name.startswith("slc_wide"), (sm, name)
            # 16 warps of a thread block share an SM's 65 536 registers where M is 1 … 8.
            assert 0 < kernel["registers"] <= (128 if name.endswith("_8") else 255), (sm, name)


def test_the_library_says_what_it_holds(library: Path) -> None:
    lib = ctypes.CDLL(str(library))
    lib.slc_cuda_images.restype = ctypes.c_char_p
    names = {name.strip() for name in lib.slc_cuda_images().decode().split(",")}
    assert names == {f"sm_{sm}" for sm in CUBINS} | {f"PTX of sm_{sm}" for sm in PTX}
    held = cuda_images.images(library)
    assert (held.cubins, held.ptx) == (CUBINS, PTX)
    exported = run(["nm", "-D", "--defined-only", str(library)])
    assert all(line.split()[-1].startswith("slc_cuda_") for line in exported.splitlines())


@pytest.mark.skipif(cuda_images.device_sm() is not None, reason="there is a GPU here")
def test_without_a_driver_it_says_so(library: Path) -> None:
    lib = ctypes.CDLL(str(library))
    lib.slc_cuda_prepare.restype = ctypes.c_char_p
    reason = lib.slc_cuda_prepare().decode()
    assert "CUDA driver" in reason
    assert "--provider cpu" in reason or "no GPU" in reason


def test_cpu_sessions_run_with_it_beside(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA operators are registered under the same names, for another provider."""
    monkeypatch.setenv("SLC_OPS_LIBRARY", str(library.parent / "libslc_ops.so"))
    blob = bitmap.encode(sparse(20, 100, 0.5))
    X = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    Y = session(sparse_model(blob, 20, 100)).run(None, {"x": X})[0]
    np.testing.assert_allclose(Y, X @ bitmap.decode(blob).T, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(bool(missing_tools()), reason=f"missing: {missing_tools()}")
def test_on_arm_it_loads_and_says_that_there_is_no_driver(images: Path, tmp_path: Path) -> None:
    # A program that loads a library can't be static: the emulator gets Arm's own loader and libc.
    options = (*(o for o in OPTIONS if "static" not in o), f"-DSLC_CUDA_IMAGES={images}")
    build(tmp_path, "slc_ops_cuda", "probe_cuda", options=options)
    said = run(
        [EMULATOR, "-L", str(ARM_LIBRARIES), "-cpu", "cortex-a76", str(tmp_path / "probe_cuda"),
         str(tmp_path / "libslc_ops_cuda.so")]
    )  # fmt: skip
    assert "sm_87" in said
    assert "no CUDA driver here" in said
    held = cuda_images.images(tmp_path / "libslc_ops_cuda.so")
    assert held.run_on(87)


def test_a_machine_without_nvrtc_gets_one_line(tmp_path: Path, monkeypatch: Any) -> None:
    module = runpy.run_path(str(SCRIPT))
    build_error, nvrtc = module["BuildError"], module["Nvrtc"]
    with pytest.raises(build_error, match=r"pip install 'no-such-package==1\.\*'"):
        nvrtc("no-such-package", "1")
    with pytest.raises(build_error, match=r"got .*, wanted 0\.0"):
        nvrtc("numpy", "0.0")


IMAGE_RULES: list[tuple[int, str | None]] = [
    (75, None), (80, "sm_80"), (86, "sm_80"), (87, "sm_87"), (89, "sm_87"), (90, "sm_90"),
    (100, "PTX of sm_80"), (110, "sm_110"), (121, "PTX of sm_80"),
]  # fmt: skip


def test_which_image_a_gpu_gets(images: Path, tmp_path: Path) -> None:
    """ImageFor: its own major version's newest cubin that is not newer, else PTX."""
    source = tmp_path / "image_for.cc"
    source.write_text(
        '#include "images.h"\n#include <cstdio>\n#include <cstdlib>\n'
        "int main(int, char** v) { const auto* i = slc::cuda::ImageFor(std::atoi(v[1]));\n"
        ' if (i == nullptr) return std::printf("none"), 0;\n'
        ' std::printf("%ssm_%d", i->is_ptx ? "PTX of " : "", i->sm); }\n'
    )
    program = tmp_path / "image_for"
    compiler = shutil.which("c++") or "g++"
    run([compiler, "-std=c++17", f"-I{OPS_SOURCE / 'csrc' / 'cuda'}", str(source),
         str(images / "images.cc"), str(images / "images.S"), "-o", str(program)])  # fmt: skip
    for sm, wanted in IMAGE_RULES:
        said = subprocess.run([program, str(sm)], capture_output=True, text=True, check=True).stdout
        assert said == (wanted or "none"), sm
