"""Makes the menu of a structured checkpoint: calibrates, prices every option, runs the model.

Three passes: second moments of what each Linear reads; the options of one weight after another,
several at a time, fitted to most of the text and judged by the rest; then, on that rest, one run of
the model for each Linear with int4 in its place, whose output error over the layer's error is the
Linear's sensitivity. The sum of sensitivity times error over all Linears then predicts the output
error, as long as errors are small and do not interact.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear
from slc.compiler.progress import Progress, as_stage
from slc.compiler.structure.calibration import Moments, activation_moments
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.decompose import in_turns, run_all
from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.gptq import DampedHessian
from slc.compiler.structure.layer_error import LayerError, activation_error
from slc.compiler.structure.menu import (
    CORRECTED_GROUP,
    FOLDER,
    Menu,
    MenuLinear,
    read_codes,
    write_menu,
)
from slc.compiler.structure.menu_options import (
    correction_options,
    dense_options,
    slice_options,
)
from slc.compiler.structure.sensitivity import PerturbedModel, open_type, perturbed_model

FEEDBACK_FLOPS_MAX = 2e12  # N·K²: a head with more rows than that is rounded to the nearest
_SENSITIVITY_MIN = 1e-30  # a Linear that no output depends on still wants its smallest error


def make_menu(
    source: Source,
    checkpoint: StructuredCheckpoint,
    text: Path,
    *,
    calibration: str,
    folder: Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Menu:
    """The menu of `checkpoint`, in place of any that was there.

    Args:
      source: the model that errors are measured against: the dense one, or the checkpoint itself.
      checkpoint: whose slices are offered.
      text: calibration text or inputs.
      calibration: what to call it, for people.
      folder: to write it to; None: into the checkpoint's own.
      jobs: matrices worked on at a time; the result does not depend on it.
      progress: called as progress(done, total, what).

    Raises:
      RequestError: the text can't be read or doesn't suit the model.
      ModelError: the model can't be run.
    """
    folder = folder or checkpoint.path / FOLDER
    unfinished = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        maker = _Maker(source, checkpoint, unfinished)
        maker.price(text, jobs, progress)
        write_menu(unfinished, checkpoint.path, calibration, maker.measured(text, progress))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Menu(folder, checkpoint.path)


class _Maker:
    """The menu in the making: one file per Linear, errors in memory."""

    def __init__(self, source: Source, checkpoint: StructuredCheckpoint, folder: Path) -> None:
        from slc.compiler.frontends import weight_array

        self._source, self._checkpoint, self._folder = source, checkpoint, folder
        self._read: Callable[[Linear], F32] = partial(weight_array, source)
        # A tied head takes what its table takes, whose row says what both cost.
        tables = {li.weight for li in source.linears if li.kind == "embedding"}
        self._linears = [
            li for li in source.linears if li.kind == "embedding" or li.weight not in tables
        ]
        self._rows: dict[str, MenuLinear] = {}
        self._probe_errors: dict[str, float] = {}

    def price(self, text: Path, jobs: int | None, progress: Progress | None) -> None:
        """The options of every Linear and their errors."""
        done, total = 0, len(self._linears)
        read_x = [linear for linear in self._linears if linear.kind != "embedding"]
        report = as_stage(progress, "pricing options")
        for some in in_turns(read_x):
            moments = activation_moments(
                self._source, text, some, progress=as_stage(progress, "calibration")
            )
            run_all(partial(self._price, moments=moments), some, jobs, report, done, total)
            done += len(some)
        tables = [linear for linear in self._linears if linear.kind == "embedding"]
        moments = self._of_tied_tables(tables, text, progress)
        run_all(partial(self._price, moments=moments), tables, jobs, report, done, total)

    def _of_tied_tables(
        self, tables: list[Linear], text: Path, progress: Progress | None
    ) -> dict[str, Moments]:
        """Moments of what multiplies each table that is tied to a head, by the table's name.

        The table's rows are also looked up, where every column counts alike: with the mean of the
        diagonal added to it, H weighs both. On SmolLM2 rounding in it leaves 0.037 nats of int4
        against 0.098, and what is looked up loses 5 % more than by rounding to the nearest.
        """
        heads = {li.weight: li for li in self._source.linears if li.kind == "lm_head"}
        tied = {table.name: heads[table.weight] for table in tables if table.weight in heads}
        if not tied:
            return {}
        moments = activation_moments(
            self._source, text, list(tied.values()), progress=as_stage(progress, "calibration")
        )
        found = {}
        for table, head in tied.items():
            of_head = moments[head.name]
            other = None if of_head.held_out is None else _looked_up_too(of_head.held_out)
            found[table] = dataclasses.replace(of_head, H=_looked_up_too(of_head.H), held_out=other)
        return found

    def _price(self, linear: Linear, *, moments: Mapping[str, Moments]) -> None:
        """One Linear: its options and its file."""
        from safetensors.numpy import save_file

        W = np.ascontiguousarray(self._read(linear), np.float32)
        own = moments.get(linear.name)
        layer = None if own is None else LayerError(own.judge)
        metric = None
        if own is not None and linear.N * linear.K**2 <= FEEDBACK_FLOPS_MAX:
            metric = DampedHessian.chosen(W, own.H, own.held_out, group=CORRECTED_GROUP)
        made = dense_options(W, metric, layer)
        options, tensors = list(made.options), dict(made.tensors)
        if layer is not None and metric is not None and linear.kind == "linear":
            corrected, factors = correction_options(W, made.probe[0], metric.H, layer)
            options, tensors = options + corrected, tensors | factors
        if layer is not None and linear.name in self._checkpoint.names:
            options += slice_options(W, layer, self._checkpoint, linear.name)
        file = f"{self._source.linears.index(linear):05d}.safetensors"
        save_file(tensors, self._folder / file)
        rounded = 0.0 if own is None else activation_error(W, own.rounding)
        self._rows[linear.name] = MenuLinear(tuple(options), 0.0, file, rounded)
        self._probe_errors[linear.name] = made.probe[1]

    def measured(self, text: Path, progress: Progress | None) -> dict[str, MenuLinear]:
        """The rows with their sensitivities, in graph order."""
        linears = [linear for linear in self._linears if open_type(self._source, linear)]
        found: dict[str, float] = {}
        with perturbed_model(self._source, text, linears) as model:
            for done, linear in enumerate(linears, 1):
                found[linear.name] = self._sensitivity(model, linear)
                if progress is not None:
                    progress(done, len(linears), "measuring sensitivities")
        typical = float(np.median(list(found.values()))) if found else 1.0
        return {
            linear.name: dataclasses.replace(
                self._rows[linear.name], sensitivity=found.get(linear.name, typical)
            )
            for linear in self._linears
        }

    def _sensitivity(self, model: PerturbedModel, linear: Linear) -> float:
        """Output error over layer error, with int4 in the Linear's place."""
        row = self._rows[linear.name]
        codes = read_codes(self._folder / row.file, "int4", CORRECTED_GROUP, linear.K)
        assert codes is not None  # written above
        error = model.error(linear, codes.matrix())
        return max(_SENSITIVITY_MIN, error / max(self._probe_errors[linear.name], 1e-30))


def _looked_up_too(H: F32) -> F32:
    """H of a head, f32 [K, K], with as much again for the looked-up rows of its table."""
    both = H.copy()
    both[np.diag_indices_from(both)] += np.float32(np.trace(H) / len(H))
    return both
