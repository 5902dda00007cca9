"""Checks a JSON value against the part of JSON Schema that the schemas of slc need.

Known are type, const, enum, minimum, minItems, required, properties, items and
additionalProperties as a schema. Unknown keys are allowed: nothing here reads them.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


@functools.cache
def load_schema(package: str, name: str) -> dict[str, Any]:
    """The schema file `name` in a package of ours."""
    text = importlib.resources.files(package).joinpath(name).read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def first_problem(value: Any, schema: Mapping[str, Any], at: str = "") -> str | None:
    """What is wrong first, naming the field ("linears[0].choice is missing"), or None."""
    wanted = schema.get("type", list(_TYPES))
    kinds = [wanted] if isinstance(wanted, str) else wanted
    if not any(_is(value, kind) for kind in kinds):
        return f"{at or 'the whole'} is not of type {' or '.join(kinds)}"
    if "const" in schema and value != schema["const"]:
        return f"{at} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{at} is not one of {', '.join(map(repr, schema['enum']))}"
    if "minimum" in schema and value is not None and value < schema["minimum"]:
        return f"{at} is below {schema['minimum']}"
    if isinstance(value, list):
        if len(value) < (least := schema.get("minItems", 0)):
            return f"{at} has {len(value)} entries, fewer than {least}"
        parts = [(item, schema.get("items", {}), f"{at}[{i}]") for i, item in enumerate(value)]
    elif isinstance(value, dict):
        for key in schema.get("required", []):
            if key not in value:
                return f"{_member(at, key)} is missing"
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        rest = other if isinstance(other, dict) else {}
        parts = [(item, known.get(key, rest), _member(at, key)) for key, item in value.items()]
    else:
        return None
    problems = (first_problem(*part) for part in parts)
    return next((problem for problem in problems if problem is not None), None)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _member(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
