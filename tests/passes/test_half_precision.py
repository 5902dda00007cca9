"""Graphs from f32 to f16: what changes its type, what must not, and that the numbers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import slc.ops
from slc.compiler import export
from slc.compiler.passes.half_precision import HalfPrecision

F16, F32 = ir.DataType.FLOAT16, ir.DataType.FLOAT
UNIT = 2.0**-11


def _graph(text: str, **initializers: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18, "ai.slc" : 1]>\n{text}'
    )
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def _session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    slc.ops.register(options)
    return ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def test_inside_everything_is_f16_and_outside_nothing_changes() -> None:
    model = _graph(
        """g (float[n, 4] x, bool[n, 3] m) => (float[n, 3] y) {
          h = MatMul (x, w)
          low = Constant <value_float: float = -3.4e38> ()
          masked = Where (m, h, low)
          whole = Cast <to: int = 1> (masked)
          y = Add (whole, b)
        }""",
        w=np.arange(12, dtype=np.float32).reshape(4, 3), b=np.ones(3, np.float32),
    )  # fmt: skip
    HalfPrecision()(model)
    onnx.checker.check_model(ir.to_proto(model))
    graph = model.graph
    assert [v.dtype for v in (*graph.inputs, *graph.outputs)] == [F32, ir.DataType.BOOL, F32]
    assert [str(v.name) for v in (*graph.inputs, *graph.outputs)] == ["x", "m", "y"]
    assert {v.const_value.dtype for v in graph.initializers.values()} == {F16}
    x = np.array([[1, 2, 3, 4]], np.float32)
    got = _session(model).run(None, {"x": x, "m": np.array([[True, False, True]])})[0]
    assert got.dtype == np.float32
    # Sums of small integers are exact; what fills a mask becomes the largest f16 and not infinity,
    # 32 apart from the next number.
    np.testing.assert_array_equal(got[0, [0, 2]], [61, 81])
    assert abs(got[0, 1] + 65504) <= 16


def test_what_our_operators_want_in_f32_stays(tmp_path: Path) -> None:
    """A bias that a standard operator reads too is there in both types; a computed one is cast."""
    from slc.ops import bitmap

    S = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    model = _graph(
        """g (float[n, 4] x) => (float[n, 3] y) {
          h = ai.slc.BitmapSparseGemm <N: int = 3, K: int = 4> (x, packed, b)
          twice = Add (b, b)
          k = ai.slc.BitmapSparseGemm <N: int = 3, K: int = 4> (x, packed, twice)
          s = Add (h, k)
          y = Add (s, b)
        }""",
        packed=bitmap.encode(S), b=np.array([1, 2, 3], np.float32),
    )  # fmt: skip
    for value in model.graph.all_nodes():
        for output in value.outputs:  # an exporter's types, which the pass goes by
            output.type = ir.TensorType(F32)
    HalfPrecision()(model)
    gemms = [node for node in model.graph if node.op_type == "BitmapSparseGemm"]
    assert [node.inputs[0].dtype for node in gemms] == [F16, F16]
    assert [node.inputs[2].dtype for node in gemms] == [F32, F32]
    x = np.ones((1, 4), np.float32)
    exact = 2 * x @ bitmap.decode(bitmap.encode(S)).T + 4 * np.array([1, 2, 3])
    got = _session(model).run(None, {"x": x})[0]
    # Three roundings of numbers below 32.
    np.testing.assert_allclose(got, exact, atol=3 * 32 * UNIT)


@pytest.mark.slow
def test_a_decoder_in_f16_says_what_it_says_in_f32(tiny_llama: Path, tmp_path: Path) -> None:
    out = export(tiny_llama, tmp_path / "out", density=0.5, rank=8, values="f16", context=64)
    ids = np.array([[5, 77, 23, 41]], np.int64)
    logits = []
    for half in (False, True):
        model = ir.load(out / "model.onnx")
        names = [str(v.name) for v in (*model.graph.inputs, *model.graph.outputs)]
        state = [n for n in names if n == "logits" or n.startswith(("past_", "present"))]
        if half:
            HalfPrecision(state)(model)
            types = {v.dtype for v in model.graph.inputs if str(v.name).startswith("past_")}
            assert types == {F16}
        folder = tmp_path / f"half-{half}"
        folder.mkdir()
        ir.save(model, folder / "model.onnx", external_data="model.onnx.data")
        options = ort.SessionOptions()
        slc.ops.register(options)
        session = ort.InferenceSession(str(folder / "model.onnx"), options)
        feeds: dict[str, np.ndarray] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        for value in session.get_inputs():
            if value.name.startswith("past_"):
                dims = [d if isinstance(d, int) else known
                        for d, known in zip(value.shape, (1, 2, 0, 16), strict=True)]  # fmt: skip
                feeds[value.name] = np.zeros(dims, np.float16 if half else np.float32)
        known = {value.name for value in session.get_inputs()}
        logits.append(session.run(["logits"], {k: v for k, v in feeds.items() if k in known})[0])
    whole, halved = (one.astype(np.float64) for one in logits)
    assert halved.shape == whole.shape
    # Every value passes through some 30 operators, each of which rounds it by 2^-11 at most.
    error = np.linalg.norm(halved - whole) / np.linalg.norm(whole)
    assert 0 < error <= 30 * UNIT
