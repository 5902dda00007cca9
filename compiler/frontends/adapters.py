"""PEFT LoRA folders: each module's A and B, placed on the Linear that computes the module.

LoRA (arXiv 2106.09685) adds s·x·Aᵀ·Bᵀ to a module's output, s = alpha/r, or alpha/√r with rsLoRA
(arXiv 2312.03732). s is folded into B. Modules that the graph fuses into one Linear (q, k, v) are
concatenated along the rank, each B in its own rows and zero elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from slc.compiler.errors import ModelError
from slc.compiler.frontends.safetensors_file import Parameter, non_finite, parameters_of
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.weights import weight_array
from slc.compiler.linear import Linear

_PREFIX = "base_model.model."

# Options of LoraConfig that change what the adapter computes, and how to say so.
_UNSUPPORTED = {
    "use_dora": "DoRA rescales whole columns of the merged weight",
    "modules_to_save": "it replaces whole modules of the base model",
    "lora_bias": "it trains biases",
    "alora_invocation_tokens": "activated LoRA switches on inside a sequence",
    "target_parameters": "it adapts parameters that no module multiplies by",
    "layer_replication": "it changes the number of layers",
    "trainable_token_indices": "it retrains rows of the embedding",
}

# Ways to start a LoRA that change the base's weights: B·A fits those, not the model that slc reads.
_REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")


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
    """Reads a folder saved by PEFT's save_pretrained.

    Raises:
      ModelError: not a LoRA folder, damaged, a kind of LoRA that slc can't compile, or not made
        for this model.
    """
    path = Path(path)
    config = _read_config(path)
    tensors = _read_tensors(path)
    places = _places(source)
    lora = {key: tensor for key, tensor in tensors.items() if ".lora_" in key}
    for key in sorted(tensors.keys() - lora.keys()):
        _check_unchanged(path, source, key, tensors[key])
    modules = _modules(path, config, lora)
    found: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for module in modules:
        for linear, start, stop in _find(path, module, places):
            _check_shape(path, module, linear, start, stop)
            a = module.a.rows(0, module.a.shape[0])
            b = np.zeros((linear.N, a.shape[0]), np.float32)
            b[start:stop] = module.b.rows(0, module.b.shape[0]) * np.float32(module.scale)
            found.setdefault(linear.name, []).append((start, a, b))
    order = [linear.name for linear in source.linears if linear.name in found]
    return PeftAdapter(name, path, {n: _concatenate(found[n]) for n in order})


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "adapter_config.json"
    if not file.is_file():
        raise ModelError(
            f"{str(path)!r} is not a PEFT adapter (no adapter_config.json): "
            "give a folder saved by PEFT's save_pretrained"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        method = config["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{str(file)!r} is not a PEFT configuration ({error}): save the adapter again"
        ) from error
    if method != "LORA":
        raise ModelError(
            f"the adapter {str(path)!r} is of type {method}, and slc takes LORA: "
            "train a LoRA adapter, or merge it into the model"
        )
    reason = unsupported_option(config)
    if reason:
        raise _unsupported(path, reason)
    return dict(config)


def unsupported_option(config: dict[str, Any]) -> str | None:
    """Says which option of a LoraConfig slc can't compile, and why; None when all are fine."""
    for option, reason in _UNSUPPORTED.items():
        if config.get(option):
            return f"{option} is set: {reason}"
    if config.get("bias", "none") != "none":
        return f"bias={config['bias']!r}: it trains biases"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_REBASED):
        return f"init_lora_weights={start!r}: it changes the base model's weights"
    return None


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
            raise _unsupported(path, f"it holds {key!r}, which is no lora_A or lora_B of a Linear")
        if len(tensor.shape) != 2:
            raise _unsupported(path, f"{key!r} has shape {list(tensor.shape)}, not a matrix's")
        halves.setdefault(match[1].removeprefix(_PREFIX), {})[match[2]] = tensor
    modules = []
    for name, pair in halves.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            shapes = {half: list(tensor.shape) for half, tensor in pair.items()}
            raise ModelError(
                f"the adapter {str(path)!r} has {shapes} on {name!r}, and slc wants A [r, K] and "
                "B [N, r]: save it again"
            )
        scale = _scale(config, name, pair["A"].shape[0])
        modules.append(_Module(name, pair["A"], pair["B"], scale))
    return modules


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """Gives s of one module: patterns are matched as PEFT does, on the end of the name."""
    alpha = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_unchanged(path: Path, source: Source, key: str, tensor: Parameter) -> None:
    """Lets a copy of the model's own embedding pass: PEFT saves it when lm_head is adapted.

    Raises:
      ModelError: the tensor is no weight of the model, or not the same.
    """
    name = key.removeprefix(_PREFIX).removesuffix(".weight").removesuffix(".base_layer")
    for linear in source.linears:
        names = {s.parameter.removesuffix(".weight"): (s.start, s.stop) for s in linear.sources}
        start, stop = {linear.name: (0, linear.N), **names}.get(name, (0, 0))
        if tensor.shape == (stop - start, linear.K) and np.array_equal(
            weight_array(source, linear)[start:stop], tensor.rows(0, stop - start)
        ):
            return
    raise _unsupported(path, f"it holds {key!r}, trained beside LoRA's own matrices")


_Place = tuple[Linear, int, int]


def _places(source: Source) -> dict[str, list[_Place]]:
    """Maps module names to the rows of the Linears that compute them."""
    places: dict[str, list[_Place]] = {}
    for linear in source.linears:
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


def _unsupported(path: Path, what: str) -> ModelError:
    return ModelError(
        f"the adapter {str(path)!r} can't be compiled ({what}): merge it into the model with "
        "merge_and_unload, or train a plain LoRA"
    )
