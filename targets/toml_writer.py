"""A profile as the text of a TOML file: what `load` reads."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping

from slc.targets.target import Target

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LINE_MAX = 100  # a longer list is written an item a line


def to_toml(target: Target, comment: str = "") -> str:
    """`target` as a TOML file from which `load` makes an equal one, if each figure has a source.

    Fields are written by their type alone: one that `Target` gets later needs no change here. Left
    out are None, which TOML can't say, and empty lists and tables: all of them are defaults.

    Args:
      target: any profile.
      comment: lines for the head of the file, without their "# ".
    """
    plain, tables = [], []
    for field in dataclasses.fields(target):
        value = getattr(target, field.name)
        if value is None or value == () or value == {}:
            continue
        if isinstance(value, Mapping):
            tables += _table(_key(field.name), value)
        else:
            plain.append(f"{_key(field.name)} = {_value(value)}")
    head = [f"# {line}".rstrip() for line in comment.splitlines()]
    return "\n".join([*head, *plain, *tables]) + "\n"


def _table(path: str, mapping: Mapping[str, object]) -> list[str]:
    """The lines of `[path]`, its own values before the tables within it, as TOML wants them."""
    nested = {k: v for k, v in mapping.items() if isinstance(v, Mapping)}
    own = [f"{_key(k)} = {_value(v)}" for k, v in mapping.items() if k not in nested]
    lines = ["", f"[{path}]", *own] if own or not nested else []
    for key, value in nested.items():
        lines += _table(f"{path}.{_key(key)}", value)
    return lines


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _value(value: object) -> str:
    if isinstance(value, bool):  # before int, which it is too
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (tuple, list)):
        items = [_value(item) for item in value]
        line = f"[{', '.join(items)}]"
        return line if len(line) <= _LINE_MAX else "[\n  " + ",\n  ".join(items) + ",\n]"
    raise TypeError(f"a profile holds no {type(value).__name__}")


def _text(text: str) -> str:
    """A basic string. Its escapes are JSON's; beside those TOML wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
