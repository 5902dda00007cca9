"""The operators of the domain ``ai.slc``: native library, byte format and numpy reference.

This is what an application needs at run time::

    options = onnxruntime.SessionOptions()
    slc.ops.register(options)

Importing the package needs nothing beyond the standard library; :mod:`slc.ops.bitmap` needs numpy;
the reference operators need onnx and are imported by :func:`reference_ops`.
"""

from __future__ import annotations

import importlib.resources
import os
import platform as _platform
import sys
from pathlib import Path
from typing import Any

__all__ = [
    "DOMAIN",
    "OP_VERSION",
    "LibraryNotFoundError",
    "library_path",
    "reference_ops",
    "register",
]

DOMAIN = "ai.slc"
OP_VERSION = 1

_LIBRARY = "libslc_ops.so"


class LibraryNotFoundError(FileNotFoundError):
    """The native operator library is not where it should be."""


def library_path(platform: str | None = None) -> str:
    """Path of ``libslc_ops.so``; the environment variable SLC_OPS_LIBRARY overrides it.

    Args:
        platform: whose library, such as "linux-aarch64"; None: this machine's. A wheel for x86-64
            has the one for boards as well.

    Raises:
        LibraryNotFoundError: the file does not exist.
    """
    if platform is not None and platform != _this_platform():
        other = importlib.resources.files(__name__).joinpath(platform, _LIBRARY)
        if not other.is_file():
            raise LibraryNotFoundError(
                f"this installation of slc has no operator library for {platform}; build one on "
                "the device with `slc ops build`"
            )
        return str(other)
    override = os.environ.get("SLC_OPS_LIBRARY")
    path = override or str(importlib.resources.files(__name__).joinpath(_LIBRARY))
    if not Path(path).is_file():
        source = "SLC_OPS_LIBRARY names" if override else "this installation of slc has"
        raise LibraryNotFoundError(
            f"{source} no operator library at {path}; install slc-compiler from a wheel, or build "
            "it with `slc ops build`"
        )
    return path


def _this_platform() -> str:
    return f"{sys.platform}-{_platform.machine()}"


def register(session_options: Any) -> None:
    """Make the operators known to an ``onnxruntime.SessionOptions``.

    Raises:
        LibraryNotFoundError: the library does not exist.
    """
    session_options.register_custom_ops_library(library_path())


def reference_ops() -> list[Any]:
    """The operators in numpy, for ``onnx.reference.ReferenceEvaluator(model, new_ops=...)``."""
    from .bitmap_sparse_gemm import BitmapSparseGemm
    from .concat_adapter import ConcatAdapterDown, ConcatAdapterUp

    return [BitmapSparseGemm, ConcatAdapterDown, ConcatAdapterUp]
