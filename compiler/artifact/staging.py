"""Writes a folder beside its destination and renames it into place: all of it, or nothing.

A killed export leaves no `out/`, only a hidden temporary folder that the next export to the same
place removes. A lock on that folder, which the kernel releases with the process, tells a dead
writer's folder from a living one's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from slc.compiler.artifact.manifest import LIBRARY_FILE, UNHASHED, read_manifest
from slc.compiler.errors import ArtifactError
from slc.compiler.folders import put_in_place

CHANGE_FOLDER = ".slc-change"  # of changing.py, inside an artifact; a killed change leaves one


@contextlib.contextmanager
def staged(out: Path, force: bool) -> Iterator[Path]:
    """Yields an empty folder that becomes `out` when the block ends without an exception.

    Args:
      out: the destination; missing parents are created.
      force: an existing artifact at `out` is replaced. A folder that holds anything slc did not
        write is never deleted.

    Raises:
      ArtifactError: `out` exists, or the disk is full, read-only or not ours. The destination is
        then as it was, and nothing is left beside it.
    """
    out = Path(out).resolve()
    created: list[Path] = []
    staging = None
    try:
        with _disk_errors(out):
            _recover(out)
            _check_destination(out, force)
            created = _make_parents(out.parent)
            staging, lock = _claim(out)
        with contextlib.closing(lock):
            with _disk_errors(out, while_writing=staging):
                yield staging
            with _disk_errors(out):
                sync_folder(staging)
                _put_in_place(staging, out, force)
    except BaseException:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for folder in reversed(created):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


class FolderLock:
    """An exclusive lock on a folder for as long as the process lives or until close()."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        """Lets others have it."""
        os.close(self._descriptor)


# Refusals of a write; they carry no file name. Other errors inside the block may be the reader's.
_WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@contextlib.contextmanager
def _disk_errors(out: Path, while_writing: Path | None = None) -> Iterator[None]:
    """The operating system's refusals as one sentence.

    With `while_writing`, only those that are about writing or about a file in that folder.
    """
    try:
        yield
    except OSError as error:
        about_us = str(error.filename or "").startswith(str(while_writing))
        if while_writing is not None and not about_us and error.errno not in _WRITE_ERRORS:
            raise
        raise ArtifactError(
            f"{out} can't be written: {error.strerror or error}; "
            "choose another folder for -o or make room there."
        ) from error


def _check_destination(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ArtifactError(f"{out} is a file; name a folder that does not exist yet with -o.")
    if not force:
        raise ArtifactError(f"{out} exists; pass --force to replace it or name another folder.")
    foreign = _foreign_entry(out)
    if foreign is not None:
        raise ArtifactError(
            f"{out} holds {foreign}, which slc did not write, so not even --force deletes it; "
            "move that away or name another folder."
        )


def _foreign_entry(out: Path) -> str | None:
    """Something in `out` that no export of ours put there, or None."""
    present = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir())
    if not present:
        return None
    try:
        ours = {*read_manifest(out)["files"], *UNHASHED, LIBRARY_FILE}
    except ArtifactError:
        return present[0]
    change = f"{CHANGE_FOLDER}/"
    return next((n for n in present if n not in ours and not n.startswith(change)), None)


def _make_parents(parent: Path) -> list[Path]:
    """Creates `parent` and what is missing above it; returns what it created, outermost first."""
    missing = [p for p in (parent, *parent.parents) if not p.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _claim(out: Path) -> tuple[Path, FolderLock]:
    """A fresh temporary folder and the lock that marks it as alive; dead ones are removed."""
    for stale in _beside(out, "partial"):
        with contextlib.suppress(OSError), contextlib.closing(FolderLock(stale)):
            shutil.rmtree(stale)
    pid, attempt = os.getpid(), 0
    while True:
        suffix = f"-{attempt}" if attempt else ""
        staging = out.parent / f".{out.name}.slc-partial-{pid}{suffix}"
        try:
            staging.mkdir()
            return staging, FolderLock(staging)
        except (FileExistsError, BlockingIOError):  # another thread of this process, or a cleaner
            attempt += 1


def _beside(out: Path, purpose: str) -> list[Path]:
    """Our hidden folders for `out`, in name order."""
    prefix = f".{out.name}.slc-{purpose}-"
    if not out.parent.is_dir():
        return []
    return sorted(p for p in out.parent.iterdir() if p.name.startswith(prefix))


def _recover(out: Path) -> None:
    """Ends a replacement that was killed between its two renames."""
    for aside in _beside(out, "replaced"):
        if out.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(out)


def sync_folder(folder: Path) -> None:
    """Puts every file and the folder itself on disk, so that the rename can't outrun the data."""
    for path in sorted(folder.rglob("*")):
        sync_one(path)
    sync_one(folder)


def sync_one(path: Path) -> None:
    """Puts a file's bytes, or a folder's list of names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(staging: Path, out: Path, force: bool) -> None:
    _check_destination(out, force)  # again: it may have appeared meanwhile
    put_in_place(staging, out, out.parent / f".{out.name}.slc-replaced-{os.getpid()}")
    sync_one(out.parent)
