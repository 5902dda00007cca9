"""A small model, decomposed and priced: what budgets are divided by."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from budget.models import mlp

from slc.compiler.frontends.source import Source
from slc.compiler.structure.calibration import activation_moments
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decompose import decompose
from slc.compiler.structure.menu import Menu
from slc.compiler.structure.menu_maker import make_menu

SIZES = (128, 256, 192, 128)


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((SIZES[0], SIZES[0])) * rng.lognormal(0, 1, SIZES[0])
    x = (rng.standard_normal((4, 64, SIZES[0])) @ mixing).astype(np.float32)
    path = tmp_path_factory.mktemp("calibration") / "inputs.npz"
    np.savez(path, x=x)
    return path


@pytest.fixture(scope="session")
def priced(
    tmp_path_factory: pytest.TempPathFactory, calibration: Path
) -> tuple[Source, StructuredCheckpoint, Menu]:
    folder = tmp_path_factory.mktemp("priced")
    source = dataclasses.replace(mlp(SIZES), workdir=folder)
    checkpoint = decompose(
        source, folder / "m.slr", method="hessian", density=0.5, rank=16, iterations=20,
        moments=lambda linears: activation_moments(source, calibration, linears), jobs=1,
    )  # fmt: skip
    menu = make_menu(source, checkpoint, calibration, calibration="inputs.npz", jobs=2)
    return source, checkpoint, menu
