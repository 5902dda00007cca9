"""Any ONNX file: read without its weights, which stay in the file or in its data file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from slc.compiler.errors import ModelError
from slc.compiler.frontends import onnx_proto

# What ONNX's checker refuses and onnxruntime runs: operators of onnxruntime's own in ONNX's domain
# (genai's graphs use them), and outputs of the graph that state no shape.
TOLERATED = ("No Op registered for", "Field 'shape' of 'type' is required but missing")


def read(path: Path, elsewhere: Mapping[str, ir.TensorProtocol] | None = None) -> ir.Model:
    """Loads an ONNX file with its weights left where they are.

    Functions of the model are inlined; in files older than IR version 4, which list constants
    among the inputs too, they are constants.

    Args:
      path: the file.
      elsewhere: initializers, by name, whose data is not where the file says.

    Raises:
      ModelError: not an ONNX model, invalid, or its external data is missing or too short.
    """
    try:
        proto = onnx_proto.load(path)
    except Exception as error:  # protobuf's own errors have no public common base
        raise ModelError(
            f"{str(path)!r} can't be read as an ONNX model ({_one_line(error)}): "
            "give a file saved by onnx.save or an exporter"
        ) from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise ModelError(f"{str(path)!r} holds no graph: give a file saved by an ONNX exporter")
    _check(proto, path)
    model: ir.Model = ir.from_proto(proto)
    for name, tensor in (elsewhere or {}).items():
        model.graph.initializers[name].const_value = tensor
    pin_external(model, path.parent)
    if model.ir_version < 4:
        common_passes.RemoveInitializersFromInputsPass()(model)
    if model.functions:
        common_passes.InlinePass()(model)
    return model


def pin_external(model: ir.Model, folder: Path) -> list[Path]:
    """Points every external tensor at the file behind it, links followed, and checks its length.

    Links are how Hugging Face's download cache stores files, and both onnxruntime and the ONNX
    libraries refuse them. What leaves the model's folder by its name (`../x`) stays refused.

    Returns:
      The data files, each once.

    Raises:
      ModelError: a data file is missing, too short or outside the folder.
    """
    files: dict[Path, None] = {}
    for value in _tensors(model):
        tensor = value.tensor
        location = Path(tensor.location)
        if location.is_absolute() or ".." in location.parts:
            raise ModelError(
                f"weight {tensor.name!r} has its data in {str(tensor.location)!r}, outside the "
                "model's folder: put the data file beside the model"
            )
        path = folder / location
        if not path.is_file():
            raise ModelError(
                f"the model's data file {str(path)!r} is missing (weight {tensor.name!r}): "
                "copy it beside the model"
            )
        real = path.resolve()
        end = (tensor.offset or 0) + tensor.nbytes
        if end > real.stat().st_size:
            raise ModelError(
                f"the data file {str(path)!r} is {real.stat().st_size} bytes long and weight "
                f"{tensor.name!r} ends at byte {end}: it is truncated, copy it again"
            )
        files[real] = None
        value.replace(_at(tensor, real))
    return list(files)


def external_files(model: ir.Model) -> list[Path]:
    """Lists the data files that the graph's initializers lie in, each once, in graph order."""
    paths = (place.tensor.path for place in _tensors(model))
    return list(dict.fromkeys(Path(path) for path in paths))


def _check(proto: onnx.ModelProto, path: Path) -> None:
    """Runs ONNX's own checker on a copy of the graph without external weights.

    Raises:
      ModelError: the checker's first reason.
    """
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(proto)
    for tensor in skeleton.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.dims[:] = [0]
    try:
        onnx.checker.check_model(skeleton)
    except Exception as error:
        if not any(text in str(error) for text in TOLERATED):
            raise ModelError(
                f"{str(path)!r} is not a valid ONNX model ({_one_line(error)}): export it again"
            ) from error


@dataclasses.dataclass
class _Place:
    """An external tensor and the value that holds it."""

    holder: ir.Value
    tensor: ir.ExternalTensor

    def replace(self, tensor: ir.ExternalTensor) -> None:
        self.holder.const_value = tensor


def _tensors(model: ir.Model) -> list[_Place]:
    """Lists the external initializers of the graph and of its subgraphs."""
    graphs = dict.fromkeys([model.graph, *(g for g in model.graph.subgraphs())])
    return [
        _Place(value, value.const_value)
        for graph in graphs
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    ]


def _at(tensor: ir.ExternalTensor, path: Path) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        str(path),
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name or "",
        base_dir="",  # the file itself is named: there is no folder to stay inside of
    )


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
