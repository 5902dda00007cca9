"""Products side by side, each on threads of its own, under ThreadSanitizer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import native_kernels
from ops_models import BLOB_KINDS, FULL_KINDS, sparse

from slc.ops import bitmap


def test_concurrent_products_under_the_thread_sanitizer(tmp_path: Path) -> None:
    native_kernels.build(tmp_path / "build", "run_concurrently", sanitize="thread")
    files = []
    for i, kind in enumerate(BLOB_KINDS + FULL_KINDS):
        files.append(tmp_path / f"{i}.bin")
        bitmap.encode(sparse(300, 700, 0.4), **kind).tofile(files[-1])
    # TSan wants the memory layout of before Linux raised vm.mmap_rnd_bits.
    command = ["setarch", "-R", str(tmp_path / "build" / "run_concurrently"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "WARNING: ThreadSanitizer" not in done.stderr, done.stderr[-4000:]
    # Fourteen pairs of a kind and a level, four products each.
    assert done.stdout == "products 56\n"
