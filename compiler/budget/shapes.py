"""The concrete shape of every value of a graph at one batch size and length."""

from __future__ import annotations

import ast
import logging
import math
import operator
from collections.abc import Callable, Mapping

import onnx_ir as ir

Shape = tuple[int, ...]

_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., int]] = {"Min": min, "Max": max, "floor": int}


def bind(model: ir.Model, batch: int, length: int, known: Mapping[str, int]) -> dict[str, int]:
    """A number for every symbol in the shapes of the graph's inputs.

    Args:
      model: any graph.
      batch: stands for the first open dimension of an input.
      length: stands for every other open dimension that is not `known`.
      known: symbols whose number is given by other means (a KV cache's capacity).
    """
    bindings = dict(known)
    for value in model.graph.inputs:
        open_dims = [d for d in value.shape or () if not isinstance(d, int)]
        for position, dim in enumerate(open_dims):
            if dim.value is not None:
                bindings.setdefault(dim.value, batch if position == 0 else length)
    return bindings


def concrete_shapes(
    model: ir.Model, batch: int, length: int, known: Mapping[str, int] | None = None
) -> dict[str, Shape]:
    """Shapes by value name, at `batch` and `length`. Values that nobody can tell are absent.

    A shape that the graph states, with its symbols bound, comes first; then what ONNX's shape
    inference says of a copy whose inputs are fixed; then what a few rules say of operators that
    it does not know.
    """
    bindings = bind(model, batch, length, known or {})
    stated = {
        str(value.name): shape
        for value in _values(model)
        if (shape := _bound(value.shape, bindings, batch, length, value)) is not None
    }
    missing = [v for n in model.graph for v in n.outputs if v.name and v.name not in stated]
    if not missing:
        return stated
    shapes = {**_inferred(model, stated), **stated}
    for node in model.graph:
        for output in node.outputs:
            if output.name and output.name not in shapes:
                shape = _by_rule(node, shapes)
                if shape is not None:
                    shapes[output.name] = shape
    return shapes


def _values(model: ir.Model) -> list[ir.Value]:
    return [
        *model.graph.inputs,
        *model.graph.initializers.values(),
        *(output for node in model.graph for output in node.outputs),
    ]


def _bound(
    shape: ir.Shape | None, bindings: Mapping[str, int], batch: int, length: int, value: ir.Value
) -> Shape | None:
    if shape is None:
        return None
    dims: list[int] = []
    for dim in shape:
        number = dim if isinstance(dim, int) else evaluate(dim.value, bindings)
        if number is None and value.is_graph_input():  # open without a name
            number = length if dims else batch
        if number is None:
            return None
        dims.append(number)
    return tuple(dims)


def evaluate(expression: str | None, bindings: Mapping[str, int]) -> int | None:
    """The number of a dimension such as "length", "2*batch" or "Min(512, length)".

    None if it holds a symbol that is not bound or something that is no dimension.
    """
    if expression is None:
        return None
    if expression in bindings:  # names of exporters need not be identifiers
        return bindings[expression]
    try:
        return _evaluate(ast.parse(expression, mode="eval").body, bindings)
    except (SyntaxError, KeyError, ZeroDivisionError):
        return None


def _evaluate(node: ast.expr, bindings: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return bindings[node.id]
    if isinstance(node, ast.BinOp):
        apply = _OPERATORS[type(node.op)]
        return apply(_evaluate(node.left, bindings), _evaluate(node.right, bindings))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, bindings)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _FUNCTIONS[node.func.id](*(_evaluate(a, bindings) for a in node.args))
    raise KeyError(ast.dump(node))


def _inferred(model: ir.Model, stated: Mapping[str, Shape]) -> dict[str, Shape]:
    """What ONNX's shape inference says, from the stated shapes on. Reads no large weight."""
    from onnx_ir.passes.common import ShapeInferencePass

    copy = model.clone()
    for value in _values(copy):
        shape = stated.get(str(value.name))
        value.shape = ir.Shape(shape) if shape is not None else None
    for value in copy.graph.outputs:
        name = str(value.name)
        value.shape = ir.Shape(stated[name]) if name in stated else None
    quiet = logging.getLogger("onnx_ir")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # a graph that it can't infer is not news for the user
    try:
        ShapeInferencePass(check_type=False, strict_mode=False)(copy)
    finally:
        quiet.setLevel(level)
    return {
        str(value.name): tuple(int(d) for d in value.shape if isinstance(d, int))
        for value in _values(copy)
        if value.name and value.shape is not None and value.shape.is_static()
    }


def _by_rule(node: ir.Node, shapes: Mapping[str, Shape]) -> Shape | None:
    """Operators with an attribute N change the last dimension; others make the largest input."""
    known = [shapes[str(v.name)] for v in node.inputs if v is not None and str(v.name) in shapes]
    if "N" in node.attributes and known:
        return (*known[0][:-1], node.attributes["N"].as_int())
    if node.op_type == "ConcatAdapterDown" and len(known) > 1:
        return (*known[0][:-1], sum(a[0] for a in known[1:] if len(a) == 2))
    data = [
        shapes[str(v.name)]
        for v in node.inputs
        if v is not None and str(v.name) in shapes and not v.is_initializer()
    ]
    return max(data, key=math.prod, default=None)
