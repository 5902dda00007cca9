"""Frontends: a model of any supported kind becomes a Source (an ONNX graph and its Linears)."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from slc.compiler.errors import ModelError
from slc.compiler.extras import require
from slc.compiler.frontends import config_only as without_weights
from slc.compiler.frontends import decoder, encoder, huggingface, onnx_file, structured
from slc.compiler.frontends.assemble import assemble
from slc.compiler.frontends.parameter_tensor import ParameterTensor
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.torch_module import load_torch
from slc.compiler.frontends.weights import hashing, weight_array, weight_tensor
from slc.compiler.progress import Progress

if TYPE_CHECKING:
    from slc.targets import Target

__all__ = ["Source", "load", "load_torch", "weight_array"]


def load(
    path: Path,
    *,
    workdir: Path,
    target: Target | None = None,
    config_only: bool = False,
    progress: Progress | None = None,
) -> Source:
    """Loads a model: an `.slr` folder, an ONNX file or folder, or a Hugging Face folder.

    Args:
      path: what the user named.
      workdir: an empty folder for the exported graph; it must outlive the Source.
      target: checked before any heavy work: a decoder's graph needs a recent onnxruntime.
      config_only: take a Hugging Face folder without weights too; all its weights are then 0.
      progress: called as progress(done, total, what).

    Raises:
      ModelError: not found, not a model, or a model that is damaged or can't be compiled.
      RequestError: the target can't run this kind of model.
    """
    path = Path(path)
    if not path.exists():
        raise _not_found(path)
    report = progress or (lambda done, total, what: None)
    if path.is_file():
        if path.suffix.lower() == ".onnx":
            return _load_onnx(path, path, workdir, target, report)
        raise ModelError(
            f"{str(path)!r} is a file, and slc takes an .onnx file or a folder (Hugging Face "
            f"model, ONNX model, .slr checkpoint): {_file_advice(path)}"
        )
    if (path / "slr.json").is_file():
        return structured.read(path, workdir, target)
    if (path / "config.json").is_file() and not (path / "model.onnx").is_file():
        return _load_huggingface(path, workdir, target, report, config_only)
    if (path / "model.onnx").is_file():
        return _load_onnx(path, path / "model.onnx", workdir, target, report)
    raise ModelError(
        f"{str(path)!r} is not a model: it has no config.json (Hugging Face), model.onnx or "
        f"slr.json; {_folder_advice(path)}"
    )


def _load_huggingface(
    path: Path, workdir: Path, target: Target | None, report: Progress, config_only: bool
) -> Source:
    folder = path
    config = huggingface.read_config(folder)
    is_decoder = huggingface.is_decoder(config)
    if is_decoder:
        decoder.check_target(target)
        decoder.check_config(config, folder)
        require("a decoder's Hugging Face folder", "torch", "transformers", "onnxruntime_genai")
    else:
        require("an encoder's Hugging Face folder", "torch", "transformers", "onnxscript")
    report(0, 3, "checking weights")
    weightless = config_only and not without_weights.has_weights(folder)
    if weightless:
        folder = without_weights.with_zeros(folder, workdir / "zeros")
    parameters = {} if weightless else huggingface.check_weights(folder)
    assets = huggingface.assets(folder)
    files = [*assets.values(), *huggingface.safetensors_files(folder)]
    report(1, 3, "exporting to ONNX")
    genai_config = None
    tools = ("onnxruntime-genai" if is_decoder else "onnxscript", "torch", "transformers")
    if is_decoder:
        graph = decoder.build(folder, workdir)
        genai_config = decoder.read_genai_config(workdir / "genai_config.json")
        assets = decoder.assets(workdir)
    else:
        graph = encoder.export(folder, workdir)
    report(2, 3, "finding weights")
    source = assemble(
        graph,
        "decoder" if is_decoder else "encoder",
        path,
        workdir,
        parameters=parameters,
        genai_config=genai_config,
        assets=assets,
        hf_folder=huggingface.tokenizer_folder(huggingface.assets(folder)),
        find_sha256=hashing(files),
        tools=tools,
        weightless=weightless,
    )
    report(3, 3, _loaded(source) if is_decoder else "loaded")
    return source


def _loaded(source: Source) -> str:
    """Whether a decoder's weights stay where they are: what is copied costs memory and disk."""
    names = {linear.weight for linear in source.linears}
    tensors = [weight_tensor(source.graph, name) for name in names]
    copied = sum(t.nbytes for t in tensors if not isinstance(t, ParameterTensor))
    if not copied:
        return "loaded"
    return f"loaded; {copied / 1e6:.0f} MB of weights were changed or converted, and copied"


def _load_onnx(
    path: Path, file: Path, workdir: Path, target: Target | None, report: Progress
) -> Source:
    folder = file.parent
    genai_config, assets = None, {}
    if path.is_dir():
        assets = huggingface.assets(folder)
        if (folder / "genai_config.json").is_file():
            decoder.check_target(target)
            genai_config = decoder.read_genai_config(folder / "genai_config.json")
            assets = decoder.assets(folder)
    report(0, 2, "reading the graph")
    graph = onnx_file.read(file)
    report(1, 2, "checking weights")
    files = dict.fromkeys([file.resolve(), *onnx_file.external_files(graph)])
    source = assemble(
        graph,
        "onnx" if genai_config is None else "decoder",
        path,
        workdir,
        genai_config=genai_config,
        assets=assets,
        hf_folder=huggingface.tokenizer_folder(assets),
        find_sha256=hashing([*files, *assets.values()]),
    )
    report(2, 2, "loaded")
    return source


def _not_found(path: Path) -> ModelError:
    near: list[str] = []
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.iterdir()))
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "check the path"
    return ModelError(f"there is no file or folder {str(path)!r}: {advice}")


def _file_advice(path: Path) -> str:
    if path.suffix in {".safetensors", ".bin", ".json"} and (path.parent / "config.json").is_file():
        return f"give the folder, {str(path.parent)!r}"
    return "check the path"


def _folder_advice(path: Path) -> str:
    inside = sorted(p.name for p in path.glob("*.onnx"))
    if inside:
        return f"to compile one of its ONNX files, give the file, such as {inside[0]!r}"
    models = sorted(p.parent.name for p in path.glob("*/config.json"))
    if models:
        return f"did you mean its folder {models[0]!r}?"
    return "check the path"
