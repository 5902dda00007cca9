"""What several workers of pytest-xdist need is made by the first of them that asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(
    factory: pytest.TempPathFactory, worker: str, name: str, make: Callable[[Path], None]
) -> Path:
    """A folder that `make` has filled, in this worker or in another one.

    Args:
      factory: pytest's.
      worker: of the fixture `worker_id`: "master" without xdist.
      name: of the folder, alike in all workers.
      make: fills the new folder it is given. If it fails, the next that asks tries again.
    """
    base = factory.getbasetemp()
    # A worker's own folder lies in the one of the run.
    folder = (base if worker == "master" else base.parent) / "shared" / name
    done = folder.with_name(f"{name}.done")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            make(folder)
            done.touch()
    return folder
