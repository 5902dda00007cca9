"""ONNX files from elsewhere: read lazily, and refused with one sentence when they are broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from slc.compiler.errors import ModelError
from slc.compiler.frontends import load, onnx_proto, weight_array
from slc.compiler.frontends.source import Source

RNG = np.random.default_rng(0)
W = RNG.standard_normal((773, 1000)).astype(np.float32)


def mlp(weight: np.ndarray = W, constant_node: bool = False) -> onnx.ModelProto:
    """y = x·W for x [B, K], W [K, N] stored as an initializer or in a Constant node."""
    K, N = weight.shape
    tensor = numpy_helper.from_array(weight, "W")
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"])]
    if constant_node:
        nodes.insert(0, helper.make_node("Constant", [], ["W"], value=tensor))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", N])],
        [] if constant_node else [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def loaded(path: Path) -> Source:
    return load(path, workdir=path.parent)


@pytest.mark.parametrize("external", [True, False])
def test_weights_stay_in_the_file(tmp_path: Path, external: bool) -> None:
    path = tmp_path / "m.onnx"
    if external:
        ir.save(ir.from_proto(mlp()), path, external_data="m.data")
    else:
        onnx.save(mlp(), path)
    source = loaded(path)
    (linear,) = source.linears
    assert isinstance(source.graph.graph.initializers["W"].const_value, ir.ExternalTensor)
    assert (linear.N, linear.K) == (1000, 773)
    np.testing.assert_array_equal(weight_array(source, linear), W.T)


def test_constant_nodes_become_initializers(tmp_path: Path) -> None:
    onnx.save(mlp(constant_node=True), tmp_path / "m.onnx")
    source = loaded(tmp_path / "m.onnx")
    (linear,) = source.linears
    assert linear.weight in source.graph.graph.initializers
    np.testing.assert_array_equal(weight_array(source, linear), W.T)


def test_the_wire_walk_keeps_the_model(tmp_path: Path) -> None:
    model = mlp()
    model.producer_name = "someone"
    model.graph.initializer.append(numpy_helper.from_array(np.arange(3), "small"))
    onnx.save(model, tmp_path / "m.onnx")
    found = onnx_proto.load(tmp_path / "m.onnx")
    assert {t.name: t.data_location for t in found.graph.initializer} == {
        "W": TensorProto.EXTERNAL,
        "small": TensorProto.DEFAULT,
    }
    onnx.external_data_helper.load_external_data_for_model(found, str(tmp_path))
    for tensor in found.graph.initializer:
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    assert found == model


def test_data_behind_a_link_is_read(tmp_path: Path) -> None:
    """Hugging Face's download cache is a folder of links."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    ir.save(ir.from_proto(mlp()), blobs / "m.onnx", external_data="m.data")
    for name in ("m.onnx", "m.data"):
        (blobs / name).rename(blobs / f"{name}-blob")
        (snapshot / name).symlink_to(blobs / f"{name}-blob")
    source = loaded(snapshot / "m.onnx")
    np.testing.assert_array_equal(weight_array(source, source.linears[0]), W.T)


def test_weights_of_old_ir_versions_are_constants(tmp_path: Path) -> None:
    model = mlp()
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, W.shape))
    onnx.save(model, tmp_path / "m.onnx")
    source = loaded(tmp_path / "m.onnx")
    assert [linear.N for linear in source.linears] == [1000]
    assert [value.name for value in source.graph.graph.inputs] == ["x"]


def test_reading_one_matrix_costs_one_matrix(tmp_path: Path) -> None:
    """64 matrices of 4 MB in one file: reading all of them in turn must not add up."""
    K, count = 1024, 64
    values = [f"w{i}" for i in range(count)]
    block = np.ones((K, K), np.float32)
    names = ["x", *(f"h{i}" for i in range(count))]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[i], w], [names[i + 1]]) for i, w in enumerate(values)],
        "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", K])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["B", K])],
        [numpy_helper.from_array(block, w) for w in values],
    )
    onnx.save(helper.make_model(graph, ir_version=9), tmp_path / "m.onnx")
    script = """
import pathlib, resource, sys
from slc.compiler.frontends import load, weight_array
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
path = pathlib.Path(sys.argv[1])
source = load(path, workdir=path.parent)
for linear in source.linears:
    weight_array(source, linear)
print(len(source.linears), peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m.onnx")],
        capture_output=True,
        text=True,
        check=True,
    )
    found, grown = map(int, done.stdout.split())
    assert found == count
    # One matrix (4 MB), its block (8 MB), the hash's and the check's blocks (8 MB and a mask of
    # the same size), and the imports that load() defers; the whole file is 256 MB.
    assert grown < 100 << 20


def test_nan_is_named(tmp_path: Path) -> None:
    weight = W.copy()
    weight[700, 3] = np.nan
    onnx.save(mlp(weight), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"'W' holds nan at \[700, 3\]"):
        loaded(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "can't be read as an ONNX model"),
        (mlp().SerializeToString()[:100_000], "cut short"),
        (onnx.ModelProto(ir_version=9).SerializeToString(), "no graph"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        loaded(tmp_path / "m.onnx")


def test_an_invalid_graph_gives_the_checkers_reason(tmp_path: Path) -> None:
    model = mlp()
    model.graph.node[0].input[0] = "nowhere"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"not a valid ONNX model .*nowhere"):
        loaded(tmp_path / "m.onnx")


def test_missing_and_short_data(tmp_path: Path) -> None:
    ir.save(ir.from_proto(mlp()), tmp_path / "m.onnx", external_data="m.data")
    data = (tmp_path / "m.data").read_bytes()
    (tmp_path / "m.data").write_bytes(data[:-4])
    with pytest.raises(ModelError, match="truncated"):
        loaded(tmp_path / "m.onnx")
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelError, match=r"m\.data' is missing"):
        loaded(tmp_path / "m.onnx")


def test_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    ir.save(ir.from_proto(mlp()), inside / "m.onnx", external_data="m.data")
    model = onnx.load(inside / "m.onnx", load_external_data=False)
    (inside / "m.data").rename(tmp_path / "m.data")
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../m.data"
    (inside / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        loaded(inside / "m.onnx")
