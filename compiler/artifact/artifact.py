"""An artifact folder, opened."""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from slc.compiler.artifact.checksums import awaited_library, check_files
from slc.compiler.artifact.manifest import read_manifest
from slc.compiler.artifact.writer import MODEL_FILE
from slc.compiler.errors import ArtifactError
from slc.ops import DOMAIN, LibraryNotFoundError, library_path

if TYPE_CHECKING:
    import onnxruntime


@dataclasses.dataclass(frozen=True)
class Artifact:
    """What `slc export` wrote; use `Artifact.open`."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Opens a folder by its manifest.

        Raises:
          ArtifactError: not a folder, no manifest, or one of a newer schema.
        """
        path = Path(path)
        return cls(path, read_manifest(path))

    def check(self) -> list[str]:
        """Compares every file with its hash; returns one sentence per difference, in name order."""
        return check_files(self.path, self.manifest).problems

    @property
    def model_path(self) -> Path:
        """The graph's file."""
        path = self.path / MODEL_FILE
        if not path.is_file():
            raise ArtifactError(f"{self.path} has no {MODEL_FILE}; export the model again.")
        return path

    def model(self) -> ir.Model:
        """A fresh copy of the graph; its weights are mapped when they are read."""
        try:
            return ir.load(self.model_path)
        except Exception as error:  # protobuf's parse error has no public base class
            raise ArtifactError(
                f"{self.model_path} is not a readable ONNX graph; export the model again."
            ) from error

    @cached_property
    def needs_op_library(self) -> bool:
        """Whether any node is of our domain."""
        return DOMAIN in self.model().opset_imports

    def library(self) -> Path | None:
        """The op library that runs here: the artifact's own, else the installed one.

        Returns:
          None when the graph has no operator of ours.

        Raises:
          ArtifactError: there is neither.
        """
        if not self.needs_op_library:
            return None
        if self.manifest["device"]["platform"] == host_platform():
            own: Path = self.path / (
                awaited_library(self.manifest) or self.manifest["op_library"]["file"]
            )
            if own.is_file():
                return own
        installed = installed_library()
        if installed is None:
            raise ArtifactError(
                f"No op library for {host_platform()} is in {self.path} or installed; "
                "install slc-compiler with its compiled half or run slc ops build."
            )
        return installed

    def session_options(self, options: Any = None) -> onnxruntime.SessionOptions:
        """Session options (new ones, or `options`) with the op library registered.

        Raises:
          ArtifactError: the library is missing or onnxruntime refuses it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions() if options is None else options
        library = self.library()
        if library is not None:
            # onnxruntime looks a bare name up in the library path: make it a file's.
            try:
                options.register_custom_ops_library(str(library.resolve()))
            except Exception as error:  # onnxruntime's classes derive from Exception directly
                text = " ".join(str(error).split())
                raise ArtifactError(
                    f"onnxruntime can't load the op library {library}: {text}; "
                    "slc doctor explains it."
                ) from error
        return options

    def session(
        self,
        *,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> onnxruntime.InferenceSession:
        """An onnxruntime session over the folder as it stands, mapped, with nothing repacked.

        Args:
          sess_options: an onnxruntime.SessionOptions to extend.
          providers: as InferenceSession takes them; left out, those of the manifest's provider.
          **kwargs: passed on to InferenceSession.

        Raises:
          ArtifactError: the library or the provider is missing, or onnxruntime refuses the graph.
        """
        import onnxruntime

        providers = self.providers() if providers is None else providers
        options = self.session_options(sess_options)
        try:
            return onnxruntime.InferenceSession(
                str(self.model_path), options, providers=providers, **kwargs
            )
        except Exception as error:  # onnxruntime's own classes derive from Exception directly
            raise ArtifactError(
                f"onnxruntime refuses {self.model_path}: {error}; slc doctor explains it."
            ) from error

    def providers(self) -> list[str]:
        """Providers of this artifact in onnxruntime's order of preference; no silent fallback."""
        import onnxruntime

        if self.manifest["provider"] == "cpu":
            return ["CPUExecutionProvider"]
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise ArtifactError(
                f"{self.path} was exported for CUDA and this onnxruntime has no CUDA provider; "
                "install onnxruntime-gpu or export with --provider cpu."
            )
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def host_platform() -> str:
    """This machine's, as a manifest spells it: "linux-x86_64"."""
    return f"{sys.platform}-{platform.machine()}"


def installed_library() -> Path | None:
    """The op library that slc.ops was installed with, or None."""
    try:
        return Path(library_path())
    except LibraryNotFoundError:
        return None
