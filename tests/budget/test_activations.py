from __future__ import annotations

from budget.models import mlp

from slc.compiler.budget.activations import activation_peak
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.shapes import concrete_shapes
from slc.compiler.budget.steps import Made, Step, Steps, graph_steps


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
