"""Opens graphs in onnxruntime for comparison."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from slc.compiler.artifact.probes import Feeds
from slc.compiler.artifact.writer import MODEL_FILE, write_model
from slc.compiler.errors import ArtifactError

if TYPE_CHECKING:
    import onnxruntime

Outputs = dict[str, npt.NDArray[Any]]

_FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"


@contextmanager
def written_session(
    model: ir.Model, options: Any = None, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> Iterator[onnxruntime.InferenceSession]:
    """A session over `model`, written to a temporary folder that is gone afterwards."""
    import onnxruntime

    options = quiet_options() if options is None else options
    with tempfile.TemporaryDirectory(prefix="slc-verify-") as folder:
        write_model(model, Path(folder))
        session = onnxruntime.InferenceSession(
            str(Path(folder) / MODEL_FILE), options, providers=list(providers)
        )
        yield session
        del session


def quiet_options() -> onnxruntime.SessionOptions:
    """Session options without onnxruntime's warning for each overridable initializer."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return options


def session_in_place(
    model: ir.Model, folder: Path, options: Any, providers: Sequence[str]
) -> onnxruntime.InferenceSession:
    """A session over a changed graph whose weights stay in `folder`, mapped."""
    import onnxruntime

    options.add_session_config_entry(_FOLDER_ENTRY, str(folder.resolve()))
    try:
        return onnxruntime.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=list(providers)
        )
    except Exception as error:  # onnxruntime's own classes derive from Exception directly
        raise ArtifactError(
            f"onnxruntime refuses {folder / MODEL_FILE}: {error}; slc doctor explains it."
        ) from error


def run(session: onnxruntime.InferenceSession, feeds: Feeds) -> Outputs:
    """Every output by its name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def at_fp32_activations(model: ir.Model) -> bool:
    """Sets accuracy_level 1 on every node that has one, in place; returns whether any changed.

    Level 4 rounds activations to int8, which no bound on float rounding covers.
    """
    changed = False
    for node in model.graph.all_nodes():
        level = node.attributes.get("accuracy_level")
        if level is not None and level.as_int() not in (0, 1):
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
            changed = True
    return changed


def expose(model: ir.Model, values: Sequence[ir.Value]) -> None:
    """Makes inner values outputs of the graph, in place."""
    outputs = set(model.graph.outputs)
    for value in values:
        if value not in outputs and not value.is_graph_input():
            outputs.add(value)
            model.graph.outputs.append(value)


def difference(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """|got − wanted| in f64; equal values, infinities included, differ by 0, NaN by NaN."""
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
    return np.where(got == wanted, 0.0, error)
