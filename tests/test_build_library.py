"""`slc ops`: which library is for which device, and how one is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import slc.ops
from slc.compiler import build_library as module
from slc.compiler.artifact import elf
from slc.compiler.artifact.artifact import host_platform
from slc.compiler.build_library import build_library
from slc.compiler.cli import app
from slc.compiler.errors import RequestError
from slc.targets import Target, load, names

HOST, BOARD = load("host"), load("raspberry-pi-4")
FAKE_CMAKE = """#!/bin/sh
echo "$@" >> {log}
case "$1" in
  --build) {build} ;;
esac
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(module, "_COMPILERS", ("slc-test-c++",))
    monkeypatch.setattr(module, "_zig", lambda: None)
    return folder


def program(path: Path, text: str = "#!/bin/sh\n") -> None:
    path.write_text(text)
    path.chmod(0o755)


def cmake(tools: Path, build: str = 'echo built > "$2/libslc_ops.so"') -> Path:
    log = tools / "log"
    program(tools / "cmake", FAKE_CMAKE.format(log=log, build=build))
    return log


def test_a_laptop_has_the_library_for_boards() -> None:
    library = Path(slc.ops.library_path(BOARD.platform_tag))
    assert elf.machine(library) == "aarch64"
    needed = elf.glibc_needed(library)
    assert needed is not None
    boards = [target for target in map(load, names()) if target.arch == "aarch64"]
    oldest = min(tuple(map(int, board.glibc_min.split("."))) for board in boards)
    assert tuple(map(int, needed.split("."))) <= oldest
    assert slc.ops.library_path(host_platform()) == slc.ops.library_path()


def test_path() -> None:
    done = CliRunner().invoke(app, ["ops", "path", "--device", "raspberry-pi-4"])
    assert done.stdout.strip() == slc.ops.library_path("linux-aarch64")
    done = CliRunner().invoke(app, ["ops", "path", "--json"])
    document = json.loads(done.stdout)
    assert document == {"library": slc.ops.library_path(), "platform": host_platform()}
    with pytest.raises(slc.ops.LibraryNotFoundError, match="no operator library for linux-riscv64"):
        slc.ops.library_path("linux-riscv64")


def test_the_systems_compiler_builds_for_this_machine(tools: Path, tmp_path: Path) -> None:
    log = cmake(tools)
    program(tools / "slc-test-c++")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/libslc_ops.so").write_text("old")
    steps: list[tuple[int, int, str]] = []
    made = build_library(HOST, tmp_path / "out", jobs=3, progress=lambda *a: steps.append(a))
    assert made == tmp_path / "out/libslc_ops.so"
    assert made.read_text() == "built\n"
    assert [p.name for p in made.parent.iterdir()] == ["libslc_ops.so"]
    configured, built = log.read_text().splitlines()
    assert "TOOLCHAIN" not in configured
    source = Path(configured.split()[1])
    assert (source / "csrc/register.cc").is_file()
    assert built.endswith("--parallel 3 --target slc_ops")
    assert [done for done, _, _ in steps] == [0, 1, 2]


@pytest.mark.parametrize("target", [HOST, BOARD], ids=["no compiler", "another processor"])
def test_zig_builds_where_the_system_can_not(
    tools: Path, tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target is BOARD:
        program(tools / "slc-test-c++")
    log = cmake(tools)
    with pytest.raises(RequestError, match="pip install ziglang, or run slc ops build on the"):
        build_library(target, tmp_path)
    assert not log.exists()
    monkeypatch.setattr(module, "_zig", lambda: Path("/a/zig"))
    build_library(target, tmp_path)
    configured = log.read_text().splitlines()[0]
    assert "-DSLC_ZIG=/a/zig" in configured
    assert f"-DSLC_ZIG_CPU={target.arch}" in configured
    toolchain = next(w for w in configured.split() if w.startswith("-DCMAKE_TOOLCHAIN_FILE="))
    assert Path(toolchain.partition("=")[2]).is_file()


def test_a_build_that_fails_changes_nothing(tools: Path, tmp_path: Path) -> None:
    cmake(tools, build='echo "x.cc:7: error: no such thing" >&2; exit 2')
    program(tools / "slc-test-c++")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/libslc_ops.so").write_text("old")
    with pytest.raises(RequestError, match=r"can't be built here, cmake says:\s+x.cc:7: error"):
        build_library(HOST, tmp_path / "out")
    assert (tmp_path / "out/libslc_ops.so").read_text() == "old"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_what_is_missing_is_said(tools: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="wanted an existing folder"):
        build_library(HOST, tmp_path / "nowhere")
    with pytest.raises(RequestError, match="wants cmake"):
        build_library(HOST, tmp_path)
