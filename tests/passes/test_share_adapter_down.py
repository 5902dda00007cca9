"""Golden test: siblings that read one X share one ConcatAdapterDown."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

import slc.ops
from slc.compiler.artifact.dense import dense_reference, gamma
from slc.compiler.passes.share_adapter_down import ShareAdapterDown

RNG = np.random.default_rng(11)
K, N1, N2, R1, R2 = 24, 16, 20, 3, 5

TWO = """
m (float[b, 24] x, float[b, 16] z1, float[b, 20] z2) => (float[b, 16] y1, float[b, 20] y2) {
  h1 = ai.slc.ConcatAdapterDown(x, scale1, , a1)
  y1 = ai.slc.ConcatAdapterUp(z1, h1, , b1)
  h2 = ai.slc.ConcatAdapterDown(x, scale2, , a2)
  y2 = ai.slc.ConcatAdapterUp <offset: int = 0> (z2, h2, , b2)
}
"""


def graph(text: str, **initializers: np.ndarray) -> ir.Model:
    """Parses ONNX text; an input is left out where its initializer is."""
    if "scale1" not in initializers:
        text = text.replace("scale1", "").replace("scale2", "")
    header = '<ir_version: 9, opset_import: ["" : 18, "ai.slc" : 1]>'
    proto = onnx.parser.parse_model(f"{header}\n{text}")
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    for node in model.graph:
        node.name = f"n_{node.outputs[0].name}"
        if node.op_type == "ConcatAdapterDown":
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            node.outputs[0].shape = ir.Shape(["b", None])
    return model


def lines(model: ir.Model) -> list[str]:
    """One line per node: outputs = op(inputs), and the offset of an Up."""
    return [
        f"{node.outputs[0].name} = {node.op_type}"
        f"({', '.join(str(i.name) if i is not None else '' for i in node.inputs)})"
        + (f" offset {node.attributes['offset'].as_int()}" if node.attributes else "")
        for node in model.graph
    ]


def weights(dtype: type = np.float16) -> dict[str, np.ndarray]:
    shapes = {"a1": (R1, K), "b1": (N1, R1), "a2": (R2, K), "b2": (N2, R2)}
    arrays = {name: RNG.standard_normal(shape) for name, shape in shapes.items()}
    if dtype == np.int8:
        scales = {"scale1": RNG.random(R1), "scale2": RNG.random(R2)}
        arrays = {name: np.rint(array * 40) if "a" in name else array
                  for name, array in arrays.items()}  # fmt: skip
        types = {"a1": np.int8, "a2": np.int8, "b1": np.float16, "b2": np.float16}
        return {name: array.astype(types.get(name, np.float32))
                for name, array in {**arrays, **scales}.items()}  # fmt: skip
    return {name: array.astype(dtype) for name, array in arrays.items()}


FEEDS = {
    "x": RNG.standard_normal((4, K)).astype(np.float32),
    "z1": RNG.standard_normal((4, N1)).astype(np.float32),
    "z2": RNG.standard_normal((4, N2)).astype(np.float32),
}


def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=slc.ops.reference_ops())
    return evaluator.run(None, {**FEEDS, **feeds})


def check_same(before: list[np.ndarray], model: ir.Model, **feeds: np.ndarray) -> None:
    """The same products, though BLAS may sum a taller A in another order: γ·(|z| + |x|·|A|·|B|)."""
    largest = model.clone()
    for value in largest.graph.initializers.values():
        value.const_value = ir.tensor(np.abs(value.const_value.numpy()), name=value.name)
    size = run(largest, **{name: np.abs(array) for name, array in {**FEEDS, **feeds}.items()})
    for wanted, got, bound in zip(before, run(model, **feeds), size, strict=True):
        assert (np.abs(got - wanted) <= 2 * gamma(K + R1 + R2 + 3) * bound).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_two_siblings_share_one_down(dtype: type) -> None:
    model = graph(TWO, **weights(dtype))
    before = run(model)
    assert ShareAdapterDown()(model).modified
    assert lines(model) == [
        "h1 = ConcatAdapterDown(x, , , a1, a2)",
        "y1 = ConcatAdapterUp(z1, h1, , b1) offset 0",
        "y2 = ConcatAdapterUp(z2, h1, , b2) offset 3",
    ]
    h = model.graph[0].outputs[0]
    assert (h.dtype, str(h.shape)) == (ir.DataType.FLOAT, "[b,None]")
    assert set(model.graph.initializers) == {"a1", "a2", "b1", "b2"}
    check_same(before, model)
    assert not ShareAdapterDown()(model).modified


def test_scales_of_int8_are_joined() -> None:
    model = graph(TWO, **weights(np.int8))
    before = run(model)
    ShareAdapterDown()(model)
    assert lines(model)[0] == "h1 = ConcatAdapterDown(x, n_h1.scales, , a1, a2)"
    check_same(before, model)


def test_verify_computes_the_shared_h_densely() -> None:
    model = graph(TWO, **weights())
    before = run(model)
    ShareAdapterDown()(model)
    check_same(before, dense_reference(model))


def test_another_type_stands_apart() -> None:
    arrays = weights()
    arrays["a2"] = arrays["a2"].astype(np.float32)
    model = graph(TWO, **arrays)
    before = lines(model)
    assert not ShareAdapterDown()(model).modified
    assert lines(model) == before


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("another X", "h2 = ai.slc.ConcatAdapterDown(x", "h2 = ai.slc.ConcatAdapterDown(x_other"),
        ("a gate", "h2 = ai.slc.ConcatAdapterDown(x, scale2, ,",
         "h2 = ai.slc.ConcatAdapterDown(x, scale2, gate,"),
        ("another reader", "y2 = ", "t = Relu(h2)\n y2 = "),
    ],
)  # fmt: skip
def test_what_is_no_sibling_is_left_alone(what: str, old: str, new: str) -> None:
    text = TWO.replace("float[b, 24] x,", "float[b, 24] x, float[b, 24] x_other, float[5] gate,")
    model = graph(text.replace(old, new), **weights())
    before = lines(model)
    assert not ShareAdapterDown()(model).modified, what
    assert lines(model) == before


def test_a_slot_keeps_its_own_down() -> None:
    """Three siblings, the second with a slot: the offset of what came behind it is not known."""
    text = """
    m (float[b, 24] x, float[b, 16] z1, float[b, 20] z2, float[r, 24] sa, float[16, r] sb)
        => (float[b, 16] y1, float[b, 16] y2, float[b, 20] y3) {
      h1 = ai.slc.ConcatAdapterDown(x, , , a1)
      y1 = ai.slc.ConcatAdapterUp(z1, h1, , b1)
      h2 = ai.slc.ConcatAdapterDown(x, , , a1, sa)
      y2 = ai.slc.ConcatAdapterUp(z1, h2, , b1, sb)
      h3 = ai.slc.ConcatAdapterDown(x, , , a2)
      y3 = ai.slc.ConcatAdapterUp(z2, h3, , b2)
    }
    """
    slot = {"sa": np.zeros((0, K), np.float32), "sb": np.zeros((N1, 0), np.float32)}
    model = graph(text, **weights(), **slot)
    filled = {
        "sa": RNG.standard_normal((2, K)).astype(np.float32),
        "sb": RNG.standard_normal((N1, 2)).astype(np.float32),
    }
    before = run(model, **filled)
    ShareAdapterDown()(model)
    assert lines(model) == [
        "h1 = ConcatAdapterDown(x, , , a1, a2)",
        "y1 = ConcatAdapterUp(z1, h1, , b1) offset 0",
        "h2 = ConcatAdapterDown(x, , , a1, sa)",
        "y2 = ConcatAdapterUp(z1, h2, , b1, sb)",
        "y3 = ConcatAdapterUp(z2, h1, , b2) offset 3",
    ]
    check_same(before, model, **filled)
