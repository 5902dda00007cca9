"""The test library and the released one, built once a run from the sources beside us."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from native_kernels import NativeKernels, build
from once import made_once


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    def make(folder: Path) -> None:
        build(folder, "slc_ops", "slc_ops_testing")

    return made_once(tmp_path_factory, worker_id, "ops-build", make)


@pytest.fixture(scope="session")
def kernels(build_folder: Path) -> NativeKernels:
    return NativeKernels(build_folder / "libslc_ops_testing.so")


@pytest.fixture(scope="session", autouse=True)
def fresh_library(build_folder: Path) -> Iterator[Path]:
    """Sessions of these tests load the library that was just built."""
    before = os.environ.get("SLC_OPS_LIBRARY")
    os.environ["SLC_OPS_LIBRARY"] = str(build_folder / "libslc_ops.so")
    yield build_folder / "libslc_ops.so"
    del os.environ["SLC_OPS_LIBRARY"]
    if before is not None:
        os.environ["SLC_OPS_LIBRARY"] = before
