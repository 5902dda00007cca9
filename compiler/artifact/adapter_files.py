"""`.onnx_adapter` files: what onnxruntime and genai load into an artifact's slots at run time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slc.compiler.passes.attach_adapters import slot_names

if TYPE_CHECKING:
    from slc.compiler.frontends.adapters import PeftAdapter

ADAPTERS_FOLDER = "adapters"


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
