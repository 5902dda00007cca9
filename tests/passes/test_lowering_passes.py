"""Golden tests of the passes: Input and Expected as text, then numerics by the reference."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from slc.compiler.budget.choice import Choice
from slc.compiler.errors import ModelError
from slc.compiler.frontends.linears import find_linears
from slc.compiler.passes.attach_adapters import balanced
from slc.compiler.passes.lowering import Lowering
from slc.compiler.passes.name_nodes import NameNodes
from slc.compiler.pipeline import lower
from slc.compiler.structure.dense_codes import round_matrix, unpacked
from slc.ops import bitmap, reference_ops
from slc.ops.bitmap_sparse_gemm import bitmap_sparse_gemm

RNG = np.random.default_rng(7)


def graph(text: str, **initializers: np.ndarray) -> ir.Model:
    """Parses ONNX text and adds initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]>\n{text}')
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    NameNodes()(model)  # as the frontends do
    return model


def nodes(model: ir.Model) -> list[str]:
    """One line per node that matters: outputs = op(inputs)."""
    return [
        f"{', '.join(str(o.name) for o in node.outputs)} = {node.op_type}"
        f"({', '.join(str(i.name) if i is not None else '' for i in node.inputs)})"
        for node in model.graph
        if node.op_type != "Constant"
    ]


def lowered(
    model: ir.Model, encoding: str = "bitmap", *, slots: int = 0, adapters: bool = False
) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """The model after all passes, every Linear in one encoding at density 1; and the weights."""
    linears, _ = find_linears(model)
    weights = {}
    for linear in linears:
        value = next(v for v in model.graph.initializers.values() if v.name == linear.weight)
        array = value.const_value.numpy()
        weights[linear.name] = array.T if linear.transposed else array
    choices = {
        linear.name: Choice(
            linear.name, encoding, "f16", 1.0, linear.numel, 0,
            linear.K if encoding in ("int8", "int4") else 0,
        )
        for linear in linears
    }  # fmt: skip
    pair = {
        linear.name: [(np.ones((2, linear.K), np.float32), np.ones((linear.N, 2), np.float32))]
        for linear in linears
    }
    lowering = Lowering(
        linears, choices, None,
        lambda linear: np.ascontiguousarray(weights[linear.name], np.float32),
        adapters=pair if adapters else {}, adapter_slots=slots,
    )  # fmt: skip
    return lower(model, lowering, (1, 17)), weights


def run(model: ir.Model, **feeds: np.ndarray) -> np.ndarray:
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=reference_ops())
    return evaluator.run(None, feeds)[0]


def rounded(weight: np.ndarray) -> np.ndarray:
    """What density 1 in f16 keeps of W."""
    return bitmap.decode(bitmap.encode(np.ascontiguousarray(weight), "f16"))


W = RNG.standard_normal((24, 32)).astype(np.float32)  # [N, K]
B = RNG.standard_normal(24).astype(np.float32)
X = RNG.standard_normal((3, 32)).astype(np.float32)


def test_matmul_and_bias_become_one_node() -> None:
    model = graph(
        "m (float[b, 32] x) => (float[b, 24] y) { h = MatMul(x, w)\n y = Add(h, b) }",
        w=W.T.copy(),
        b=B,
    )
    expected = X @ rounded(W).T + B
    result, _ = lowered(model)
    (name,) = [v for v in result.graph.initializers if v.endswith(".packed")]
    assert nodes(result) == [f"y = BitmapSparseGemm(x, {name}, b)"]
    np.testing.assert_allclose(run(result, x=X), expected, rtol=0, atol=bound())


def bound() -> float:
    """γ_(K+2)·max(|X|·|W|ᵀ + |b|): Higham's bound of a dot product in f32, both sides of it."""
    gamma = 2 * 34 * 2.0**-24
    return float(gamma * (np.abs(X) @ np.abs(W).T + np.abs(B)).max())


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0)])
def test_gemm_folds_alpha_and_beta(trans_b: int, alpha: float, beta: float) -> None:
    model = graph(
        "m (float[b, 32] x) => (float[b, 24] y) "
        f"{{ y = Gemm <transB: int = {trans_b}, alpha: float = {alpha}, beta: float = {beta}>"
        "(x, w, b) }",
        w=W.copy() if trans_b else W.T.copy(),
        b=B,
    )
    result, _ = lowered(model)
    assert [line.split(" = ")[1].split("(")[0] for line in nodes(result)] == ["BitmapSparseGemm"]
    expected = X @ rounded(np.float32(alpha) * W).T + np.float32(beta) * B
    np.testing.assert_allclose(run(result, x=X), expected, rtol=0, atol=2 * bound())


def test_a_bias_that_is_not_one_row_stays_outside() -> None:
    model = graph(
        "m (float[3, 32] x) => (float[3, 24] y) { y = Gemm <beta: float = 2.0> (x, w, b) }",
        w=W.T.copy(),
        b=RNG.standard_normal((3, 1)).astype(np.float32),
    )
    expected = run(model, x=X) + X @ (rounded(W) - W).T
    result, _ = lowered(model)
    assert {line.split(" = ")[1].split("(")[0] for line in nodes(result)} == {
        "BitmapSparseGemm", "Mul", "Add",
    }  # fmt: skip
    np.testing.assert_allclose(run(result, x=X), expected, rtol=0, atol=4 * bound())


def test_a_shared_weight_is_packed_once() -> None:
    model = graph(
        "m (float[b, 32] x) => (float[b, 24] y) "
        "{ h = MatMul(x, w)\n g = MatMul(x, w)\n y = Sub(h, g) }",
        w=W.T.copy(),
    )
    result, _ = lowered(model)
    assert len([v for v in result.graph.initializers if v.endswith(".packed")]) == 1
    assert not run(result, x=X).any()


def test_adapters_keep_the_output_name_and_add_their_product() -> None:
    model = graph("m (float[b, 32] x) => (float[b, 24] y) { y = MatMul(x, w) }", w=W.T.copy())
    expected = X @ (rounded(W) + 2).T  # B·A of ones at rank 2 adds 2 everywhere
    result, _ = lowered(model, adapters=True)
    assert [line.split(" = ")[1].split("(")[0] for line in nodes(result)] == [
        "BitmapSparseGemm", "ConcatAdapterDown", "ConcatAdapterUp",
    ]  # fmt: skip
    assert result.graph.outputs[0].name == "y"
    tolerance = bound() + float(2 * 34 * 2.0**-24 * np.abs(X).sum(axis=1).max() * 2)
    np.testing.assert_allclose(run(result, x=X), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("slots", [0, 1])
def test_siblings_share_a_down_projection_unless_they_have_slots(slots: int) -> None:
    model = graph(
        "m (float[b, 32] x) => (float[b, 24] y, float[b, 24] z) "
        "{ y = MatMul(x, w)\n z = MatMul(x, v) }",
        w=W.T.copy(), v=-W.T.copy(),
    )  # fmt: skip
    result, _ = lowered(model, adapters=True, slots=slots)
    ups = [node for node in result.graph if node.op_type == "ConcatAdapterUp"]
    downs = [node for node in result.graph if node.op_type == "ConcatAdapterDown"]
    assert len(downs) == (2 if slots else 1)
    assert [up.attributes["offset"].as_int() for up in ups] == ([0, 0] if slots else [0, 2])
    expected = X @ (rounded(W) + 2).T
    tolerance = bound() + float(2 * 34 * 2.0**-24 * np.abs(X).sum(axis=1).max() * 2)
    np.testing.assert_allclose(run(result, x=X), expected, rtol=0, atol=tolerance)


def test_empty_slots_change_nothing_and_filled_ones_add() -> None:
    model = graph("m (float[b, 32] x) => (float[b, 24] y) { y = MatMul(x, w) }", w=W.T.copy())
    result, _ = lowered(model, slots=2)
    overridable = [v.name for v in result.graph.inputs if v.is_initializer()]
    assert [name.rsplit(".", 2)[1:] for name in overridable] == [
        ["slot0", "lora_A"], ["slot0", "lora_B"], ["slot1", "lora_A"], ["slot1", "lora_B"],
    ]  # fmt: skip
    base = run(result, x=X)
    np.testing.assert_allclose(base, X @ rounded(W).T, rtol=0, atol=bound())
    a = RNG.standard_normal((5, 32)).astype(np.float32)
    b = RNG.standard_normal((24, 5)).astype(np.float32)
    filled = run(result, x=X, **{overridable[2]: a, overridable[3]: b})
    tolerance = bound() + float(2 * 39 * 2.0**-24 * (np.abs(X) @ np.abs(a).T @ np.abs(b).T).max())
    np.testing.assert_allclose(filled - base, X @ a.T @ b.T, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("encoding", "half"), [("int8", 127), ("int4", 8)])
def test_an_embedding_of_few_bits_is_within_a_step(encoding: str, half: int) -> None:
    table = RNG.standard_normal((300, 32)).astype(np.float32)
    model = graph(
        "m (int64[b, s] ids) => (float[b, s, 32] y) { y = Gather <axis: int = 0> (e, ids) }",
        e=table,
    )
    result, _ = lowered(model, encoding)
    ids = RNG.integers(0, 300, (2, 5))
    step = np.abs(table).max(axis=1, keepdims=True) / half
    got = run(result, ids=ids)
    assert got.shape == (2, 5, 32)
    # Half a step; of 4 bits a whole one for the opposite of the largest, which has no level.
    assert (np.abs(got - table[ids]) <= step[ids] * (0.5001 if half == 127 else 1.0001)).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("K", [32, 50])
def test_codes_survive_packing(bits: int, K: int) -> None:
    codes = round_matrix(RNG.standard_normal((5, K)).astype(np.float32), bits=bits, group=32)
    again = unpacked(codes.packed(), codes.scales, bits=bits, group=32, K=K)
    assert (again.codes == codes.codes).all()
    assert codes.packed().shape == (5, -(-K // 32), 4 * bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_round_to_the_zero_point(bits: int) -> None:
    codes = round_matrix(np.zeros((2, 64), np.float32), bits=bits, group=32)
    assert (codes.codes == 2 ** (bits - 1)).all()
    assert not codes.scales.any()


@pytest.mark.parametrize("encoding", ["int8", "int4"])
def test_a_gemm_of_few_bits_keeps_alpha_beta_and_bias(encoding: str) -> None:
    model = graph(
        "m (float[b, 32] x) => (float[b, 24] y) "
        "{ y = Gemm <transB: int = 1, alpha: float = 0.5, beta: float = 2.0> (x, w, b) }",
        w=W.copy(), b=B,
    )  # fmt: skip
    result, _ = lowered(model, encoding)
    bits = {"int8": 8, "int4": 4}[encoding]
    dense = round_matrix(W, bits=bits, group=32)
    expected = 0.5 * X @ dense.matrix().T + 2 * B
    session = ort.InferenceSession(
        ir.to_proto(result).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {"x": X})
    # Level 1 multiplies in f32; onnxruntime's int4 kernel may round a block's sum once more.
    np.testing.assert_allclose(got, expected, rtol=0, atol=4 * bound())


def test_no_metadata_and_an_ir_version_for_the_target() -> None:
    model = graph("m (float[b, 32] x) => (float[b, 24] y) { y = MatMul(x, w) }", w=W.T.copy())
    model.ir_version = 10
    model.graph[0].metadata_props["stack_trace"] = "/home/somebody/model.py"
    result, _ = lowered(model)
    assert result.ir_version == 9
    assert "somebody" not in str(ir.to_proto(result))


def test_half_precision_gemm_with_a_bias_known_at_run_time() -> None:
    model = graph(
        "m (float16[b, 32] x, float16[1, 24] c) => (float16[b, 24] y) "
        "{ y = Gemm <beta: float = 2.0> (x, w, c) }",
        w=W.T.astype(np.float16),
    )
    result, _ = lowered(model)
    (beta,) = [node for node in result.graph if node.op_type == "Constant"]
    assert beta.attributes["value"].as_tensor().dtype == ir.DataType.FLOAT16
    x, c = X.astype(np.float16), B[None].astype(np.float16)
    wanted = x.astype(np.float32) @ W.astype(np.float16).astype(np.float32).T + 2 * c
    np.testing.assert_allclose(run(result, x=x, c=c), wanted, rtol=0, atol=2.0**-10 * 32)


def test_half_precision_table_stays_half() -> None:
    table = RNG.standard_normal((300, 32)).astype(np.float16)
    model = graph(
        "m (int64[b, s] ids) => (float16[b, s, 32] y) { y = Gather <axis: int = 0> (e, ids) }",
        e=table,
    )
    result, _ = lowered(model, "int8")
    assert run(result, ids=RNG.integers(0, 300, (2, 5))).dtype == np.float16


def test_a_name_that_is_taken_is_not_taken_again() -> None:
    model = graph(
        "m (float[b, 32] x) => (float[b, 24] y) { h = MatMul(x, w)\n y = Add(h, taken) }",
        w=W.T.copy(),
        **{"taken": B},
    )
    model.graph.initializers["taken"].name = "w.packed"
    result, _ = lowered(model)
    np.testing.assert_allclose(run(result, x=X), X @ rounded(W).T + B, rtol=0, atol=bound())


def test_balanced_factors_fit_f16_and_keep_the_product() -> None:
    a = RNG.standard_normal((3, 32)).astype(np.float32) * np.float32([[1e6], [1e-9], [0]])
    b = RNG.standard_normal((24, 3)).astype(np.float32) * np.float32([[1e-3, 1e8, 1]])
    small_a, small_b = balanced(a, b, "w")
    assert max(np.abs(small_a).max(), np.abs(small_b).max()) < 65504
    for r in range(3):
        np.testing.assert_array_equal(np.outer(small_b[:, r], small_a[r]), np.outer(b[:, r], a[r]))
    with pytest.raises(ModelError, match="two f16 factors"):
        balanced(a * np.float32(1e9), b, "w")


@pytest.mark.parametrize(
    ("encoding", "value_type", "layout", "level"),
    [
        ("bitmap", "i8", "rows", 4),
        ("bitmap", "i4", "rows", 4),
        ("bitmap", "i4", "planes", 1),
        ("delta", "f16", "rows", 1),
        ("delta", "i8", "rows", 1),
    ],
)
def test_every_way_of_storing_has_the_size_that_was_declared(
    encoding: str, value_type: str, layout: str, level: int
) -> None:
    model = graph("m (float[b, 32] x) => (float[b, 24] y) { y = MatMul(x, w) }", w=W.T.copy())
    linears, _ = find_linears(model)
    choice = Choice(
        linears[0].name, encoding, value_type, 1.0, W.size,
        group=0 if value_type == "f16" else 64, accuracy_level=level, layout=layout,
    )  # fmt: skip
    lowering = Lowering(linears, {linears[0].name: choice}, None, lambda _: W)
    result = lower(model, lowering, (1, 17))
    (packed,) = [v for v in result.graph.initializers.values() if str(v.name).endswith(".packed")]
    blob = packed.const_value.numpy()
    header = bitmap.read_header(blob)
    assert blob.shape == tuple(packed.shape)
    assert (header.encoding, header.value_type, header.layout) == (encoding, value_type, layout)
    (node,) = result.graph
    assert node.attributes["accuracy_level"].as_int() == level
    wanted = bitmap_sparse_gemm(X, blob, N=24, K=32, accuracy_level=level)
    np.testing.assert_array_equal(run(result, x=X), wanted)
