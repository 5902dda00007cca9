"""PEFT LoRA folders: each module's A and B, placed on the Linear that computes the module.

LoRA (arXiv 2106.09685) adds s·x·Aᵀ·Bᵀ to a module's output, s = alpha/r, or alpha/√r with rsLoRA
(arXiv 2312.03732). s is folded into B. Modules that the graph fuses into one Linear (q, k, v) are
concatenated along the rank, each B in its own rows and zero elsewhere.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slc.compiler.errors import ModelError
from slc.compiler.frontends.peft_config import read_config, scale_of, unsupported
from slc.compiler.frontends.safetensors_file import Parameter, non_finite, parameters_of
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.weights import weight_array
from slc.compiler.linear import Linear

_PREFIX = "base_model.model."

WeightOf = Callable[[Linear], np.ndarray]


@dataclasses.dataclass(frozen=True)
class PeftAdapter:
    """A LoRA adapter as the graph's Linears see it.

    Attributes:
      name: what the user calls it.
      path: the PEFT folder.
      modules: by Linear name, A float32 [r, K] and B float32 [N, r], the scaling folded into B.
    """

    name: str
    path: Path
    modules: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class _Module:
    """One adapted module of the PEFT model."""

    name: str  # in the base model, e.g. "model.layers.0.self_attn.q_proj"
    a: Parameter  # [r, K]
    b: Parameter  # [rows, r]
    scale: float


def load_peft(path: Path, name: str, source: Source) -> PeftAdapter:
    """Reads a folder saved by PEFT's save_pretrained, for a model as a frontend gives it.

    Raises:
      ModelError: as of `read_peft`.
    """
    return read_peft(path, name, source.linears, lambda linear: weight_array(source, linear))


def read_peft(
    path: Path, name: str, linears: Sequence[Linear], weight: WeightOf | None = None
) -> PeftAdapter:
    """Reads a folder saved by PEFT's save_pretrained.

    Args:
      path: the folder.
      name: what to call the adapter.
      linears: of the model; name, N, K, kind and sources are read.
      weight: gives a Linear's W, float32 [N, K], to compare weights with that the folder holds
        beside LoRA's; None: the model has none any more, and such a folder is refused.

    Raises:
      ModelError: not a LoRA folder, damaged, a kind of LoRA that slc can't compile, or not made
        for this model.
    """
    path = Path(path)
    try:
        return _read(path, name, linears, weight)
    except OSError as error:
        raise ModelError(
            f"the adapter {str(path)!r} can't be read ({error.strerror or error}): check that its "
            "files are complete and yours to read"
        ) from error


def check_slots(adapter: PeftAdapter, slotted: Collection[str]) -> None:
    """Refuses an adapter that a session could not be given.

    Args:
      adapter: what is to be loaded at run time.
      slotted: names of the Linears that have slots.

    Raises:
      ModelError: it adapts a Linear that has none.
    """
    bare = [name for name in adapter.modules if name not in slotted]
    if bare:
        raise ModelError(
            f"the adapter {str(adapter.path)!r} adapts {bare[0]!r}, which has no slot: train it "
            "without that module, or export it into the model with --adapter and no slots"
        )


def _read(path: Path, name: str, linears: Sequence[Linear], weight: WeightOf | None) -> PeftAdapter:
    config = read_config(path)
    tensors = _read_tensors(path)
    places = _places(linears)
    lora = {key: tensor for key, tensor in tensors.items() if ".lora_" in key}
    found: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for module in _modules(path, config, lora):
        for linear, start, stop in _find(path, module, places):
            _check_shape(path, module, linear, start, stop)
            a, rows = _factors(path, module)
            b = np.zeros((linear.N, a.shape[0]), np.float32)
            b[start:stop] = rows
            found.setdefault(linear.name, []).append((start, a, b))
    for key in sorted(tensors.keys() - lora.keys()):
        _check_unchanged(path, linears, weight, key, tensors[key])
    order = [linear.name for linear in linears if linear.name in found]
    if not order:
        raise unsupported(path, "it adapts nothing")
    return PeftAdapter(name, path, {n: _concatenate(found[n]) for n in order})


def _factors(path: Path, module: _Module) -> tuple[np.ndarray, np.ndarray]:
    """A and s·B in float32.

    Raises:
      ModelError: a float64, or B times the scaling, is beyond float32.
    """
    with np.errstate(over="ignore"):  # what it gives is looked at
        a = module.a.rows(0, module.a.shape[0])
        b = module.b.rows(0, module.b.shape[0]) * np.float32(module.scale)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ModelError(
            f"the adapter {str(path)!r} has numbers beyond float32 on {module.name!r}, scaled by "
            f"{module.scale:g}: train it again or rescale it"
        )
    return a, b


def _read_tensors(path: Path) -> dict[str, Parameter]:
    file = path / "adapter_model.safetensors"
    if not file.is_file():
        pickled = (path / "adapter_model.bin").is_file()
        raise ModelError(
            f"the adapter {str(path)!r} has no adapter_model.safetensors"
            + (", only pickle, which can run code when it is opened" if pickled else "")
            + ": save it again with safe_serialization=True"
        )
    tensors = parameters_of(file)
    bad = next(non_finite(tensors), None)
    if bad is not None:
        raise ModelError(
            f"tensor {bad!r} of the adapter {str(path)!r} holds NaN or infinity, where finite "
            "numbers are wanted: train it again"
        )
    return tensors


def _modules(path: Path, config: dict[str, Any], tensors: dict[str, Parameter]) -> list[_Module]:
    """Pairs the tensors up.

    Raises:
      ModelError: a tensor is not one half of a LoRA pair on a matrix.
    """
    halves: dict[str, dict[str, Parameter]] = {}
    for key, tensor in sorted(tensors.items()):
        match = re.fullmatch(r"(.+)\.lora_([AB])(?:\.\w+)?\.weight", key)
        if match is None:
            raise unsupported(path, f"it holds {key!r}, which is no lora_A or lora_B of a Linear")
        if len(tensor.shape) != 2:
            raise unsupported(path, f"{key!r} has shape {list(tensor.shape)}, not a matrix's")
        halves.setdefault(match[1].removeprefix(_PREFIX), {})[match[2]] = tensor
    modules = []
    for name, pair in halves.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            shapes = {half: list(tensor.shape) for half, tensor in pair.items()}
            raise ModelError(
                f"the adapter {str(path)!r} has {shapes} on {name!r}, and slc wants A [r, K] and "
                "B [N, r]: save it again"
            )
        _check_types(path, pair.values())
        rank = pair["A"].shape[0]
        if rank == 0:
            raise ModelError(
                f"the adapter {str(path)!r} has rank 0 on {name!r}, where at least 1 is wanted: "
                "leave the module out of target_modules"
            )
        scale = scale_of(path, config, name, rank)
        modules.append(_Module(name, pair["A"], pair["B"], scale))
    return modules


def _check_types(path: Path, tensors: Iterable[Parameter]) -> None:
    """Integers can't be LoRA's factors: a quantized adapter has scales that nothing here reads."""
    for tensor in tensors:
        if tensor.dtype.kind in "biu":
            raise ModelError(
                f"tensor {tensor.name!r} of the adapter {str(path)!r} is of type "
                f"{tensor.dtype.name}, where floating point is wanted: save it in float32, float16 "
                "or bfloat16"
            )


def _check_unchanged(
    path: Path, linears: Sequence[Linear], weight: WeightOf | None, key: str, tensor: Parameter
) -> None:
    """Lets a copy of the model's own embedding pass: PEFT saves it when lm_head is adapted.

    Raises:
      ModelError: the tensor is no weight of the model, or not the same, or nobody can tell.
    """
    if weight is None:
        raise ModelError(
            f"the adapter {str(path)!r} holds {key!r}, and an artifact can't tell whether that is "
            "the base model's own: save it again with save_embedding_layers=False"
        )
    name = key.removeprefix(_PREFIX).removesuffix(".weight").removesuffix(".base_layer")
    for linear in linears:
        names = {s.parameter.removesuffix(".weight"): (s.start, s.stop) for s in linear.sources}
        start, stop = {linear.name: (0, linear.N), **names}.get(name, (0, 0))
        if tensor.shape == (stop - start, linear.K) and np.array_equal(
            weight(linear)[start:stop], tensor.rows(0, stop - start)
        ):
            return
    raise unsupported(path, f"it holds {key!r}, trained beside LoRA's own matrices")


_Place = tuple[Linear, int, int]


def _places(linears: Sequence[Linear]) -> dict[str, list[_Place]]:
    """Maps module names to the rows of the Linears that compute them."""
    places: dict[str, list[_Place]] = {}
    for linear in linears:
        if linear.kind == "embedding":
            continue
        names = {s.parameter.removesuffix(".weight"): (s.start, s.stop) for s in linear.sources}
        # A tied lm_head's rows come from the embedding's parameter; PEFT knows it by its own name.
        for name, (start, stop) in {linear.name: (0, linear.N), **names}.items():
            places.setdefault(name, []).append((linear, start, stop))
    return places


def _find(path: Path, module: _Module, places: dict[str, list[_Place]]) -> list[_Place]:
    """Looks a module up by its name, or by the one name of which it is the end, or the reverse.

    A head's folder (BertForSequenceClassification) says `bert.encoder…` where the body's says
    `encoder…`.
    """
    if module.name in places:
        return places[module.name]
    near = [
        name
        for name in places
        if name.endswith("." + module.name) or module.name.endswith("." + name)
    ]
    if len(near) == 1:
        return places[near[0]]
    raise ModelError(
        f"the adapter {str(path)!r} adapts {module.name!r}, which is no Linear of this model's "
        f"graph: check that it was trained on this model"
    )


def _check_shape(path: Path, module: _Module, linear: Linear, start: int, stop: int) -> None:
    got = (module.b.shape[0], module.a.shape[1])
    if got != (stop - start, linear.K):
        raise ModelError(
            f"the adapter {str(path)!r} is for a {got[0]}×{got[1]} {module.name!r}, and this "
            f"model's is {stop - start}×{linear.K}: use the model it was trained on"
        )


def _concatenate(
    parts: list[tuple[int, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Joins the modules of one Linear along the rank, in the order of their rows."""
    parts = sorted(parts, key=lambda part: part[0])
    return (
        np.ascontiguousarray(np.concatenate([a for _, a, _ in parts], axis=0)),
        np.ascontiguousarray(np.concatenate([b for _, _, b in parts], axis=1)),
    )
