"""A finished folder put in the place of what was there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def put_in_place(finished: Path, out: Path, aside: Path) -> None:
    """Renames `finished` to `out`.

    A folder at `out` waits at `aside` meanwhile, comes back if the rename fails, and goes once it
    has succeeded: whoever is killed between the two leaves it at `aside`.

    Raises:
      OSError: as of the rename; `out` is as it was.
    """
    if not out.exists():
        os.replace(finished, out)
        return
    out.rename(aside)
    try:
        os.replace(finished, out)
    except OSError:
        aside.rename(out)
        raise
    remove(aside)


def remove(folder: Path) -> None:
    """Deletes a folder, or the link to one, if it is there."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
