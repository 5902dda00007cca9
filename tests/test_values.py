"""--values and --accuracy-level from export to verify: what is chosen, written and computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slc.compiler import export, verify
from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.inspect import inspect
from slc.compiler.errors import RequestError
from slc.ops import bitmap


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x[b, 320] → MatMul 256 → Relu → MatMul 192."""
    rng = np.random.default_rng(0)
    weights = {"w1": (320, 256), "w2": (256, 192)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 320])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 192])],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    path = tmp_path_factory.mktemp("mlp") / "mlp.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, path)
    return path


def headers(artifact: Path) -> list[bitmap.Header]:
    """Of every packed blob."""
    initializers = Artifact.open(artifact).model().graph.initializers
    blobs = [v.const_value.numpy() for n, v in initializers.items() if n.endswith(".packed")]
    return [bitmap.read_header(blob) for blob in blobs]


@pytest.mark.parametrize(
    ("options", "stored", "level"),
    [
        ({"values": "f16"}, ("bitmap", "f16", "rows"), 1),
        ({"values": "i8"}, ("bitmap", "i8", "rows"), 4),
        ({"values": "i8", "accuracy_level": 1}, ("bitmap", "i8", "rows"), 1),
        ({"values": "i4", "device": "x86-64-avx2"}, ("bitmap", "i4", "planes"), 4),
        ({"values": "i4", "device": "x86-64-avx512"}, ("bitmap", "i4", "rows"), 4),
        ({"values": "i4", "device": "raspberry-pi-5"}, ("bitmap", "i4", "rows"), 4),
        ({"values": "f16", "density": 0.06}, ("delta", "f16", "rows"), 1),
        ({"values": "i8", "density": 0.06}, ("delta", "i8", "rows"), 1),
        ({"values": "i4", "density": 0.06}, ("delta", "i8", "rows"), 1),
    ],
)
def test_what_is_chosen_is_written_and_computed(
    model: Path, tmp_path: Path, options: dict[str, Any], stored: tuple[str, str, str], level: int
) -> None:
    out = export(model, tmp_path / "out", **{"density": 0.5, "rank": 4, **options})
    rows = inspect(out)["linears"]
    keys = ("encoding", "value_type", "layout")
    assert {tuple(row[key] for key in keys) for row in rows} == {stored}
    assert {row["accuracy_level"] for row in rows} == {level}
    assert {(h.encoding, h.value_type, h.layout) for h in headers(out)} == {stored}
    written = sum(h.total_bytes for h in headers(out)) + 2 * 4 * (320 + 256 + 256 + 192)
    predicted = sum(row["bytes"] for row in rows)
    assert written <= predicted <= 1.1 * written
    report = verify(out, memory=False)
    assert report.passed
    assert max(check.accuracy_level for check in report.linears) == level


def test_level_4_needs_integer_weights(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--accuracy-level: got 4 with --values auto, wanted 1"):
        export(model, tmp_path / "out", accuracy_level=4)


def test_i4_is_half_of_i8_beside_masks_and_scales(model: Path, tmp_path: Path) -> None:
    sizes = {}
    for values in ("f16", "i8", "i4"):
        out = export(model, tmp_path / values, density=0.5, rank=0, values=values)
        sizes[values] = sum(h.total_bytes - h.values_offset for h in headers(out))
    assert sizes["i8"] < 0.51 * sizes["f16"]
    assert sizes["i4"] < 0.6 * sizes["i8"]
