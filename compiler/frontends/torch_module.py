"""A torch module with example inputs, from Python."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slc.compiler.errors import ModelError
from slc.compiler.frontends.assemble import assemble
from slc.compiler.frontends.encoder import export_module, quiet
from slc.compiler.frontends.source import Source
from slc.compiler.frontends.weights import first_non_finite

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """One tensor of a state_dict, as matching wants it."""

    name: str
    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def mapped(self) -> np.ndarray:
        return self.values


def load_torch(
    module: torch.nn.Module,
    example_inputs: Any,
    *,
    workdir: Path,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Source:
    """Exports a module, in eval mode, and finds its Linears.

    Args:
      module: left as it is.
      example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.
      workdir: an empty folder for the graph; it must outlive the Source.
      dynamic_shapes: as torch.export takes it; without it every shape is fixed.
      input_names: of the graph.
      output_names: of the graph.

    Raises:
      ModelError: torch can't export the module, or a weight holds NaN or infinity.
    """
    import torch

    args, kwargs = _arguments(example_inputs)
    label = f"the module {type(module).__name__}"
    parameters = _parameters(module)
    training = module.training
    try:
        with quiet(), torch.no_grad():
            graph = export_module(
                module.eval(),
                args,
                kwargs,
                dynamic_shapes,
                Path(workdir),
                input_names=list(input_names) if input_names is not None else None,
                output_names=list(output_names) if output_names is not None else None,
                label=label,
            )
    finally:
        module.train(training)
    digest = _sha256(parameters)  # now: they share memory with the module, which may change
    return assemble(
        graph,
        "torch",
        Path(type(module).__name__),
        Path(workdir),
        parameters=parameters,
        find_sha256=lambda: digest,
        tools=("onnxscript", "torch"),
    )


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, dict):
        return (), example_inputs
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _parameters(module: torch.nn.Module) -> dict[str, _Parameter]:
    """Lists the module's floating-point tensors, sharing their memory where numpy can.

    Raises:
      ModelError: one holds NaN or infinity.
    """
    found = {}
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        plain = tensor.detach().cpu()
        values = plain.float().numpy()
        if first_non_finite(values) is not None:
            raise ModelError(
                f"parameter {name!r} of {type(module).__name__} holds NaN or infinity, where "
                "finite numbers are wanted: repair or retrain the model"
            )
        found[name] = _Parameter(name, values)
    return found


def _sha256(parameters: dict[str, _Parameter]) -> str:
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(f"{name}\0{parameters[name].shape}\0".encode())
        digest.update(np.ascontiguousarray(parameters[name].values).data)
    return digest.hexdigest()
