"""Changes files of a finished artifact in place: all of them, or none.

An artifact may be large and in use, so it is not copied and put in place as an export is. New files
are written to a hidden folder inside it, with the manifest that names them and a link to each file
they replace: together an undo log. Then they are renamed to their places, the manifest last: that
is the moment at which the change has happened. A failure before it takes everything back; so does
the next change if the process was killed. Sessions keep the bytes of a replaced file that they have
open.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slc.compiler.artifact.manifest import MANIFEST_FILE, read_manifest, write_manifest
from slc.compiler.artifact.staging import CHANGE_FOLDER, FolderLock, sync_folder, sync_one
from slc.compiler.errors import ArtifactError

_NEW, _OLD = "new", "old"


@contextlib.contextmanager
def changing(artifact: Path) -> Iterator[Change]:
    """Holds the artifact alone while the block runs, and applies the change when it ends.

    Args:
      artifact: the folder; a change that was killed in it is taken back first.

    Yields:
      The change; nothing is written before its first `new_file`.

    Raises:
      ArtifactError: somebody else is changing it, or it can't be written to. It is as it was.
    """
    artifact = artifact.resolve()
    try:
        lock = FolderLock(artifact)
    except BlockingIOError as error:
        raise ArtifactError(
            f"{artifact} is being changed by another process; wait until that has ended."
        ) from error
    with contextlib.closing(lock), _disk_errors(artifact):
        change = Change(artifact)
        change.take_back()
        try:
            yield change
            change.apply()
        except BaseException:
            change.take_back()
            raise


class Change:
    """New files on their way into an artifact, and the manifest that vouches for them.

    Attributes:
      manifest: what manifest.json shall be; None changes nothing.
    """

    def __init__(self, artifact: Path) -> None:
        self._artifact = artifact
        self._folder = artifact / CHANGE_FOLDER
        self.manifest: dict[str, Any] | None = None

    def new_file(self, name: str) -> Path:
        """Where to write what shall be the artifact's file `name`: "adapters/x.onnx_adapter"."""
        path = self._folder / _NEW / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def apply(self) -> None:
        """Puts everything in its place, the manifest last."""
        if self.manifest is None:
            return
        self._folder.mkdir(exist_ok=True)
        names = _files(self._folder / _NEW)
        for name in names:
            self._keep_old(name)
        write_manifest(self._folder, self.manifest)
        sync_folder(self._folder)
        for name in names:
            place = self._artifact / name
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._folder / _NEW / name, place)
            sync_one(place.parent)
        os.replace(self._folder / MANIFEST_FILE, self._artifact / MANIFEST_FILE)
        sync_one(self._artifact)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep_old(self, name: str) -> None:
        place, kept = self._artifact / name, self._folder / _OLD / name
        if not place.exists():
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(place, kept)
        except OSError:  # a file system without links
            shutil.copy2(place, kept)

    def take_back(self) -> None:
        """Undoes what was not finished; the manifest still waiting here tells that it was not."""
        if not self._folder.is_dir():
            return
        for name in self._unfinished():
            place, kept = self._artifact / name, self._folder / _OLD / name
            if kept.is_file():
                os.replace(kept, place)
            else:
                place.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty: others lie there
                    if place.parent != self._artifact:
                        place.parent.rmdir()
        shutil.rmtree(self._folder)

    def _unfinished(self) -> list[str]:
        """Files that were being put in place when it ended: those that are here no more."""
        try:
            planned = json.loads((self._folder / MANIFEST_FILE).read_text(encoding="utf-8"))[
                "files"
            ]
        except (OSError, ValueError):
            return []  # not begun, or done
        before = read_manifest(self._artifact)["files"]
        changed = [name for name in planned if planned[name] != before.get(name)]
        return [name for name in changed if not (self._folder / _NEW / name).is_file()]


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@contextlib.contextmanager
def _disk_errors(artifact: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{artifact} can't be changed: {error.strerror or error}; make room there, or get the "
            "right to write to it."
        ) from error
