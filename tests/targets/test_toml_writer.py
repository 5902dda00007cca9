"""to_toml and load are each other's inverse, whatever a profile holds."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slc.targets import Target, load, names
from slc.targets.target import FIGURES
from slc.targets.toml_writer import to_toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLAIN = Target(
    name="plain",
    arch="x86_64",
    memory_bytes=1000,
    reserve_bytes=100,
    bandwidth_bytes_per_s=10,
    cores=2,
    sources=dict.fromkeys(FIGURES, "somewhere"),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)  # surrogates are no text


def back(target: Target, folder: Path, comment: str = "") -> Target:
    path = folder / "my.toml"
    path.write_text(to_toml(target, comment), encoding="utf-8")
    return load(path)


@pytest.mark.parametrize("name", names())
def test_every_profile_comes_back(name: str, tmp_path: Path) -> None:
    target = load(name)
    assert back(target, tmp_path, "two\nlines") == target


def test_a_measured_profile_comes_back(tmp_path: Path) -> None:
    from slc.targets.detect import detect_host

    target = detect_host(measure=True)
    assert back(target, tmp_path) == target
    assert target.sources["bandwidth_bytes_per_s"].startswith("measured")


@given(texts=st.lists(TEXTS, max_size=4), description=TEXTS, source=TEXTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_comes_back(
    tmp_path: Path, texts: list[str], description: str, source: str
) -> None:
    target = dataclasses.replace(
        PLAIN,
        description=description,
        notes=tuple(texts),
        sources={**PLAIN.sources, "cores": source},
    )
    assert back(target, tmp_path) == target


@dataclasses.dataclass(frozen=True)
class Later(Target):
    """A profile with the kinds of field that `Target` may get."""

    costs: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    clock_ghz: float = 0.0


@given(
    costs=st.dictionaries(
        TEXTS,
        st.dictionaries(TEXTS, st.floats(allow_nan=False), max_size=3),
        max_size=4,
    ),
    clock=st.floats(allow_nan=False),
)
@settings(deadline=None)
def test_tables_of_numbers_come_back(costs: dict[str, dict[str, float]], clock: float) -> None:
    fields = {f.name: getattr(PLAIN, f.name) for f in dataclasses.fields(PLAIN)}
    read = tomllib.loads(to_toml(Later(**fields, costs=costs, clock_ghz=clock)))
    assert read.get("costs", {}) == costs
    assert read["clock_ghz"] == clock
    assert read["sources"] == PLAIN.sources


def test_long_lists_are_an_item_a_line_and_none_is_left_out() -> None:
    text = to_toml(dataclasses.replace(PLAIN, notes=("a" * 60, "b" * 60)), "a comment\n\nand more")
    assert text.startswith('# a comment\n#\n# and more\nname = "plain"\n')
    assert f'notes = [\n  "{"a" * 60}",\n  "{"b" * 60}",\n]\n' in text
    assert tomllib.loads(text).keys().isdisjoint({"sm", "ort_max", "genai_min", "aliases"})
    assert max(map(len, text.splitlines())) <= 100
