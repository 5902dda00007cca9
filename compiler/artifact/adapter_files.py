"""`.onnx_adapter` files: what onnxruntime and genai load into an artifact's slots at run time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slc.compiler.errors import ArtifactError
from slc.compiler.passes.attach_adapters import slot_names

if TYPE_CHECKING:
    from slc.compiler.frontends.adapters import PeftAdapter

_FOLDER, _ENDING = "adapters", ".onnx_adapter"
_PARAMETER = re.compile(r"(.+)\.slot(\d+)\.lora_([AB])")  # the inverse of slot_names


def adapter_file(name: str) -> str:
    """An adapter's file in an artifact, as the manifest names files."""
    return f"{_FOLDER}/{name}{_ENDING}"


def adapter_name(file: str) -> str | None:
    """The name of the adapter in a file of an artifact, None of another kind of file."""
    if file.startswith(f"{_FOLDER}/") and file.endswith(_ENDING):
        return file[len(_FOLDER) + 1 : -len(_ENDING)]
    return None


def write_adapter(adapter: PeftAdapter, slot: int, path: Path) -> None:
    """Writes `adapter` for one slot, in f32, in onnxruntime's own file format.

    Args:
      adapter: A: [r, K] and B: [N, r] per Linear; ranks may differ between Linears.
      slot: which pair of overridable initializers it replaces.
      path: the file to make.
    """
    import onnxruntime as ort

    parameters: Mapping[str, ort.OrtValue] = {
        name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        for linear, pair in sorted(adapter.modules.items())
        for name, array in zip(slot_names(linear, slot), pair, strict=True)
    }
    file = ort.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters(parameters)
    file.export_adapter(str(path))


def describe_adapter(path: Path) -> dict[str, Any]:
    """What a manifest says of an adapter's file, read from the file.

    Returns:
      name, slot, rank (the largest: Linears may differ) and linears (how many).

    Raises:
      ArtifactError: onnxruntime can't read it, or slc did not write it.
    """
    import onnxruntime as ort

    try:
        parameters = ort.AdapterFormat.read_adapter(str(path)).get_parameters()
    except Exception as error:  # onnxruntime's own classes derive from Exception directly
        raise _foreign(path, " ".join(str(error).split())) from error
    slots, ranks = set[int](), list[int]()
    for name, value in parameters.items():
        match = _PARAMETER.fullmatch(name)
        if match is None:
            raise _foreign(path, f"it has a parameter {name!r}")
        slots.add(int(match[2]))
        if match[3] == "A":
            ranks.append(int(value.shape()[0]))
    if len(slots) != 1 or not ranks:
        raise _foreign(path, f"it fills {len(slots)} slots of {len(ranks)} Linears")
    name = path.name.removesuffix(_ENDING)
    return {"name": name, "slot": slots.pop(), "rank": max(ranks), "linears": len(ranks)}


def _foreign(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is no adapter that slc wrote ({what}); add it again with slc adapters add --force."
    )
