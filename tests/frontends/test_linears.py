"""find_linears on graphs written as ONNX text: one case per rule and per refusal."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from slc.compiler.frontends.linears import find_linears
from slc.compiler.linear import Linear

HEAD = '<ir_version: 9, opset_import: ["" : 18]>\nagraph '


def weight(name: str, *shape: int, dtype: type = np.float32) -> ir.TensorProtocol:
    return ir.Tensor(np.ones(shape, dtype), name=name)


def model(text: str, *weights: ir.TensorProtocol) -> ir.Model:
    return ir.from_onnx_text(HEAD + text, initializers=list(weights))


def only_linear(graph: ir.Model) -> Linear:
    linears, refusals = find_linears(graph)
    assert refusals == []
    (linear,) = linears
    return linear


def only_refusal(graph: ir.Model) -> tuple[str, str]:
    linears, refusals = find_linears(graph)
    assert linears == []
    (refusal,) = refusals
    return refusal.name, refusal.reason


def test_matmul_holds_the_transpose() -> None:
    linear = only_linear(
        model(
            "(float[B,40] x) => (float[B,30] y) { [dense] y = MatMul(x, W) }", weight("W", 40, 30)
        )
    )
    assert (linear.name, linear.N, linear.K) == ("W", 30, 40)
    assert linear.transposed
    assert linear.nodes == ("dense",)
    assert linear.kind == "linear"


@pytest.mark.parametrize(
    ("attributes", "shape", "transposed", "alpha"),
    [
        ("transB=1", (30, 40), False, 1.0),
        ("transB=0", (40, 30), True, 1.0),
        ("alpha=0.5, beta=2.0, transB=1", (30, 40), False, 0.5),
    ],
)
def test_gemm(attributes: str, shape: tuple[int, int], transposed: bool, alpha: float) -> None:
    text = (
        "(float[B,40] x, float[30] b) => (float[B,30] y) "
        f"{{ [fc] y = Gemm <{attributes}> (x, W, b) }}"
    )
    linear = only_linear(model(text, weight("W", *shape)))
    assert (linear.N, linear.K) == (30, 40)
    assert linear.transposed == transposed
    assert linear.alpha == pytest.approx(alpha)


@pytest.mark.parametrize(
    ("chain", "shape", "transposed"),
    [
        ("v = Identity(W)", (40, 30), True),
        ("v = Transpose <perm=[1,0]> (W)", (30, 40), False),
        ("v = Transpose(W)", (30, 40), False),
        ("u = Transpose <perm=[1,0]> (W) v = Identity(u)", (30, 40), False),
        ("u = Transpose(W) t = Transpose(u) v = Identity(t)", (40, 30), True),
    ],
)
def test_sees_through(chain: str, shape: tuple[int, int], transposed: bool) -> None:
    text = f"(float[B,40] x) => (float[B,30] y) {{ {chain} y = MatMul(x, v) }}"
    linear = only_linear(model(text, weight("W", *shape)))
    assert (linear.N, linear.K, linear.transposed) == (30, 40, transposed)
    assert linear.weight == "W"


def test_sees_through_a_cast_of_half_precision() -> None:
    text = "(float[B,40] x) => (float[B,30] y) { v = Cast <to=1> (W) y = MatMul(x, v) }"
    assert only_linear(model(text, weight("W", 40, 30, dtype=np.float16))).weight == "W"


def test_one_weight_used_twice_is_one_linear() -> None:
    text = "(float[B,40] x) => (float[B,40] y) { [a] h = MatMul(x, W) [b] y = MatMul(h, W) }"
    assert only_linear(model(text, weight("W", 40, 40))).nodes == ("a", "b")


def test_both_orientations_are_two_linears_on_one_weight() -> None:
    text = """(float[B,40] x) => (float[B,40] y) {
      [down] h = MatMul(x, W)
      [up] y = Gemm <transB=1> (h, W)
    }"""
    linears, refusals = find_linears(model(text, weight("W", 40, 30)))
    assert refusals == []
    assert [(n.nodes, n.N, n.K, n.transposed) for n in linears] == [
        (("down",), 30, 40, True),
        (("up",), 40, 30, False),
    ]
    assert {n.weight for n in linears} == {"W"}
    assert len({n.name for n in linears}) == 2


def test_tied_embedding_is_a_table_and_a_head() -> None:
    text = """(int64[B] i) => (float[B,300] logits) {
      [look] h = Gather <axis=0> (E, i)
      t = Transpose <perm=[1,0]> (E)
      [head] logits = MatMul(h, t)
    }"""
    linears, _ = find_linears(model(text, weight("E", 300, 40)), vocab_size=300)
    assert [(n.name, n.kind, n.N, n.K, n.transposed) for n in linears] == [
        ("look", "embedding", 300, 40, False),
        ("head", "lm_head", 300, 40, False),
    ]


def test_another_reader_does_not_matter() -> None:
    text = """(float[B,40] x) => (float[B,30] y, float[40,30] z) {
      y = MatMul(x, W)
      z = Add(W, W)
    }"""
    assert only_linear(model(text, weight("W", 40, 30))).N == 30


def test_lm_head_is_found_by_size_behind_a_scaling() -> None:
    text = """(float[B,40] x, float s) => (float[B,300] logits) {
      h = MatMul(x, W)
      l = MatMul(h, V)
      logits = Mul(l, s)
    }"""
    graph = model(text, weight("W", 40, 30), weight("V", 30, 300))
    assert [n.kind for n in find_linears(graph, vocab_size=300)[0]] == ["linear", "lm_head"]
    assert [n.kind for n in find_linears(graph)[0]] == ["linear", "linear"]


def test_small_tables_and_computed_weights_are_nothing() -> None:
    text = """(int64[B] i, float[B,40] x, float[40,30] w) => (float[B,40] y, float[B,30] z) {
      y = Gather(E, i)
      z = MatMul(x, w)
    }"""
    assert find_linears(model(text, weight("E", 255, 40))) == ([], [])


@pytest.mark.parametrize(
    ("text", "shape", "dtype", "reason"),
    [
        ("(float[B,8] x) => (float[B,31] y) { y = MatMul(x, W) }", (8, 31), np.float32, "1 KB"),
        ("(float[40,B] x) => (float[30,B] y) { y = MatMul(W, x) }", (30, 40), np.float32, "left"),
        (
            "(float[2,B,40] x) => (float[2,B,30] y) { y = MatMul(x, W) }",
            (2, 40, 30),
            np.float32,
            "3 dimensions",
        ),
        ("(double[B,40] x) => (double[B,30] y) { y = MatMul(x, W) }", (40, 30), float, "double"),
        ("(int32[B,40] x) => (int32[B,30] y) { y = MatMul(x, W) }", (40, 30), np.int32, "int32"),
        (
            "(float[40,B] x) => (float[B,30] y) { y = Gemm <transA=1> (x, W) }",
            (40, 30),
            np.float32,
            "transA",
        ),
        (
            """(float[B,40] x, bool c) => (float[B,30] y) {
              y = If (c) <
                then_branch = yes () => (float[B,30] t) { t = MatMul(x, W) },
                else_branch = no () => (float[B,30] e) { n = Neg(x) e = MatMul(n, W) }
              >
            }""",
            (40, 30),
            np.float32,
            "subgraph",
        ),
        (
            """(uint8[B,40] x) => (float[B,30] y) {
              f = Cast <to=1> (x)
              v = DequantizeLinear(W, s)
              y = MatMul(f, v)
            }""",
            (40, 30),
            np.int8,
            "already quantized",
        ),
    ],
)
def test_refusals(text: str, shape: tuple[int, ...], dtype: type, reason: str) -> None:
    scale = ir.Tensor(np.float32(0.1).reshape(()), name="s")
    weights = [weight("W", *shape, dtype=dtype)] + ([scale] if "(W, s)" in text else [])
    name, why = only_refusal(model(text, *weights))
    assert name == "W"
    assert reason in why


def test_an_overridable_initializer_is_no_constant() -> None:
    graph = model("(float[B,40] x) => (float[B,30] y) { y = MatMul(x, W) }", weight("W", 40, 30))
    graph.graph.inputs.append(graph.graph.initializers["W"])
    assert "overridable" in only_refusal(graph)[1]


def test_names_are_unique_and_say_something() -> None:
    text = """(float[B,40] x) => (float[B,40] y) {
      ["/layer.0/fc/MatMul"] h = MatMul(x, val_7)
      ["/layer.0/fc/MatMul_1"] g = MatMul(h, val_8)
      ["/layer.0/fc/MatMul"] y = MatMul(g, val_9)
    }"""
    linears, _ = find_linears(model(text, *(weight(f"val_{i}", 40, 40) for i in (7, 8, 9))))
    assert [n.name for n in linears] == ["layer.0.fc", "layer.0.fc.MatMul_1", "layer.0.fc.2"]
