from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from budget.models import mlp

from slc.compiler.budget.activations import activation_peak
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.shapes import concrete_shapes
from slc.compiler.budget.steps import Made, Step, Steps, graph_steps
from slc.compiler.linear import Linear


def made(name: str, size: int) -> Made:
    return Made(name, (size,), 1)


def run(*steps: Step, inputs: tuple[Made, ...] = (), outputs: tuple[str, ...] = ()) -> Steps:
    return Steps(inputs, steps, frozenset(outputs), 0)


def chain(*sizes: int) -> Steps:
    steps = [Step("first", (), (made("v0", sizes[0]),))]
    for i, size in enumerate(sizes[1:], 1):
        steps.append(Step(f"s{i}", (f"v{i - 1}",), (made(f"v{i}", size),)))
    return run(*steps)


def test_a_chain_of_unequal_sizes_holds_two_neighbours() -> None:
    assert activation_peak(chain(10, 20, 5, 40, 1)).bytes == 45


def test_a_chain_of_equal_sizes_reuses_two_buffers() -> None:
    assert activation_peak(chain(10, 10, 10, 10)).bytes == 20


def test_a_buffer_that_is_reused_later_is_held_in_between() -> None:
    # 10 comes back at the end: onnxruntime keeps its buffer while 100 and 7 are alive.
    assert activation_peak(chain(10, 100, 7, 10)).bytes == 117


def test_an_alias_takes_no_memory_and_an_in_place_step_needs_the_last_use() -> None:
    first = Step("a", (), (made("x", 10),))
    alias = Step("reshape", ("x",), (made("y", 10),), alias=True)
    softmax = Step("softmax", ("y",), (made("z", 10),), in_place=True)
    assert activation_peak(run(first, alias, softmax)).bytes == 10
    both = Step("add", ("y", "z"), (made("w", 1),))
    assert activation_peak(run(first, alias, softmax, both)).bytes == 21


def test_inputs_and_outputs_stay_and_bound_outputs_are_there_first() -> None:
    steps = (
        Step("wide", ("x",), (made("w", 50),)),
        Step("out", ("w",), (made("y", 30),)),
        Step("late", ("x",), (made("t", 60),)),
    )
    whole = run(*steps, inputs=(made("x", 5),), outputs=("y",))
    assert activation_peak(whole).bytes == 5 + 30 + 60
    assert activation_peak(whole, outputs_bound=True).bytes == 5 + 30 + 60
    assert activation_peak(run(*steps[:2], outputs=("y",)), outputs_bound=True).bytes == 80
    assert activation_peak(run(*steps[:1], inputs=(made("x", 5),))).bytes == 55


def test_workspace_counts_while_its_step_runs() -> None:
    step = Step("attention", (), (made("y", 10),), workspace=1000)
    peak = activation_peak(run(Step("a", (), (made("x", 3),)), step))
    assert (peak.bytes, peak.label) == (1013 - 3, "attention")


def test_an_adapter_is_a_second_output_and_its_hidden_rows() -> None:
    source = mlp((64, 64))
    shapes = concrete_shapes(source.graph, 1, 10)
    plain = [Choice("layer0", "bitmap", "f16", rank=0)]
    adapted = [Choice("layer0", "bitmap", "f16", rank=8)]
    base = activation_peak(graph_steps(source.graph, shapes, source.linears, plain))
    more = activation_peak(graph_steps(source.graph, shapes, source.linears, adapted))
    # Plain: x, y (the bias moves into the operator), and the model's output, which reuses nothing.
    # Adapted: x, y0, H and y at once, before the output.
    row = 10 * 64 * 4
    assert base.bytes == 3 * row
    assert more.bytes == 3 * row + 10 * 8 * 4
    wide = [Choice("layer0", "bitmap", "f16", rank=64)]
    widest = activation_peak(graph_steps(source.graph, shapes, source.linears, wide))
    assert widest.bytes == 4 * row


def test_siblings_share_one_hidden_value() -> None:
    """Both read x: one Down makes H with the ranks of both, and it lives until the second Up."""
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> '
        "m (float[10, 64] x) => (float[10, 64] y, float[10, 64] z) "
        "{ y = MatMul(x, w)\n z = MatMul(x, v) }"
    )
    for name in ("w", "v"):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(np.zeros((64, 64), np.float32), name)
        )
    model = ir.from_proto(proto)
    linears = []
    for node, name in zip(model.graph, ("w", "v"), strict=True):
        node.name = f"matmul_{name}"
        linears.append(Linear(name, 64, 64, name, True, (node.name,)))
    choices = [Choice("w", "bitmap", "f16", rank=8), Choice("v", "bitmap", "f16", rank=4)]
    planned = graph_steps(model, concrete_shapes(model, 1, 10), linears, choices)
    assert [step.label.split(" ")[0] for step in planned.steps] == [
        "MatMul", "ConcatAdapterDown", "ConcatAdapterUp", "MatMul", "ConcatAdapterUp",
    ]  # fmt: skip
    down, up = planned.steps[1].makes[0], planned.steps[4]
    assert down.shape == (10, 12)
    assert down.name in up.reads
