"""Artifacts that the tests of `slc bench` share; each is made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slc.compiler import export


def make_mlp(path: Path, width: int = 96, layers: int = 3) -> Path:
    """An ONNX file: x [batch, width] through MatMuls and Relus named layer0, layer1, …."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(layers):
        weight = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"layer{i}.weight"))
        before, after = f"x{i}" if i else "x", f"x{i + 1}" if i + 1 < layers else "y"
        nodes.append(helper.make_node("MatMul", [before, f"layer{i}.weight"], [f"h{i}"]))
        nodes.append(helper.make_node("Relu", [f"h{i}"], [after]))
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in "xy"
    )
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def mlp_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three Linears [96, 96] in i8 at density 0.5, no adapter."""
    folder = tmp_path_factory.mktemp("bench")
    model = make_mlp(folder / "mlp.onnx")
    return export(model, folder / "base", density=0.5, rank=0, values="i8", accuracy_level=1)


@pytest.fixture
def mlp_copy(mlp_base: Path, tmp_path: Path) -> Path:
    """The same bytes in another folder."""
    return shutil.copytree(mlp_base, tmp_path / "copy")


@pytest.fixture(scope="session")
def tiny_llama_i8(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of two layers, i8 at density 0.5, whose cache holds 32 tokens."""
    out = tmp_path_factory.mktemp("bench") / "llama"
    return export(tiny_llama, out, density=0.5, rank=4, values="i8", context=32)
