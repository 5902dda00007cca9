"""An ONNX file that no exporter of ours made: a CNN with every form of Linear, ragged shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from slc.compiler import export, verify
from slc.compiler.artifact.artifact import Artifact

RNG = np.random.default_rng(11)
WEIGHTS = {
    "kernel": (7, 3, 3, 3),
    "w_plain": (7 * 6 * 6, 773),  # MatMul, [K, N]
    "w_trans": (1000, 773),  # Gemm, transB = 1
    "w_flat": (1000, 130),  # Gemm, transB = 0, alpha, beta, no bias vector but a matrix row
    "w_shared": (130, 130),  # read by two MatMuls
    "w_tiny": (130, 1),  # 520 bytes
    "b_trans": (1000,),
    "b_flat": (1, 130),
}
NODES = """
c = Conv <pads: ints = [1, 1, 1, 1]> (x, kernel)
r = Relu (c)
f = Flatten (r)
h1 = MatMul (f, w_plain)
h2 = Gemm <transB: int = 1> (h1, w_trans, b_trans)
h3 = Gemm <alpha: float = 0.5, beta: float = 2.0> (h2, w_flat, b_flat)
h4 = MatMul (h3, w_shared)
h5 = Tanh (h4)
h6 = MatMul (h5, w_shared)
side = MatMul (h6, w_tiny)
y = Add (h6, side)
"""


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        f"cnn (float[b, 3, 6, 6] x) => (float[b, 130] y) {{ {NODES} }}"
    )
    for name, shape in WEIGHTS.items():
        scale = 1 / np.sqrt(np.prod(shape[1:]) or 1)
        array = (RNG.standard_normal(shape) * scale).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    path = tmp_path_factory.mktemp("cnn") / "cnn.onnx"
    onnx.save(proto, path)
    return path


def test_every_form_of_linear_is_compiled(cnn: Path, tmp_path: Path) -> None:
    out = export(cnn, tmp_path / "out", density=0.5, rank=8)
    manifest = json.loads((out / "manifest.json").read_text())
    encodings = {entry["name"]: entry["choice"]["encoding"] for entry in manifest["linears"]}
    assert encodings == dict.fromkeys(("w_plain", "w_trans", "w_flat", "w_shared"), "bitmap")
    operators = [node.op_type for node in Artifact.open(out).model().graph]
    assert operators.count("BitmapSparseGemm") == 5  # the shared weight is multiplied by twice
    assert operators.count("MatMul") == 1
    (tiny,) = [refusal for refusal in manifest["refusals"] if refusal["name"] == "w_tiny"]
    assert "1 KB" in tiny["reason"]
    report = verify(out)
    assert report.passed
    assert report.memory is not None


def test_full_density_equals_the_original(cnn: Path, tmp_path: Path) -> None:
    """Not only its own decoding: the original file's outputs, within f16's rounding of weights.

    Each Linear's relative error is at most 2⁻¹¹ (half an ulp of f16) in the norm that random signs
    give; five of them in a row, with norm-preserving weights, make at most 5·2⁻¹¹ of the largest
    output, doubled for the tail of the distribution over 130 columns.
    """
    x = RNG.standard_normal((4, 3, 6, 6)).astype(np.float32)
    wanted = ort.InferenceSession(cnn).run(None, {"x": x})[0]
    out = export(cnn, tmp_path / "out", density=1.0, rank=0, values="f16")
    got = Artifact.open(out).session().run(None, {"x": x})[0]
    assert np.abs(got - wanted).max() <= 2 * 5 * 2.0**-11 * np.abs(wanted).max()


def test_opset_beyond_the_device_is_refused(tmp_path: Path) -> None:
    from slc.compiler.errors import RequestError

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "new",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 64])],
        [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")],
    )
    path = tmp_path / "new.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]), path)
    with pytest.raises(RequestError, match="opset 22"):
        export(path, tmp_path / "out", device="jetson-xavier-nx", density=0.5)
    assert not (tmp_path / "out").exists()
