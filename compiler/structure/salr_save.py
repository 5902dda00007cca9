"""What SALR fine-tuning leaves: an `.slr` of masked base and residual, and the task's adapters."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.weights import weight_array
from slc.compiler.progress import Progress
from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.salr_targets import RESIDUAL, Target, residual_factors
from slc.compiler.structure.trained import TrainedPart, write_trained

MODEL = "model.slr"
ADAPTER = "adapter"


@dataclasses.dataclass(frozen=True)
class Saved:
    """Where things lie.

    Attributes:
      model: the structured checkpoint.
      adapters: the PEFT folder of each task adapter, by its name.
      left_out: masked modules that the exported graph does not compute (a pooler whose output
        nothing reads) and that training left alone.
    """

    model: Path
    adapters: dict[str, Path]
    left_out: tuple[str, ...]


def save(
    model: Any, targets: Sequence[Target], tasks: Sequence[str],
    settings: dict[str, float | int], out: Path, base: str | Path | Source | None,
    *, replace: bool = False, progress: Progress | None = None,
) -> Saved:  # fmt: skip
    """Writes out/model.slr and out/adapter; see `Salr.save`, which gives the arguments."""
    path, adapter = out / MODEL, out / ADAPTER
    if adapter.exists() and not replace:
        raise RequestError(f"{str(adapter)!r} exists already: choose another name or replace it")
    with _source(model, base) as source:
        names, left_out = _parameter_names(model, source, targets, tasks)
        _check_base(source, names)
        out.mkdir(parents=True, exist_ok=True)
        write_trained(
            source, path, _Parts(model, names, source), method="salr", settings=settings,
            replace=replace, progress=progress,
        )  # fmt: skip
    return Saved(path, _save_adapters(model, tasks, adapter, left_out), left_out)


class _Parts(Mapping[str, TrainedPart]):
    """Ŵ and the residual by source parameter, made when asked for: never all at once.

    Linears that were not masked are there too, with all of W as S: a checkpoint says of every
    Linear what is kept of it.
    """

    def __init__(self, model: Any, names: Mapping[str, Target], source: Source) -> None:
        self._model, self._names, self._source = model, names, source
        self._whole = {
            rows.parameter: (linear, rows)
            for linear in source.linears
            for rows in linear.sources
            if linear.kind == "linear" and not any(s.parameter in names for s in linear.sources)
        }

    def __getitem__(self, name: str) -> TrainedPart:
        if name in self._whole:
            linear, rows = self._whole[name]
            return _without_residual(weight_array(self._source, linear)[rows.start : rows.stop])
        target = self._names[name]
        module = self._model.get_base_model().get_submodule(target.name)
        if RESIDUAL not in getattr(module, "lora_A", ()):
            return _without_residual(target.array())
        A, B = (
            t.detach().float().cpu().numpy() for t in residual_factors(self._model, target.name)
        )
        return TrainedPart(target.array(), B, A)

    def __iter__(self) -> Iterator[str]:
        yield from self._names
        yield from self._whole

    def __len__(self) -> int:
        return len(self._names) + len(self._whole)


def _without_residual(W: F32) -> TrainedPart:
    N, K = W.shape
    return TrainedPart(W, np.zeros((N, 0), np.float32), np.zeros((0, K), np.float32))


@contextlib.contextmanager
def _source(model: Any, base: str | Path | Source | None) -> Iterator[Source]:
    """The dense base model, loaded where it is not yet."""
    from slc.compiler.frontends import load

    if isinstance(base, Source):
        yield base
        return
    with tempfile.TemporaryDirectory(prefix="slc-salr-") as work:
        yield load(_base_folder(model, base), workdir=Path(work))


def _base_folder(model: Any, base: str | Path | None) -> Path:
    """The folder of the dense base model."""
    if base is not None:
        return Path(base)
    config = getattr(model.get_base_model(), "config", None)
    known = getattr(config, "_name_or_path", "") or ""
    if not known or not Path(known).exists():
        raise RequestError(
            f"the base model came from {known!r}, which is no folder here: give base=, the dense "
            "model's folder or ONNX file"
        )
    return Path(known)


def _parameter_names(
    model: Any, source: Source, targets: Sequence[Target], tasks: Sequence[str]
) -> tuple[dict[str, Target], tuple[str, ...]]:
    """The masked Linears by source parameter, and the names of those that the graph lacks.

    A body's folder (BertModel) says `encoder…` where a head's (BertForTokenClassification) says
    `bert.encoder…`, so the one parameter that ends alike will do.

    Raises:
      ModelError: the graph lacks a module that training has changed.
    """
    known = dict.fromkeys(rows.parameter for linear in source.linears for rows in linear.sources)
    names, left_out = {}, []
    for target in targets:
        wanted = f"{target.name}.weight"
        near = [k for k in known if k.endswith("." + wanted) or wanted.endswith("." + k)]
        if wanted in known or len(near) == 1:
            names[wanted if wanted in known else near[0]] = target
        elif _untouched(model, target, tasks):
            left_out.append(target.name)
        else:
            raise ModelError(
                f"{target.name!r} was masked and trained, and is no Linear of the graph of "
                f"{source.path.name}: give base=, the model that was trained, or leave the module "
                "out of target_modules and include"
            )
    return names, tuple(left_out)


def _untouched(model: Any, target: Target, tasks: Sequence[str]) -> bool:
    """Whether training never reached a module: LoRA's B starts at zero and has stayed there."""
    module = model.get_base_model().get_submodule(target.name)
    factors = [module.lora_B[task].weight for task in tasks if task in module.lora_B]
    return bool(factors) and not any(bool(B.detach().any()) for B in factors)


def _check_base(source: Source, names: Mapping[str, Target]) -> None:
    """What the mask kept must still be the source's own weights, in the type of the training.

    Raises:
      ModelError: names the first that differs.
    """
    for linear in source.linears:
        for rows in linear.sources:
            target = names.get(rows.parameter)
            if target is None or linear.kind == "embedding":
                continue
            W = _as_trained(target, weight_array(source, linear)[rows.start : rows.stop])
            masked = target.array()
            if W.shape != masked.shape or not np.array_equal(W[masked != 0], masked[masked != 0]):
                raise ModelError(
                    f"the masked weight of {target.name!r} is not that of {rows.parameter!r} in "
                    f"{source.path.name}: give base=, the model that training started from"
                )


def _as_trained(target: Target, W: F32) -> F32:
    """W rounded to the parameter's type, as f32."""
    import torch

    rounded: F32 = torch.from_numpy(W).to(target.weight.dtype).float().numpy()
    return rounded


def _save_adapters(
    model: Any, tasks: Sequence[str], folder: Path, left_out: Sequence[str]
) -> dict[str, Path]:
    """PEFT's own save_pretrained, without the modules that are left out."""
    dead = tuple(f".{name}." for name in left_out)
    state = {k: v for k, v in model.state_dict().items() if not any(part in k for part in dead)}
    model.save_pretrained(folder, selected_adapters=list(tasks), state_dict=state)
    return {name: folder if name == "default" else folder / name for name in tasks}
