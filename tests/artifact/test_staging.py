"""All of a folder, or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from artifact.graphs import write_artifact

from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.staging import staged
from slc.compiler.errors import ArtifactError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def child(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_appears_whole_and_creates_parents(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    with staged(out, force=False) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        assert not out.exists()
        assert folder.parent == out.parent
        assert folder.name == f".out.slc-partial-{os.getpid()}"
    assert names(out.parent) == ["out"]
    assert (out / "sub" / "file").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with staged(tmp_path / "a" / "out", force=False) as folder:
            (folder / "file").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_errors_of_the_block_keep_their_type(tmp_path: Path) -> None:
    missing = tmp_path / "no such file"
    with pytest.raises(FileNotFoundError), staged(tmp_path / "out", force=False):
        missing.read_text()


def test_existing_is_refused_before_any_work(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    before = (out / "manifest.json").stat()
    with (
        pytest.raises(ArtifactError, match=r"out exists; pass --force to replace it"),
        staged(out, force=False),
    ):
        pytest.fail("the block ran")
    assert (out / "manifest.json").stat() == before
    assert names(tmp_path) == ["out"]


def test_force_replaces_an_artifact(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    (out / "measured.json").write_text("{}")
    with staged(out, force=True) as folder:
        (folder / "file").write_text("x")
        assert (out / "model.onnx").exists()
    assert names(out) == ["file"]
    assert names(tmp_path) == ["out"]


def test_force_that_fails_keeps_the_old_one(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    with pytest.raises(ValueError, match="no"), staged(out, force=True):
        raise ValueError("no")
    assert Artifact.open(out).check() == []
    assert names(tmp_path) == ["out"]


def test_force_fills_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with staged(tmp_path / "out", force=True) as folder:
        (folder / "file").write_text("x")
    assert names(tmp_path / "out") == ["file"]


@pytest.mark.parametrize("ours", [False, True])
def test_force_never_deletes_what_is_not_ours(tmp_path: Path, ours: bool) -> None:
    out = tmp_path / "out"
    if ours:
        write_artifact(out)
    out.mkdir(exist_ok=True)
    (out / "thesis.txt").write_text("x")
    with (
        pytest.raises(ArtifactError, match=r"holds thesis\.txt, which slc did not write"),
        staged(out, force=True),
    ):
        pytest.fail("the block ran")
    assert (out / "thesis.txt").read_text() == "x"


def test_a_file_is_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ArtifactError, match="is a file"), staged(tmp_path / "out", force=True):
        pytest.fail("the block ran")


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "out"
    with pytest.raises(ArtifactError, match="can't be written"), staged(out, force=False):
        pytest.fail("the block ran")


def test_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def race() -> None:
        with staged(out, force=False):
            out.mkdir()
            (out / "other").write_text("x")

    with pytest.raises(ArtifactError, match="exists"):
        race()
    assert names(tmp_path) == ["out"]
    assert names(out) == ["other"]


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk: the same write fails the same way."""
    code = """
        import resource, sys
        from pathlib import Path
        from slc.compiler.artifact.staging import staged
        from slc.compiler.errors import ArtifactError
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            with staged(Path(sys.argv[1]), force=False) as folder:
                (folder / "file").write_bytes(bytes(5000))
        except ArtifactError as error:
            print(error)
    """
    process = child(code, tmp_path / "new" / "out")
    output, _ = process.communicate()
    assert output.startswith(f"{tmp_path}/new/out can't be written: File too large; choose")
    assert names(tmp_path) == []


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A writer of tmp_path/out that died of kill -9 in the middle."""
    code = """
        import sys, time
        from pathlib import Path
        from slc.compiler.artifact.staging import staged
        with staged(Path(sys.argv[1]), force=False) as folder:
            (folder / "half").write_text("x")
            print("writing", flush=True)
            time.sleep(60)
    """
    process = child(code, tmp_path / "out")
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    with staged(tmp_path / "out-too", force=False):
        pass  # another destination: not its business
    (tmp_path / "out-too").rmdir()
    assert len(names(tmp_path)) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return tmp_path


def test_kill_leaves_no_out_and_the_next_run_clears(killed: Path) -> None:
    left = names(killed)
    assert len(left) == 1
    assert left[0].startswith(".out.slc-partial-")
    with staged(killed / "out", force=False):
        pass
    assert names(killed) == ["out"]


def test_a_living_writers_folder_is_left_alone(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from slc.compiler.artifact.staging import staged
        with staged(Path(sys.argv[1]), force=False) as folder:
            print("writing", flush=True)
            sys.stdin.readline()
            (folder / "file").write_text("x")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "out")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    with pytest.raises(ValueError, match="mine"), staged(tmp_path / "out", force=False):
        raise ValueError("mine")
    process.communicate("\n")
    assert process.returncode == 0
    assert names(tmp_path / "out") == ["file"]


def test_interrupted_replacement_is_undone(tmp_path: Path) -> None:
    """Killed between the two renames: the old artifact is put back, then the rules apply to it."""
    write_artifact(tmp_path / ".out.slc-replaced-1")
    with pytest.raises(ArtifactError, match="exists"), staged(tmp_path / "out", force=False):
        pytest.fail("the block ran")
    assert Artifact.open(tmp_path / "out").check() == []
    write_artifact(tmp_path / ".out.slc-replaced-1")  # killed after both: only the rest is left
    with staged(tmp_path / "out", force=True) as folder:
        (folder / "file").write_text("x")
    assert names(tmp_path) == ["out"]


def test_names_with_pattern_characters(tmp_path: Path) -> None:
    other = tmp_path / ".oa.slc-partial-1"
    other.mkdir()
    with staged(tmp_path / "o[a]", force=False):
        pass
    assert names(tmp_path) == [".oa.slc-partial-1", "o[a]"]


def test_time_of_an_empty_export(tmp_path: Path) -> None:
    start = time.process_time()
    with staged(tmp_path / "out", force=False):
        pass
    assert time.process_time() - start < 1
