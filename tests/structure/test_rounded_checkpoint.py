"""A checkpoint whose S was rounded as it was made: written, read, sliced, exported as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from structure.models import chain

from slc.compiler import export
from slc.compiler.errors import ModelError
from slc.compiler.frontends import load
from slc.compiler.structure.calibration import activation_moments
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decompose import decompose
from slc.ops import bitmap


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> StructuredCheckpoint:
    folder = tmp_path_factory.mktemp("rounded")
    source = chain(folder, widths=(96, 128, 64))
    x = np.random.default_rng(0).standard_normal((400, 96)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    return decompose(
        source, folder / "m.slr", method="hessian", density=0.5, rank=4, iterations=30,
        moments=lambda linears: activation_moments(source, folder / "x.npz", linears),
        value_type="i4", group=64,
    )  # fmt: skip


def blobs(artifact: Path) -> dict[str, np.ndarray]:
    model = onnx.load(artifact / "model.onnx")
    return {
        t.name: onnx.numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.name.endswith(".packed")
    }


def test_every_entry_holds_its_grid(checkpoint: StructuredCheckpoint) -> None:
    assert checkpoint.meta.settings["bits"] == 4
    for name in checkpoint.names:
        entry, grid = checkpoint.entry(name), checkpoint.grid(name)
        assert grid is not None
        assert (entry.value_type, entry.group) == ("i4", 64) == (grid.value_type, grid.group)
        index, value = checkpoint.sparse(name)
        wide = np.repeat(grid.scales, 64, axis=1)[:, : entry.K].reshape(-1)[index]
        # One division and one product in f32 between a value and its level.
        distance = np.abs(value / wide - grid.rounding().levels[:, None]).min(axis=0)
        assert distance.max() <= 63 * 2**-22


@pytest.mark.parametrize("density", [0.5, 0.3])
def test_export_stores_the_values_as_they_are(
    checkpoint: StructuredCheckpoint, tmp_path: Path, density: float
) -> None:
    out = export(checkpoint.path, tmp_path / "out", density=density, rank=4)
    found = blobs(out)
    assert found
    for name, blob in found.items():
        linear = name.removesuffix(".packed")
        assert bitmap.read_header(blob).value_type == "i4"  # --values auto
        S = checkpoint.sparse_matrix(linear, round(density * checkpoint.entry(linear).linear.numel))
        # The same level times the same scale, in another order.
        np.testing.assert_allclose(bitmap.decode(blob), S, rtol=3e-7)


def test_export_takes_all_that_a_checkpoint_holds(
    checkpoint: StructuredCheckpoint, tmp_path: Path
) -> None:
    out = export(checkpoint.path, tmp_path / "out")
    for name, blob in blobs(out).items():
        entry = checkpoint.entry(name.removesuffix(".packed"))
        assert bitmap.read_header(blob).nnz == entry.nnz
    choices = json.loads((out / "manifest.json").read_text())["linears"]
    assert {row["choice"]["rank"] for row in choices} == {4}


def test_another_value_type_is_what_was_asked_for(
    checkpoint: StructuredCheckpoint, tmp_path: Path
) -> None:
    out = export(checkpoint.path, tmp_path / "out", density=0.5, rank=4, values="f16")
    for blob in blobs(out).values():
        assert bitmap.read_header(blob).value_type == "f16"


def test_a_cut_adapter_is_made_up_for(checkpoint: StructuredCheckpoint, tmp_path: Path) -> None:
    """S then leaves its grid, so it is rounded anew: near S + what was lost, not at S."""
    out = export(checkpoint.path, tmp_path / "out", density=0.5, rank=1)
    for name, blob in blobs(out).items():
        linear = name.removesuffix(".packed")
        wanted = checkpoint.sparse_matrix(linear, rank=1)
        error = np.linalg.norm(bitmap.decode(blob) - wanted) / np.linalg.norm(wanted)
        assert 0 < error < 0.15  # 16 levels fitted to the values leave about a tenth


def test_a_damaged_grid_is_an_error(checkpoint: StructuredCheckpoint) -> None:
    from safetensors.numpy import load_file

    entry = checkpoint.entry(checkpoint.names[0])
    file = checkpoint.path / entry.file
    whole = file.read_bytes()
    at = whole.index(load_file(file)["S.scale"].tobytes())
    try:
        file.write_bytes(whole[:at] + np.float32(np.nan).tobytes() + whole[at + 4 :])
        with pytest.raises(ModelError, match=r"S\.scale"):
            checkpoint.grid(entry.name)
    finally:
        file.write_bytes(whole)
    assert load(checkpoint.path, workdir=checkpoint.path.parent).checkpoint is not None
