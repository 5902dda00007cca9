"""Golden tests of residual adapters in int8: Input and Expected as text, then numerics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numerics import assert_within, matmul_bound
from onnx.reference import ReferenceEvaluator
from ops_models import session

from slc.compiler.artifact.linear_check import check_node
from slc.compiler.budget.choice import Choice
from slc.compiler.errors import ModelError
from slc.compiler.frontends.linears import find_linears
from slc.compiler.frontends.source import Source
from slc.compiler.passes.attach_adapters import AttachAdapters
from slc.compiler.passes.lowering import Adapter, Lowering
from slc.compiler.passes.share_adapter_down import ShareAdapterDown
from slc.compiler.structure.adapter_rounding import round_adapter
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decompose import decompose
from slc.ops import reference_ops

K, RANKS = 96, {"wq": 5, "wk": 3, "wv": 8}
WIDTHS = {"wq": 64, "wk": 40, "wv": 72}
TEXT = """
<ir_version: 9, opset_import: ["" : 18, "ai.slc" : 1]>
m (float[b, 96] x) => (float[b, 64] q, float[b, 40] k, float[b, 72] v) {
  q = MatMul(x, wq)
  k = MatMul(x, wk)
  v = MatMul(x, wv)
}
"""
X = np.random.default_rng(1).standard_normal((7, K)).astype(np.float32)


def graph() -> ir.Model:
    """Three projections of one x."""
    proto = onnx.parser.parse_model(TEXT)
    for seed, (name, N) in enumerate(WIDTHS.items()):
        weight = np.random.default_rng(seed).standard_normal((K, N)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    model = ir.from_proto(proto)
    for node in model.graph:
        node.name = f"n_{node.outputs[0].name}"
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> StructuredCheckpoint:
    model = graph()
    linears, refusals = find_linears(model)
    source = Source(model, "onnx", Path("m.onnx"), linears, refusals, find_sha256=lambda: "0" * 64)
    path = tmp_path_factory.mktemp("slr") / "m.slr"
    return decompose(source, path, method="salr", density=0.5, rank=8)


def task(name: str, rank: int = 2) -> Adapter:
    rng = np.random.default_rng([9, WIDTHS[name]])
    a = rng.standard_normal((rank, K)) / 10
    return a.astype(np.float32), rng.standard_normal((WIDTHS[name], rank)).astype(np.float32)


def attached(
    checkpoint: StructuredCheckpoint | None,
    tasks: tuple[str, ...] = (),
    types: dict[str, str] | None = None,
    slots: int = 0,
) -> tuple[ir.Model, Lowering]:
    """The graph, its MatMuls as they are, after AttachAdapters alone."""
    model = graph()
    linears, _ = find_linears(model)
    choices = {
        li.name: Choice(
            li.name, "dense", "f32", rank=RANKS[li.name],
            adapter_type=(types or {}).get(li.name, "i8"),
        )
        for li in linears
    }  # fmt: skip
    lowering = Lowering(
        linears, choices, checkpoint, lambda li: np.zeros((li.N, li.K), np.float32),
        adapters={name: [task(name)] for name in tasks}, adapter_slots=slots,
    )  # fmt: skip
    assert AttachAdapters(lowering)(model).modified
    return model, lowering


def lines(model: ir.Model) -> list[str]:
    """One line per node of ours: outputs = op(inputs), and the offset of an Up."""
    return [
        f"{node.outputs[0].name} = {node.op_type}"
        f"({', '.join(str(i.name) if i is not None else '' for i in node.inputs)})"
        + (f" offset {node.attributes['offset'].as_int()}" if node.attributes else "")
        for node in model.graph
        if node.domain == "ai.slc"
    ]


def named(model: ir.Model) -> ir.Model:
    """H's get the names that they have in a written graph."""
    for node in model.graph:
        if node.op_type == "ConcatAdapterDown":
            node.outputs[0].name = f"h_{str(node.name).split('/')[0].split('_')[-1]}"
    return model


def test_an_int8_pair_with_a_scale_for_each_row(checkpoint: StructuredCheckpoint) -> None:
    model, _ = attached(checkpoint)
    assert lines(named(model))[:2] == [
        "h_q = ConcatAdapterDown(x, wq.lora_A_scale, , wq.lora_A)",
        "q = ConcatAdapterUp(q/base, h_q, wq.lora_B_scale, wq.lora_B) offset 0",
    ]
    a, b = checkpoint.adapter("wq", 5)
    wanted = round_adapter(a, b)
    for field, value in dataclasses.asdict(wanted).items():
        got = model.graph.initializers[f"wq.lora_{field}"]
        assert (got.dtype, tuple(got.shape)) == (ir.DataType.from_numpy(value.dtype), value.shape)
        np.testing.assert_array_equal(got.const_value.numpy(), value)


def test_a_task_adapter_is_an_f16_pair_behind_it_and_a_slot_comes_last(
    checkpoint: StructuredCheckpoint,
) -> None:
    model, _ = attached(checkpoint, tasks=("wk",), slots=1)
    assert lines(named(model))[2:4] == [
        "h_k = ConcatAdapterDown(x, wk.lora_A_scale, , wk.lora_A, wk.task_A, wk.slot0.lora_A)",
        "k = ConcatAdapterUp(k/base, h_k, wk.lora_B_scale, wk.lora_B, wk.task_B, "
        "wk.slot0.lora_B) offset 0",
    ]
    dtypes = [model.graph.initializers[f"wk.{n}_A"].dtype.name for n in ("lora", "task")]
    assert dtypes == ["INT8", "FLOAT16"]


def test_siblings_share_one_down_and_join_their_scales(checkpoint: StructuredCheckpoint) -> None:
    model, _ = attached(checkpoint)
    ShareAdapterDown()(model)
    down = next(node for node in model.graph if node.op_type == "ConcatAdapterDown")
    scales = f"{down.name}.scales"
    assert lines(named(model)) == [
        f"h_q = ConcatAdapterDown(x, {scales}, , wq.lora_A, wk.lora_A, wv.lora_A)",
        "q = ConcatAdapterUp(q/base, h_q, wq.lora_B_scale, wq.lora_B) offset 0",
        "k = ConcatAdapterUp(k/base, h_q, wk.lora_B_scale, wk.lora_B) offset 5",
        "v = ConcatAdapterUp(v/base, h_q, wv.lora_B_scale, wv.lora_B) offset 8",
    ]
    joined = model.graph.initializers[scales].const_value.numpy()
    ranks = [round_adapter(*checkpoint.adapter(n, r)).A_scale for n, r in RANKS.items()]
    np.testing.assert_array_equal(joined, np.concatenate(ranks))
    assert not [name for name in model.graph.initializers if name.endswith("A_scale")]


@pytest.mark.parametrize("tasks", [(), ("wq",), ("wq", "wk", "wv")])
@pytest.mark.parametrize("types", [{}, {"wk": "f16"}])
@pytest.mark.parametrize("share", [False, True])
def test_numerics_by_reference_and_by_onnxruntime(
    checkpoint: StructuredCheckpoint, tasks: tuple[str, ...], types: dict[str, str], share: bool
) -> None:
    model, _ = attached(checkpoint, tasks, types)
    if share:
        ShareAdapterDown()(model)
        downs = [node for node in model.graph if node.op_type == "ConcatAdapterDown"]
        alike = {("i8" if n not in types else "f16", n in tasks and n not in types) for n in RANKS}
        assert len(downs) == len(alike)
    proto = ir.to_proto(model)
    wanted = ReferenceEvaluator(proto, new_ops=reference_ops()).run(None, {"x": X})
    got = session(proto).run(None, {"x": X})
    for name, ours, reference in zip(RANKS, got, wanted, strict=True):
        exact, bound = product(checkpoint, name, name in tasks, types.get(name, "i8"))
        weight = np.asarray(graph().graph.initializers[name].const_value.numpy(), np.float64).T
        base = X.astype(np.float64) @ weight.T
        bound = bound + matmul_bound(X, weight, lanes=1)  # onnxruntime's MatMul and numpy's
        assert_within(ours, exact + base, bound, f"onnxruntime {name}")
        assert_within(reference, exact + base, bound, f"reference {name}")


def product(
    checkpoint: StructuredCheckpoint, name: str, with_task: bool, adapter_type: str
) -> tuple[np.ndarray, np.ndarray]:
    """X·(B·A)ᵀ of the stored numbers in f64, and what f32 in two products may be off."""
    a, b = checkpoint.adapter(name, RANKS[name])
    if adapter_type == "i8":
        made = round_adapter(a, b)
        pairs = [(made.A * made.A_scale[:, None].astype(np.float64),
                  made.B * made.B_scale[:, None].astype(np.float64))]  # fmt: skip
    else:
        pairs = [(a.astype(np.float16), b.astype(np.float16))]
    if with_task:
        pairs.append(tuple(factor.astype(np.float16) for factor in task(name)))
    A = np.concatenate([np.asarray(a, np.float64) for a, _ in pairs])
    B = np.concatenate([np.asarray(b, np.float64) for _, b in pairs], axis=1)
    x = X.astype(np.float64)
    h = x @ A.T
    # numpy may sum in any order: one lane. f16 pairs are balanced by powers of two, which moves
    # nothing but subnormals.
    h_bound = matmul_bound(X, A, lanes=1)
    size = np.abs(h) + h_bound
    weight = np.asarray(graph().graph.initializers[name].const_value.numpy(), np.float64).T
    bound = matmul_bound(size, B, np.abs(x) @ np.abs(weight).T, lanes=1) + h_bound @ np.abs(B).T
    return h @ B.T, bound


def test_what_rounding_moves_is_within_its_steps(checkpoint: StructuredCheckpoint) -> None:
    """The whole path against the adapter in f32: |x|·(|B'|·s/2 + t/2·|Â|)ᵀ and f32's roundings."""
    model, _ = attached(checkpoint)
    outputs = ReferenceEvaluator(ir.to_proto(model), new_ops=reference_ops()).run(None, {"x": X})
    for name, got in zip(RANKS, outputs, strict=True):
        a, b = (f.astype(np.float64) for f in checkpoint.adapter(name, RANKS[name]))
        made = round_adapter(*checkpoint.adapter(name, RANKS[name]))
        s, t = made.A_scale[:, None] / 2.0, made.B_scale[:, None] / 2.0
        rounded_a, rounded_b = np.abs(made.A * 2 * s), np.abs(made.B * 2 * t)
        steps = (rounded_b + t) @ s + t * rounded_a.sum(axis=0)
        weight = np.asarray(graph().graph.initializers[name].const_value.numpy(), np.float64).T
        exact = X.astype(np.float64) @ (weight + b @ a).T
        _, bound = product(checkpoint, name, False, "i8")
        bound = bound + matmul_bound(X, weight, lanes=1) + np.abs(X) @ steps.T
        assert_within(got, exact, bound, name)
        moved = np.abs(got - exact).max()
        assert moved > 1e-4  # it is rounded at all


def test_verify_holds_each_operator_in_its_bound(checkpoint: StructuredCheckpoint) -> None:
    model, _ = attached(checkpoint, tasks=("wv",))
    ShareAdapterDown()(model)
    named(model)
    ours = [node for node in model.graph if node.domain == "ai.slc"]
    proto = ir.to_proto(model)
    exposed = {str(v.name) for node in ours for v in (*node.inputs[:2], *node.outputs)}
    wanted = [n for n in sorted(exposed) if n not in {"x", *model.graph.initializers}]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(n, 1, None) for n in wanted)
    values = dict(zip(wanted, session(proto).run(None, {"x": X}), strict=True)) | {"x": X}
    checks = [check_node(node, values) for node in ours]
    assert all(check.passed for check in checks)
    assert max(check.used for check in checks) > 0
    # One level of one weight of B: far beyond rounding.
    moved = model.graph.initializers["wq.lora_B"]
    levels = moved.const_value.numpy().copy()
    levels[3, 1] += 1 if levels[3, 1] < 127 else -1
    moved.const_value = ir.tensor(levels)
    failed = [check.node for check in (check_node(n, values) for n in ours) if not check.passed]
    assert failed == [str(n.name) for n in ours if moved in n.inputs]


def test_alpha_of_a_gemm_is_in_b(checkpoint: StructuredCheckpoint) -> None:
    model = graph()
    linears, _ = find_linears(model)
    (halved,) = [dataclasses.replace(li, alpha=0.5) for li in linears if li.name == "wq"]
    choice = Choice("wq", "dense", "f32", rank=5, adapter_type="i8")
    lowering = Lowering([halved], {"wq": choice}, checkpoint, lambda li: np.zeros((li.N, li.K)))
    AttachAdapters(lowering)(model)
    wanted = round_adapter(*checkpoint.adapter("wq", 5))
    levels, scale = (
        model.graph.initializers[f"wq.lora_{n}"].const_value.numpy() for n in ("A", "A_scale")
    )
    np.testing.assert_array_equal(levels, wanted.A)
    np.testing.assert_array_equal(scale, wanted.A_scale / 2)  # a size goes to A's scales


def test_what_f32_scales_cannot_hold_is_refused(checkpoint: StructuredCheckpoint) -> None:
    model = graph()
    linears = [dataclasses.replace(li, alpha=3e38) for li in find_linears(model)[0]]
    choices = {n: Choice(n, "dense", "f32", rank=5, adapter_type="i8") for n in WIDTHS}

    class Huge(Lowering):
        def residual(self, linear, choice):
            return [(np.full((5, K), 3e38, np.float32), np.ones((linear.N, 5), np.float32))]

    AttachAdapters(Huge(linears, choices, checkpoint, lambda li: np.zeros((1, 1))))(model)
    with pytest.raises(ModelError, match="the adapter of 'wq' has components beyond"):
        model.graph.initializers["wq.lora_A"].const_value.numpy()
