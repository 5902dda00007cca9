"""Calibration files: texts for language models, arrays for everything else."""

from __future__ import annotations

import importlib.resources
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slc.compiler.errors import ModelError, RequestError

Array = npt.NDArray[Any]

SAMPLES_PER_RUN = 16
BUILT_IN, NO_TEXT = "default", "none"  # words in the place of a file


def built_in() -> Path:
    """The text that slc brings along: passages of many kinds, in many languages, made for this."""
    return Path(str(importlib.resources.files("slc.compiler.structure"))) / "default_text.txt"


def read_texts(path: Path) -> list[str]:
    """Reads calibration texts.

    A `.jsonl` file has an object with "text" on every line; any other file is plain UTF-8 text,
    one text to a line. Blank lines and empty texts are left out.

    Raises:
      RequestError: the file can't be read, or holds no text.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.suffix == ".jsonl":
            lines = [_text_of(line, number) for number, line in enumerate(lines, 1)]
    except (OSError, ValueError) as error:
        raise RequestError(
            f"calibration file {str(path)!r} can't be read ({error}): give UTF-8 text with one "
            'text to a line, .jsonl with {"text": …} or .npz with arrays named as the inputs'
        ) from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise RequestError(f"calibration file {str(path)!r} is empty: give some lines of text")
    return texts


def _text_of(line: str, number: int) -> str:
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise ValueError(f'line {number} is no object with a string "text"')
    text: str = row["text"]
    return text


def _numbers(file: Mapping[str, Array], name: str) -> Array:
    """One array of an .npz, where it holds numbers or booleans."""
    try:
        array = file[name]
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        kind = "O"
    else:
        kind = array.dtype.kind
    if kind not in "biuf":
        raise ModelError(
            f"array {name!r} of the calibration file holds "
            f"{'text' if kind in 'US' else 'objects'} where numbers are wanted: "
            "save it by numpy.savez as a numeric array"
        )
    return array


def read_feeds(
    path: Path, inputs: Mapping[str, tuple[int | None, np.dtype[Any]]]
) -> Iterator[dict[str, Array]]:
    """Cuts the arrays of an .npz along their first axis into feeds for a session.

    Args:
      path: the arrays are named after the graph's inputs, samples along the first axis.
      inputs: by name the length of the first axis that the graph wants (None: any) and its type.

    Raises:
      RequestError: the file can't be read, or doesn't fit the inputs.
      ModelError: an array holds text or objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: _numbers(file, name) for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RequestError(
            f"calibration file {str(path)!r} can't be read as .npz ({error}): save it by "
            "numpy.savez with one array per input of the model"
        ) from error
    missing = sorted(inputs.keys() - arrays.keys())
    if missing:
        raise RequestError(
            f"calibration file {str(path)!r} lacks an array {missing[0]!r}: "
            f"give one for each input, {', '.join(inputs)}"
        )
    samples = {arrays[name].shape[:1] for name in inputs}
    steps = {length for length, _ in inputs.values() if length is not None} or {SAMPLES_PER_RUN}
    if len(samples) != 1 or len(steps) != 1 or () in samples:
        raise RequestError(
            f"the arrays of {str(path)!r} differ in their number of samples: "
            "every input wants as many, along the first axis"
        )
    (count,), step = samples.pop(), steps.pop()
    fixed = any(length is not None for length, _ in inputs.values())
    if count == 0 or (fixed and count % step):
        raise RequestError(
            f"calibration file {str(path)!r} has {count} samples where the model takes "
            f"{step if fixed else 'one or more'} at a time: give a multiple"
        )
    for start in range(0, count, step):
        yield {
            name: arrays[name][start : start + step].astype(dtype, copy=False)
            for name, (_, dtype) in inputs.items()
        }
