"""Inputs that a graph is run with to see what it computes: the same ones on every machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Feeds = dict[str, npt.NDArray[Any]]

_SIZES = ((1, 5), (2, 9), (3, 16))  # (batch, length) of the probes
_PROMPT_TOKENS = 12
_DEFAULT_VOCABULARY = 32


@dataclasses.dataclass(frozen=True)
class Probe:
    """One set of inputs."""

    name: str  # e.g. "batch 2, length 9"
    feeds: Feeds


def make_probes(model: ir.Model, genai_config: Mapping[str, Any] | None = None) -> list[Probe]:
    """Probes of several batch sizes and lengths for `model`.

    Token ids are drawn evenly from the vocabulary; the last row of an attention mask ends two
    tokens early; caches are empty; other floats are standard normal, other integers zero. An axis
    whose size is not fixed is the batch if it is the first, else the length. Overridable inputs
    keep their defaults.
    """
    inputs = [v for v in model.graph.inputs if not v.is_initializer()]
    fixed = all(isinstance(d, int) for v in inputs for d in (v.shape or [None]))
    sizes = _SIZES[:1] if fixed else _SIZES
    return [
        make_probe(model, batch, length, genai_config, seed=seed)
        for seed, (batch, length) in enumerate(sizes)
    ]


def make_probe(
    model: ir.Model,
    batch: int,
    length: int,
    genai_config: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> Probe:
    """The inputs of `make_probes` at one batch size and length."""
    rng = np.random.default_rng(seed)
    shape_of = _Shapes(batch, length, genai_config)
    inputs = [v for v in model.graph.inputs if not v.is_initializer()]
    feeds = {
        str(value.name): _feed(model, value, shape_of(value), rng, genai_config) for value in inputs
    }
    return Probe(f"batch {batch}, length {length}", feeds)


def prompt(model: ir.Model, genai_config: Mapping[str, Any] | None = None) -> list[int]:
    """Token ids that greedy generation starts from."""
    rng = np.random.default_rng(len(_SIZES))
    ids = rng.integers(0, vocabulary(model, genai_config), _PROMPT_TOKENS)
    return [int(i) for i in ids]


def vocabulary(model: ir.Model, genai_config: Mapping[str, Any] | None = None) -> int:
    """How many token ids the model knows: the rows of the smallest table that ids look up in.

    Falls back on genai_config's vocab_size, then on a small number that any text model has.
    """
    ids = [v for v in model.graph.inputs if _is_token_ids(str(v.name))]
    tables = [table for value in ids for table in _tables_read_by(value)]
    if tables:
        return min(tables)
    if genai_config is not None and "vocab_size" in genai_config.get("model", {}):
        return int(genai_config["model"]["vocab_size"])
    return _DEFAULT_VOCABULARY


def cache_shape(
    value: ir.Value, batch: int, genai_config: Mapping[str, Any] | None
) -> tuple[int, ...]:
    """Of an empty cache [batch, heads, 0, head size] for the graph input `value`."""
    decoder = (genai_config or {}).get("model", {}).get("decoder", {})
    dims = list(value.shape or ())
    sizes = [batch, decoder.get("num_key_value_heads", 1), 0, decoder.get("head_size", 1)]
    return tuple(
        dim if isinstance(dim, int) else size for dim, size in zip(dims, sizes, strict=False)
    )


class _Shapes:
    def __init__(self, batch: int, length: int, genai_config: Mapping[str, Any] | None) -> None:
        self._batch, self._length, self._config = batch, length, genai_config

    def __call__(self, value: ir.Value) -> tuple[int, ...]:
        if _is_cache(str(value.name)):
            return cache_shape(value, self._batch, self._config)
        dims: Iterable[Any] = value.shape if value.shape is not None else ()
        return tuple(
            dim if isinstance(dim, int) else (self._batch if axis == 0 else self._length)
            for axis, dim in enumerate(dims)
        )


def _feed(
    model: ir.Model,
    value: ir.Value,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    genai_config: Mapping[str, Any] | None,
) -> npt.NDArray[Any]:
    name = str(value.name)
    dtype = (value.dtype or ir.DataType.FLOAT).numpy()
    if _is_cache(name):
        return np.zeros(shape, dtype)
    if _is_token_ids(name):
        return rng.integers(0, vocabulary(model, genai_config), shape).astype(dtype)
    if "mask" in name:
        mask = np.ones(shape, dtype)
        if len(shape) == 2 and shape[0] > 1 and shape[1] > 2 and not _caches(model):
            mask[-1, -2:] = 0
        return mask
    if "position" in name and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
    if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
        return np.zeros(shape, dtype)
    return rng.standard_normal(shape).astype(dtype)


def _is_cache(name: str) -> bool:
    return name.startswith("past")


def _is_token_ids(name: str) -> bool:
    return "ids" in name and "position" not in name and "type" not in name


def _caches(model: ir.Model) -> bool:
    """A decoder's runtime right-pads nothing: its masks are all ones."""
    return any(_is_cache(str(value.name)) for value in model.graph.inputs)


def _tables_read_by(ids: ir.Value) -> list[int]:
    """Rows of the tables that a Gather looks `ids` up in, through casts and reshapes."""
    rows = []
    pending = [ids]
    for value in pending:
        for use in value.uses():
            node = use.node
            table = node.inputs[0]
            if node.op_type in ("Gather", "GatherBlockQuantized") and use.idx == 1:
                if table is not None and table.const_value is not None:
                    rows.append(int(table.const_value.shape.numpy()[0]))
            elif node.op_type in ("Cast", "Reshape", "Identity", "Unsqueeze", "Squeeze"):
                pending.append(node.outputs[0])
    return rows
