"""Hugging Face encoders: torch's exporter makes the graph, with dynamic batch and length."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from slc.compiler.errors import ModelError
from slc.compiler.frontends import huggingface, onnx_file

if TYPE_CHECKING:
    import torch

OPSET = 18  # the newest that the exporter writes and every supported onnxruntime (1.17) runs

# Saved with a head for pre-training only; what people deploy is the body.
_BODY_ONLY = ("Model", "ForMaskedLM", "ForPreTraining")
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def export(folder: Path, workdir: Path) -> ir.Model:
    """Exports an encoder's folder to ONNX in `workdir`.

    Inputs keep Hugging Face's names; `last_hidden_state` is the first output. A model saved with
    a task head (sequence classification, say) gives the head's outputs after it.

    Raises:
      ModelError: transformers can't load the folder or torch can't export the model.
    """
    with quiet():
        model, names = _load(folder)
        try:
            inputs, dynamic = _example_inputs(model, names)
            wrapped, outputs = _wrap(model, inputs)
        except Exception as error:
            raise ModelError(
                f"the {type(model).__name__} in {str(folder)!r} does not run on {names} to a "
                f"last_hidden_state ({last_reason(error)}): export it to ONNX yourself and give "
                "slc that file"
            ) from error
        graph = export_module(
            wrapped,
            (),
            inputs,
            dynamic,
            workdir,
            input_names=list(inputs),
            output_names=outputs,
            label=f"the model in {str(folder)!r}",
        )
    _check_dynamic(graph, dynamic, folder)
    return graph


def _check_dynamic(graph: ir.Model, dynamic: dict[str, Any], folder: Path) -> None:
    """Refuses a graph in which the exporter fixed an axis that was to stay open.

    Raises:
      ModelError: names the input and the axis.
    """
    for value in graph.graph.inputs:
        for axis, dim in dynamic[value.name or ""].items():
            fixed = value.shape[axis] if value.shape is not None else None
            if isinstance(fixed, int):
                raise ModelError(
                    f"torch can't export the model in {str(folder)!r} with a free "
                    f"{dim.__name__} (it fixed axis {axis} of {value.name!r} at {fixed}): "
                    "export it to ONNX yourself and give slc that file"
                )


def export_module(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic_shapes: Any,
    workdir: Path,
    *,
    input_names: list[str] | None,
    output_names: list[str] | None,
    label: str,
) -> ir.Model:
    """Runs torch's exporter and loads what it wrote.

    Raises:
      ModelError: the exporter's last reason, in one sentence.
    """
    import torch

    path = workdir / "model.onnx"
    try:
        program = torch.onnx.export(
            module,
            args,
            kwargs=kwargs,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            input_names=input_names,
            output_names=output_names,
            optimize=True,
            verbose=False,
        )
        assert program is not None
        # Stack traces of this machine, which would also make two exports differ.
        common_passes.ClearMetadataAndDocStringPass()(program.model)
        ir.save(program.model, path, external_data="model.onnx.data")
    except Exception as error:
        raise ModelError(
            f"torch can't export {label} to ONNX ({last_reason(error)}): "
            "export it to ONNX yourself and give slc that file"
        ) from error
    graph = onnx_file.read(path)
    # Layers that share a weight (ALBERT) each got a transposed copy of it. Only what was written
    # and read back is contiguous, which the pass asks for.
    common_passes.DeduplicateHashedInitializersPass(size_limit=1 << 62)(graph)
    return graph


def last_reason(error: BaseException) -> str:
    """Gives the innermost cause of an error as one line."""
    seen = error
    while seen.__cause__ is not None:
        seen = seen.__cause__
    lines = [line.strip() for line in str(seen).splitlines() if line.strip()]
    text = lines[0] if lines else type(seen).__name__
    return text if len(text) <= 200 else text[:197] + "..."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what torch, its exporter and transformers print and log."""
    names = ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir", "transformers")
    before = {name: logging.getLogger(name).level for name in names}
    bars = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        if bars is None:
            del os.environ["HF_HUB_DISABLE_PROGRESS_BARS"]


def _load(folder: Path) -> tuple[Any, list[str]]:
    """Loads the model in fp32 and says which inputs to feed."""
    import torch
    import transformers

    config = huggingface.read_config(folder)
    architecture = str((config.get("architectures") or [""])[0])
    own = getattr(transformers, architecture, None)
    body = own is None or architecture.endswith(_BODY_ONLY)
    # T5EncoderModel is a body that AutoModel would turn into the whole encoder-decoder.
    loader = own if own is not None and (not body or "Encoder" in architecture) else None
    try:
        model = (loader or transformers.AutoModel).from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
    except Exception as error:
        raise ModelError(
            f"transformers can't load {str(folder)!r} as {architecture or 'a model'} "
            f"({last_reason(error)}): check the folder, or give slc an ONNX file"
        ) from error
    if getattr(model.config, "is_encoder_decoder", False) and "Encoder" not in architecture:
        raise ModelError(
            f"{str(folder)!r} is an encoder-decoder ({architecture}), and slc compiles encoders "
            "and decoder-only language models: save its encoder alone, or give slc an ONNX file"
        )
    return model.eval(), _input_names(model, folder)


def _input_names(model: Any, folder: Path) -> list[str]:
    """Names the inputs: the tokenizer's where there is one, in the order of forward()."""
    accepted = list(inspect.signature(model.forward).parameters)
    if model.main_input_name != "input_ids":
        return [model.main_input_name]
    wanted = set(_TEXT_INPUTS[:2])
    if (folder / "tokenizer_config.json").is_file() or (folder / "tokenizer.json").is_file():
        import transformers

        with contextlib.suppress(Exception):  # a broken tokenizer: the plain inputs will do
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            wanted = set(tokenizer.model_input_names)
    elif getattr(model.config, "type_vocab_size", 0) > 1:
        wanted.add("token_type_ids")
    return [name for name in accepted if name in wanted & set(_TEXT_INPUTS)]


def _example_inputs(model: Any, names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Makes small inputs of the right shapes, and says which of their axes are dynamic."""
    import torch

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    config, main = model.config, names[0]
    if main == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        image = torch.zeros(2, getattr(config, "num_channels", 3), height, width)
        return {main: image}, {main: {0: batch}}
    if main == "input_values":
        return {main: torch.zeros(2, 16000)}, {main: {0: batch, 1: length}}
    if main == "input_features":
        bins, frames = (
            getattr(config, "num_mel_bins", 80),
            getattr(config, "max_source_positions", 0),
        )
        return {main: torch.zeros(2, bins, 2 * frames or 3000)}, {main: {0: batch}}
    # Two rows of different length, so that neither axis nor the mask looks like a constant.
    text = {
        "input_ids": torch.arange(14).reshape(2, 7) % min(100, config.vocab_size),
        "attention_mask": (torch.arange(7)[None, :] < torch.tensor([[7], [4]])).long(),
        "token_type_ids": torch.zeros(2, 7, dtype=torch.long),
    }
    return {n: text[n] for n in names}, {n: {0: batch, 1: length} for n in names}


def _wrap(model: Any, inputs: dict[str, Any]) -> tuple[torch.nn.Module, list[str]]:
    """Wraps a model so that it returns plain tensors, `last_hidden_state` first."""
    import torch

    body = getattr(model, model.base_model_prefix, model) if model.base_model_prefix else model

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **inputs: Any) -> dict[str, Any]:
            seen: list[Any] = []
            hook = body.register_forward_hook(lambda module, args, out: seen.append(out))
            try:
                out = self.model(**inputs, return_dict=True)
            finally:
                hook.remove()
            found = {"last_hidden_state": seen[0].last_hidden_state}
            if body is not model:
                found |= {k: v for k, v in out.items() if isinstance(v, torch.Tensor)}
            return found

    # The exporter asks forward() for its argument names, and loses track of plain **inputs.
    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in inputs]
    bound = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    forward: Any = Plain.forward
    forward.__signature__ = inspect.Signature([bound, *parameters])
    wrapped = Plain().eval()
    with torch.no_grad():
        names = list(wrapped(**inputs))
    return wrapped, names
