"""Finding a profile by name, alias or path, and reading its TOML."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slc.targets.target import FIGURES, Target, TargetError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEVICES = Path(__file__).parent / "devices"
HOST = "host"

_FIELDS = {field.name: field for field in dataclasses.fields(Target)}
_REQUIRED = tuple(
    name
    for name, field in _FIELDS.items()
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
)
# What describes one profile and must not leak into those that inherit from it.
_OWN = ("name", "description", "aliases", "verified")


def names() -> list[str]:
    """The names of the shipped profiles, `host` first, then by alphabet."""
    return [HOST, *sorted(path.stem for path in DEVICES.glob("*.toml"))]


def load(name_or_path: str | Path) -> Target:
    """The profile of that name, alias or TOML file.

    A text that ends in ".toml" or holds a "/" is a path; everything else is a name.

    Raises:
      TargetError: no such name (with near matches) or file, or the profile is wrong.
    """
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text or isinstance(name_or_path, Path):
        path = Path(name_or_path)
        return _to_target(_read(path, ()), path)
    if text == HOST:
        from slc.targets.detect import detect_host

        return detect_host()
    path = DEVICES / f"{_resolve(text)}.toml"
    return _to_target(_read(path, ()), path)


def _resolve(name: str) -> str:
    aliases = _aliases()
    if name in names():
        return name
    if name in aliases:
        return aliases[name]
    known = [*names(), *aliases]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    near += [k for k in known if name and name.lower() in k and k not in near][:6]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names())}."
    raise TargetError(
        f"unknown device {name!r}: {hint} `slc devices` lists them, and a path to a .toml works too"
    )


@functools.cache
def _aliases() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for path in sorted(DEVICES.glob("*.toml")):
        for alias in _parse(path).get("aliases", []):
            found[alias] = path.stem
    return found


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise TargetError(f"device profile {path}: can't be read: {reason}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"device profile {path}: is not valid TOML: {error}") from None


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The fields of a profile and of what it inherits from, with a source for each figure."""
    if path.resolve() in seen:
        raise TargetError(f"device profile {path}: inherits from itself")
    own = _parse(path)
    _check_keys(own, path)
    parent = _inherited(own.pop("inherits", None), path, (*seen, path.resolve()))
    sources = {**parent.pop("sources", {})}
    for figure in FIGURES:
        if figure in own:  # a parent's source does not speak for a child's figure
            sources[figure] = f"given in {path.name}"
    sources.update(own.pop("sources", {}))
    if isinstance(own.get("kernels"), dict):  # those it does not name stay the parent's
        own["kernels"] = {**parent.get("kernels", {}), **own["kernels"]}
    return {**parent, "name": path.stem, **own, "sources": sources}


def _check_keys(own: dict[str, Any], path: Path) -> None:
    """Refuses keys that profiles do not have; a figure below `[sources]` is the common slip."""
    sources = own.get("sources", {})
    if not isinstance(sources, dict):
        raise TargetError(f"device profile {path}: sources must be a table of field = text")
    for key in own:
        if key != "inherits" and key not in _FIELDS:
            raise TargetError(f"device profile {path}: unknown key {key!r}{_near(key)}")
    for key, value in sources.items():
        if key not in _FIELDS:
            raise TargetError(f"device profile {path}: unknown key {key!r} in sources{_near(key)}")
        if not isinstance(value, str):
            raise TargetError(
                f"device profile {path}: sources.{key} must be a text, where the figure is from, "
                f"got {value!r}; the figure itself belongs above [sources]"
            )


def _near(key: str) -> str:
    near = difflib.get_close_matches(key, _FIELDS, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(_FIELDS)}"


def _inherited(parent: Any, path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if parent is None:
        return {}
    if not isinstance(parent, str):
        raise TargetError(f"device profile {path}: inherits must be a name or a path of a profile")
    if parent == HOST:
        fields = dataclasses.asdict(load(HOST))
    elif parent.endswith(".toml") or "/" in parent:
        fields = _read(path.parent / parent, seen)
    else:
        try:
            name = _resolve(parent)
        except TargetError as error:
            raise TargetError(f"device profile {path}: inherits: {error}") from None
        fields = _read(DEVICES / f"{name}.toml", seen)
    return {key: value for key, value in fields.items() if key not in _OWN}


def _to_target(fields: dict[str, Any], path: Path) -> Target:
    missing = [key for key in _REQUIRED if key not in fields]
    if missing:
        what = f"{', '.join(missing)} {'are' if missing[1:] else 'is'} missing"
        raise TargetError(
            f"device profile {path}: {what}; give it, or a device to take it from, e.g. "
            'inherits = "raspberry-pi-5"'
        )
    if not isinstance(fields["arch"], str):
        raise TargetError(f"device profile {path}: arch must be text, got {fields['arch']!r}")
    for key in ("isa", "aliases", "notes"):
        if isinstance(fields.get(key), list):
            fields[key] = tuple(fields[key])
    try:
        return Target(**fields)
    except TargetError as error:
        raise TargetError(f"{error}, in {path}") from None
