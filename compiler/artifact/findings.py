"""What `slc doctor` finds, and what error texts of onnxruntime mean."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from slc.compiler.errors import ArtifactError

Severity = Literal["error", "warning"]

COPY_AGAIN = "copy the artifact again from where it was exported"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and what to do about it."""

    severity: Severity
    what: str
    fix: str


# onnxruntime's words -> what they mean. The first that matches explains.
_KNOWN_ERRORS: tuple[tuple[str, str, str], ...] = (
    (
        r"ai\.slc:\w+\(-1\) is not a registered function/op|domain_version.*ai\.slc",
        "the session was made without the op library",
        "call slc.ops.register(session_options) or register_custom_ops_library first; with "
        "onnxruntime-genai, name it as custom_ops_library in genai_config.json",
    ),
    (
        r"[Dd]omain already set in registry",
        "two op libraries with the domain ai.slc were registered in one session",
        "register libslc_ops.so once; it holds the CPU and the CUDA operators",
    ),
    (
        r"ai\.slc: got onnxruntime [\d.]+, wanted",
        "this onnxruntime is older than any that the op library serves",
        "install onnxruntime 1.17 or newer",
    ),
    (
        r"Unsupported version '\d+' in custom op",
        "this onnxruntime is older than the API that the op library was built for",
        "install the op library of this slc-compiler, which asks for API version 17",
    ),
    (
        r"wrong ELF class|cannot execute binary file|invalid ELF header|file too short|Exec format",
        "the op library is for another kind of processor, or cut off",
        "put a libslc_ops.so built for this machine beside model.onnx",
    ),
    (
        r"version `GLIBC(XX)?_[\d.]+' not found",
        "the op library was built against a newer C library than this machine has",
        "run slc ops build on this machine and put the result beside model.onnx",
    ),
    (
        r"lib(cuda|cudart|cublas|cublasLt|cudnn|cufft|curand)[\w.-]*: cannot open shared object",
        "the CUDA libraries are missing",
        "install the NVIDIA driver, CUDA and cuDNN that this onnxruntime names, or export with "
        "--provider cpu",
    ),
    (
        r"Cuda interface not available|CUDAExecutionProvider' is not in available provider",
        "this onnxruntime or onnxruntime-genai was built without CUDA",
        "install onnxruntime-gpu (onnxruntime-genai-cuda) for this machine or export with "
        "--provider cpu",
    ),
    (
        r"no kernel image is available",
        "onnxruntime's CUDA provider holds no kernels for this GPU",
        "install a build for it (on Jetson: that of JetPack's own index) or export with "
        "--provider cpu",
    ),
    (
        r"custom_ops_library must not contain path traversal",
        "genai_config.json names an op library outside the model's folder",
        "put libslc_ops.so beside model.onnx and name it without a folder",
    ),
    (
        r"External data path escapes model directory",
        "model.onnx.data is a link to a file elsewhere, which onnxruntime refuses",
        "copy the file itself beside model.onnx",
    ),
    (
        r"External data path does not exist|External initializer.*(out of bounds|read in full)",
        "model.onnx.data is missing or cut off",
        COPY_AGAIN,
    ),
    (
        r"packed blob: ",
        "the packed weights are damaged",
        COPY_AGAIN,
    ),
    (
        r"[Pp]ermission denied",
        "a file of the artifact can't be read",
        "give the user that runs it the right to read (chmod -R a+rX ARTIFACT)",
    ),
    (
        r"Failed to load library",
        "the op library can't be loaded",
        "check that the path is right, the file readable and for this kind of processor",
    ),
    (
        r"Protobuf parsing failed",
        "model.onnx is no readable graph",
        COPY_AGAIN,
    ),
    (
        r"Unsupported model IR version|opset \d+ is under development|Opset \d+"
        r"|com\.microsoft:\w+\(-1\) is not a registered function/op",
        "this onnxruntime is too old for the graph",
        "install a newer onnxruntime or export for a --device with a lower ort_min",
    ),
)  # fmt: skip


def explain(error: str) -> Finding | None:
    """What an error text of onnxruntime means, None when it is not a known one."""
    for pattern, what, fix in _KNOWN_ERRORS:
        if re.search(pattern, error):
            return Finding("error", what, fix)
    return None


def explained(error: Exception) -> Finding:
    """The finding of an exception of onnxruntime, its own words included."""
    text = str(error).removesuffix("; slc doctor explains it.")
    known = explain(text)
    if known is None:
        return Finding("error", text, "report this with the output of slc doctor --json")
    return dataclasses.replace(known, what=f"{known.what} (onnxruntime says: {text})")


def of_sentence(error: ArtifactError) -> Finding:
    """Such a sentence ends in its own advice, behind the last semicolon."""
    what, _, fix = str(error).removesuffix(".").rpartition("; ")
    return Finding("error", what, fix) if what else Finding("error", fix, "export the model again")
