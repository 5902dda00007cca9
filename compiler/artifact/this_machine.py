"""What this machine and its installed packages are, and what of it an artifact can't do with."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slc.compiler.artifact import cuda_images
from slc.compiler.artifact.findings import Finding
from slc.compiler.passes.last_logits import GENAI_MIN as LAST_LOGITS_GENAI
from slc.targets import TargetError, load

Json = Mapping[str, Any]

GENAI_MIN = "0.9.1"  # older ones look for custom_ops_library in the working directory only
CUDA_PROVIDER = "CUDAExecutionProvider"
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_GENAI = ("onnxruntime-genai", "onnxruntime-genai-cuda")


def facts(library: Path | None) -> dict[str, str]:
    """What `slc doctor` looked at, for people and for reports of bugs.

    Args:
      library: the op library that is used here.
    """
    found = {
        "python": sys.version.split()[0],
        "platform": f"{sys.platform}-{platform.machine()}",
        "glibc": glibc() or "none",
        "onnxruntime": version(*_RUNTIMES) or "not installed",
        "onnxruntime-genai": version(*_GENAI) or "not installed",
        "op library": "none" if library is None else str(library),
    }
    try:
        host = load("host")
        found |= {"cpu": host.description, "isa": ", ".join(host.isa) or "baseline"}
    except TargetError as error:
        found["cpu"] = str(error)
    try:
        import onnxruntime

        found["providers"] = ", ".join(onnxruntime.get_available_providers())
    except ImportError as error:
        found["providers"] = f"none: {error}"
    sm = cuda_images.device_sm()
    found["gpu"] = "none with an NVIDIA driver" if sm is None else f"sm_{sm}"
    return found


def check_runtime(
    manifest: Json | None, *, is_genai: bool, last_logits: bool = False
) -> Iterator[Finding]:
    """The installed packages, against what the artifact asks for.

    Args:
      manifest: of the artifact, None without one.
      is_genai: whether it is a model folder of onnxruntime-genai.
      last_logits: whether its graph gives those of each sequence's last token only.
    """
    installed = {name: version(name) for name in _RUNTIMES if version(name)}
    found = next(iter(installed.values()), None)
    if found is None:
        yield Finding("error", "onnxruntime is not installed", "pip install onnxruntime")
    if len(installed) > 1:
        yield Finding(
            "warning",
            f"{' and '.join(f'{n} {v}' for n, v in installed.items())} are installed into one "
            "folder: the last to be installed overwrote the other",
            "pip uninstall both and install the one that you want",
        )
    if manifest is None:
        return
    wanted = manifest["device"]["ort_min"]
    if found is not None and parts(found) < parts(wanted):
        yield Finding(
            "error",
            f"onnxruntime {found} is older than {wanted}, which the artifact was made for",
            f"install onnxruntime {wanted} or newer, or export for this device",
        )
    # Of a board's GPU this machine has nothing to tell.
    here = manifest["device"]["platform"] == f"{sys.platform}-{platform.machine()}"
    if manifest["provider"] == "cuda" and here and found is not None:
        yield from _check_cuda()
    genai = version(*_GENAI)
    if is_genai and genai is not None:
        yield from genai_problems(genai, last_logits=last_logits)


def genai_problems(genai: str, *, last_logits: bool) -> Iterator[Finding]:
    """What an onnxruntime-genai of that version can't do with a decoder's artifact."""
    if parts(genai) < parts(GENAI_MIN):
        yield Finding(
            "error",
            f"onnxruntime-genai {genai} does not find the op library beside the model",
            f"install onnxruntime-genai {GENAI_MIN} or newer",
        )
    elif last_logits and parts(genai) < parts(LAST_LOGITS_GENAI):
        yield Finding(
            "error",
            f"onnxruntime-genai {genai} wants the logits of every token, and the graph gives those "
            "of the last one",
            f"install onnxruntime-genai {LAST_LOGITS_GENAI} or newer, or export with --logits all",
        )


def check_isa(manifest: Json) -> Iterator[Finding]:
    """The CPU, against the one that layouts and kernels were chosen for."""
    try:
        host = load("host")
    except TargetError:
        return
    missing = [name for name in manifest["device"].get("isa", ()) if name not in host.isa]
    if missing:
        yield Finding(
            "warning",
            f"the artifact was made for a CPU with {', '.join(missing)}, which this one lacks: it "
            "runs, by slower kernels",
            "export with --device host here",
        )


def _check_cuda() -> Iterator[Finding]:
    try:
        import onnxruntime
    except ImportError:
        return  # found already
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        yield Finding(
            "error",
            "the artifact was exported for CUDA and this onnxruntime has no CUDA provider",
            "install onnxruntime-gpu for this machine or export with --provider cpu",
        )
        return
    sm = cuda_images.device_sm()
    if sm is None:
        yield Finding(
            "error",
            "the artifact was exported for CUDA and no NVIDIA driver with a GPU is here",
            "install the driver, or export with --provider cpu",
        )
        return
    for library in sorted(Path(onnxruntime.__file__).parent.rglob("*providers_cuda*.so")):
        yield from check_images(library, sm)


def check_images(library: Path, sm: int) -> Iterator[Finding]:
    """Whether a library's CUDA kernels run on a GPU of that compute capability."""
    held = cuda_images.images(library)
    if (held.cubins or held.ptx) and not held.run_on(sm):
        yield Finding(
            "error",
            f"{library.name} holds kernels for {held} and this GPU is sm_{sm}",
            "put one built for it in its place (an onnxruntime for Jetson is in JetPack's own "
            "index), or export with --provider cpu",
        )


def version(*packages: str) -> str | None:
    """Of the first of the packages that is installed."""
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def glibc() -> str | None:
    """This process's, None of another C library."""
    name, number = platform.libc_ver()
    return number if name == "glibc" else None


def parts(text: str) -> tuple[int, ...]:
    """The first three numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
