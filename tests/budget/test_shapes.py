from __future__ import annotations

import pytest
from budget.models import mlp, table_source

from slc.compiler.budget.shapes import concrete_shapes, evaluate


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("length", 7),
        ("2*length + batch", 17),
        ("Min(5, length)", 5),
        ("Max(5, length)//2", 3),
        ("-batch", -3),
        ("a/b.c", 9),  # a name that is no identifier
        ("other", None),
        ("length**2", None),
        ("length(", None),
        ("length//0", None),
        (None, None),
    ],
)
def test_dimensions_are_evaluated(expression: str | None, wanted: int | None) -> None:
    assert evaluate(expression, {"length": 7, "batch": 3, "a/b.c": 9}) == wanted


def test_symbols_are_bound() -> None:
    shapes = concrete_shapes(mlp((16, 32, 8)).graph, 2, 5)
    assert shapes["x"] == (2, 5, 16)
    assert shapes["relu1_out"] == (2, 5, 8)


def test_shapes_that_the_graph_does_not_state_are_inferred() -> None:
    source = table_source(40, 16)
    shapes = concrete_shapes(source.graph, 2, 5)
    assert shapes["gather_out"] == (2, 5, 16)
    assert shapes["head_out"] == (2, 5, 40)
    assert source.graph.graph.outputs[0].shape is None, "the model itself must stay as it was"
