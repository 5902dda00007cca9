"""`slc devices` and `--device FILE` as a user meets them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slc.compiler.cli import main
from slc.targets import load


@dataclasses.dataclass(frozen=True)
class Done:
    """What a run of the command left."""

    returncode: int
    stdout: str
    stderr: str


Slc = Callable[..., Done]


@pytest.fixture
def slc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Slc:
    """Runs `slc ARGUMENTS` in this process: a start of its own takes seconds, and this has many."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["slc", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return run


def check_refused(done: Done, *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert [part for part in parts if part not in done.stderr] == []


def test_detect_prints_a_profile_that_loads_back(slc: Slc, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slc.compiler.cli", "devices", "--detect"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = tmp_path / "my.toml"
    path.write_text(done.stdout, encoding="utf-8")
    mine, host = load(str(path)), load("host")
    assert (mine.name, mine.cores, mine.isa) == (host.name, host.cores, host.isa)
    assert (mine.memory_bytes, mine.ort_min) == (host.memory_bytes, host.ort_min)
    assert mine.sources["bandwidth_bytes_per_s"].startswith("measured")
    shown = slc("devices", path, "--json")
    assert json.loads(shown.stdout)["bandwidth_bytes_per_s"] == mine.bandwidth_bytes_per_s


def test_detect_in_json_is_one_document(slc: Slc) -> None:
    document = json.loads(slc("devices", "--detect", "--json").stdout)
    assert document["name"] == "host"
    assert document["sources"]["bandwidth_bytes_per_s"].startswith("measured")


def test_detect_is_of_this_machine_only(slc: Slc) -> None:
    check_refused(slc("devices", "jetson", "--detect"), "--detect", "'jetson'", "leave one out")


def test_a_device_is_shown_with_the_source_of_each_figure(slc: Slc) -> None:
    done = slc("devices", "raspberry-pi-4")
    assert done.returncode == 0, done.stderr
    text = "".join(done.stderr.split())  # a cell is folded where it is wider than its column
    assert "3,976,000,000" in text
    assert "https://github.com/ggml-org/llama.cpp/issues/58" in text
    assert "withanillegalinstruction" in text  # its note


def test_texts_of_a_profile_are_no_markup(slc: Slc, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'inherits = "jetson"\ndescription = "[/red] [b]"\nnotes = ["[/x]"]\n'
        '[sources]\ncores = "[0] of a list"\n'
    )
    done = slc("devices", path)
    assert done.returncode == 0, done.stderr
    assert [
        text for text in ("[/red] [b]", "[/x]", "[0] of a list") if text not in done.stderr
    ] == []


WRONG = {
    "missing fields": ('arch = "x86_64"\ncores = 9\n', ["memory_bytes, reserve_bytes", "inherits"]),
    "missing field": (
        'arch = "x86_64"\nmemory_bytes = 9\nreserve_bytes = 1\ncores = 1\n',
        ["bandwidth_bytes_per_s is missing"],
    ),
    "negative": ('inherits = "jetson"\nmemory_bytes = -1\n', ["memory_bytes", "-1", "at least 1"]),
    "no number": ('inherits = "jetson"\ncores = "six"\n', ["cores", "'six'", "integer"]),
    "a fraction": ('inherits = "jetson"\ncores = 1.5\n', ["cores", "1.5"]),
    "no text": ('inherits = "jetson"\narch = ["aarch64"]\n', ["arch", "text"]),
    "no list": ('inherits = "jetson"\nisa = "neon"\n', ["isa", "list"]),
    "no version": ('inherits = "jetson"\nort_min = 1.23\n', ["ort_min", "text", "1.23"]),
    "unknown key": ('inherits = "jetson"\nmemory = 1\n', ["'memory'", "did you mean memory_bytes"]),
    "unknown ISA": ('inherits = "jetson"\nisa = ["avx2"]\n', ["avx2", "neon"]),
    "unknown parent": ('inherits = "jetsen"\n', ["jetsen", "jetson"]),
    "figure among sources": ('inherits = "jetson"\n[sources]\ncores = 4\n', ["above", "got 4"]),
    "unknown source": ('inherits = "jetson"\n[sources]\ncore = "x"\n', ["did you mean cores"]),
    "reserve above memory": ('inherits = "jetson"\nmemory_bytes = 9\n', ["reserve_bytes", "below"]),
    "no TOML": ("memory_bytes: 9\n", ["not valid TOML"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_profile_is_one_sentence(slc: Slc, tmp_path: Path, case: str) -> None:
    text, parts = WRONG[case]
    path = tmp_path / "mine.toml"
    path.write_text(text)
    check_refused(slc("devices", path), "mine.toml", *parts)


def test_a_wrong_profile_stops_a_plan_too(slc: Slc, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('inherits = "jetson"\nmemory = 1\n')
    (tmp_path / "model.onnx").touch()
    check_refused(slc("plan", tmp_path / "model.onnx", "--device", path), "memory_bytes")


def test_a_file_that_is_not_there(slc: Slc) -> None:
    check_refused(slc("devices", "./absent.toml"), "absent.toml", "can't be read")
