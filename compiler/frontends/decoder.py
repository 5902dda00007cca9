"""Hugging Face decoder language models: onnxruntime-genai's builder makes the graph.

It runs in a process of its own: its memory (it loads the whole model) is gone when it ends, and
what it prints is shown only when it fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.frontends import builder_process, onnx_file, parameter_tensor

if TYPE_CHECKING:
    from slc.targets import Target

# The oldest that runs the builder's graph (opset 22, IR 10, GroupQueryAttention of com.microsoft
# with these inputs), as tests/support_matrix finds; 1.20.1 refuses the opset.
ORT_MIN = "1.21"

# Without windowed caches, layers of local attention keep the whole context like the others: the
# graph then runs in a plain session too, and on versions that don't know sliding_window_cache.
_OPTIONS = ("hf_token=false", "windowed_kv_cache=false")

# Architectures that the builder accepts and computes wrongly.
_WRONG = {"OlmoForCausalLM": "writes an RMS norm where OLMo has a layer norm"}

_NOT_ASSETS = {".bin", ".data", ".dll", ".md", ".safetensors", ".so"}  # weights, libraries


def check_target(target: Target | None) -> None:
    """Refuses a target whose onnxruntime can't run a decoder's graph.

    Raises:
      RequestError: with both versions.
    """
    if target is not None and _version(target.ort_min) < _version(ORT_MIN):
        raise RequestError(
            f"device {target.name!r} promises onnxruntime {target.ort_min} and a decoder language "
            f"model's graph (GroupQueryAttention, opset 22, IR version 10) needs {ORT_MIN} or "
            "newer: choose a device profile with a newer onnxruntime, or an encoder"
        )


def check_config(config: dict[str, Any], folder: Path) -> None:
    """Refuses what the builder takes and what then can't run or gives wrong results.

    Raises:
      ModelError: the architecture is one of those, or the heads' size is no multiple of 8, which
        GroupQueryAttention wants.
    """
    for architecture in config.get("architectures") or ():
        if architecture in _WRONG:
            raise ModelError(
                f"{str(folder)!r} is an {architecture}, for which onnxruntime-genai's builder "
                f"{_WRONG[architecture]}: choose another model, or give slc an ONNX file"
            )
    heads, hidden = config.get("num_attention_heads") or 1, config.get("hidden_size", 0)
    sizes = (heads, hidden, config.get("head_dim") or 0)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ModelError(
            f"{str(folder / 'config.json')!r} gives num_attention_heads, hidden_size and head_dim "
            f"as {sizes}, where whole numbers are wanted: repair it, or download it again"
        )
    head_dim = config.get("head_dim") or hidden // heads
    if head_dim % 8:
        raise ModelError(
            f"{str(folder)!r} has attention heads of size {head_dim}, and onnxruntime's "
            "GroupQueryAttention takes multiples of 8: choose another model, or give slc an "
            "ONNX file that does without it"
        )


def build(folder: Path, workdir: Path) -> ir.Model:
    """Builds the fp32 CPU graph of a decoder's folder, with its genai_config, in `workdir`.

    Its weights stay in the folder's files as far as they are there as they are (ParameterTensor);
    the others are in `workdir`.

    Raises:
      ModelError: the builder doesn't support the model, or failed; its last line is the reason.
    """
    done = _run(builder_process.__name__, folder, workdir)
    if done.returncode == builder_process.WRITTEN_TO:
        done = _run(builder_process.BUILDER, folder, workdir)
    if done.returncode != 0 or not (workdir / "model.onnx").is_file():
        raise ModelError(
            f"onnxruntime-genai's builder can't build {str(folder)!r} "
            f"({_reason(done.stderr)}): see its list of supported models, or give slc an ONNX file"
        )
    graph = onnx_file.read(workdir / "model.onnx", left_out(workdir))
    # The builder adds the commit of whatever git repository it finds itself installed in.
    graph.producer_version = (graph.producer_version or "").partition("+")[0]
    _check_rotary(graph, folder)
    return graph


def _run(module: str, folder: Path, workdir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, "-i", str(folder.resolve()), "-o", str(workdir)]
    command += ["-p", "fp32", "-e", "cpu", "-c", str(workdir / "cache"), "--extra_options"]
    return subprocess.run(
        [*command, *_OPTIONS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
    )


def left_out(workdir: Path) -> dict[str, ir.TensorProtocol]:
    """The weights that the builder's process left in the model's own files, by name."""
    file = workdir / builder_process.LEFT_OUT_FILE
    if not file.is_file():
        return {}
    found = json.loads(file.read_text())
    file.unlink()  # everything that is left here becomes part of the artifact
    return {
        name: parameter_tensor.from_json(document, ir.DataType.FLOAT, name)
        for name, document in found.items()
    }


def _check_rotary(graph: ir.Model, folder: Path) -> None:
    """Refuses rotary embeddings of a width that GroupQueryAttention can not run.

    Raises:
      ModelError: the cosine table has [positions, width / 2] with width no multiple of 16.
    """
    for node in graph.graph:
        if node.op_type != "GroupQueryAttention" or len(node.inputs) < 8:
            continue
        table = node.inputs[7]
        width = 2 * table.shape.numpy()[1] if table is not None and table.shape is not None else 0
        if width % 16:
            raise ModelError(
                f"{str(folder)!r} rotates {width} elements of each attention "
                "head, and onnxruntime's GroupQueryAttention takes multiples of 16: choose "
                "another model, or give slc an ONNX file that does without it"
            )


def read_genai_config(path: Path) -> dict[str, Any]:
    """Parses a genai_config.json.

    Raises:
      ModelError: it is not JSON, or describes no decoder.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config["model"]["decoder"]["filename"]
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ModelError(
            f"{str(path)!r} is not a decoder's genai_config ({error}): build the folder again "
            "with onnxruntime-genai's builder"
        ) from error
    return dict(config)


def assets(folder: Path) -> dict[str, Path]:
    """Gives the files that genai reads beside the graph: configuration, tokenizer, templates."""
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and ".onnx" not in path.name and path.suffix not in _NOT_ASSETS
    }


def _version(text: str) -> tuple[int, int]:
    parts = (text + ".0").split(".")
    return int(parts[0]), int(parts[1])


def _reason(stderr: str) -> str:
    """Picks the line that names the exception out of a traceback, else the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    text = (named or lines or ["no reason given"])[-1]
    return text if len(text) <= 200 else text[:197] + "..."
