"""From a dense model to its structured checkpoint, and to the menu that a budget chooses by."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from slc.compiler.errors import RequestError
from slc.compiler.folders import put_in_place
from slc.compiler.progress import Progress, as_stage
from slc.compiler.request import PathLike, Request
from slc.compiler.request_plan import choose

if TYPE_CHECKING:
    from slc.compiler.budget import Plan
    from slc.compiler.frontends.adapters import PeftAdapter
    from slc.compiler.frontends.source import Source
    from slc.compiler.structure.checkpoint import StructuredCheckpoint
    from slc.compiler.structure.menu import Menu
    from slc.compiler.structure.stored_grid import IntegerType
    from slc.targets import Target

# What a dense model is decomposed at before its budget is divided: above it dense int4 is better
# at equal bytes (tests/bench/results), below it any size is a slice.
MENU_DENSITY = 0.5
MENU_RANK = 16
STRUCTURE_DENSITY, STRUCTURE_RANK = 0.7, 32  # ceilings of `slc structure`
# By slc's own text: a decomposition that takes a sixth of the time of the default one.
BUILT_IN_ITERATIONS = 80


def chooses(request: Request, method: str) -> bool:
    """Whether a dense model is to be stored by measured errors: then all options are made first."""
    return request.divides_by_errors and method == "hessian"


def with_built_in_text(request: Request, source: Source) -> Request:
    """The request, with slc's own text where nobody named one and the budget needs errors."""
    from slc.compiler.structure.texts import BUILT_IN

    if source.checkpoint is not None or source.hf_folder is None:
        return request
    if not request.measures_by_default:
        return request
    iterations = request.iterations or BUILT_IN_ITERATIONS
    return dataclasses.replace(request, calibrate=BUILT_IN, iterations=iterations)


def repriced(
    source: Source, path: Path, request: Request, progress: Progress | None, *, replace: bool
) -> StructuredCheckpoint:  # fmt: skip
    """A copy of the checkpoint `source` with a menu of its own.

    Raises:
      RequestError: the text can't be read or doesn't suit the model.
    """
    from slc.compiler.structure.checkpoint import StructuredCheckpoint
    from slc.compiler.structure.menu import FOLDER

    assert source.checkpoint is not None
    partial = path.with_name(f".{path.name}.writing")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source.checkpoint.path, partial, ignore=shutil.ignore_patterns(FOLDER))
        price(source, StructuredCheckpoint(partial), request, progress)
        check_free(path, replace)  # again: it may have appeared meanwhile
        put_in_place(partial, path, path.with_name(f".{path.name}.replaced"))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return StructuredCheckpoint(path)


def menu_of_checkpoint(
    source: Source, request: Request, work: Path, progress: Progress | None
) -> Menu | None:
    """The menu of a checkpoint; with calibration text one of this run, which is not kept."""
    from slc.compiler.structure.menu import open_menu

    if source.checkpoint is None:
        return None
    if request.text() is not None:
        return price(source, source.checkpoint, request, progress, work / "menu")
    return open_menu(source.checkpoint.path)


def menu_of_dense(
    source: Source, target: Target, request: Request, method: str, adapters: list[PeftAdapter],
    folder: Path, progress: Progress | None, name: str = "model.slr",
) -> tuple[StructuredCheckpoint, Menu]:  # fmt: skip
    """Decomposes a dense model and measures its options, once the budget is known to be possible.

    Raises:
      BudgetError: nothing fits.
    """
    choose(source, target, request, adapters, None)  # minutes before it would be found otherwise
    checkpoint = decompose_source(
        source, folder / name, method, MENU_DENSITY, MENU_RANK, request, progress
    )
    return checkpoint, price(source, checkpoint, request, progress)


def price(
    source: Source, checkpoint: StructuredCheckpoint, request: Request,
    progress: Progress | None, folder: Path | None = None,
) -> Menu:  # fmt: skip
    """Measures the errors of all options with the calibration text; None keeps them with it."""
    from slc.compiler.structure.menu_maker import make_menu

    text = request.text()
    assert text is not None
    return make_menu(
        source, checkpoint, text, calibration=request.text_name, folder=folder, jobs=request.jobs,
        progress=progress,
    )  # fmt: skip


def sliced(
    source: Source, plan: Plan, request: Request, method: str,
    save_structured: PathLike | None, work: Path, progress: Progress | None,
) -> StructuredCheckpoint | None:  # fmt: skip
    """A checkpoint of the dense source at the densities and ranks that were chosen."""
    decomposed = {linear.name for linear in source.linears if linear.kind == "linear"}
    sparse = [c for c in plan.choices if c.sparse and c.linear in decomposed]
    if not sparse and not save_structured:
        return None
    path = Path(save_structured) if save_structured else work / "model.slr"
    density = max((c.density for c in sparse), default=MENU_DENSITY)
    rank = max((c.rank for c in sparse), default=MENU_RANK)
    return decompose_source(source, path, method, density, rank, request, progress)


def decompose_source(
    source: Source, path: Path, method: str, density: float, rank: int,
    request: Request, progress: Progress | None, *, replace: bool = False, balance: bool = False,
) -> StructuredCheckpoint:  # fmt: skip
    """The checkpoint `path` of a dense model: calibrated, decomposed and, if asked for, matched."""
    from slc.compiler.structure.block_matching import check_matchable, match_blocks
    from slc.compiler.structure.calibration import activation_moments, activation_statistics
    from slc.compiler.structure.decompose import decompose

    text = request.text()
    statistics = moments = None
    if request.match_blocks is not None and text is not None:
        check_matchable(source, text)  # before the slow part
    if text is not None and method == "oats":
        statistics = activation_statistics(source, text, progress=progress)
    elif text is not None:
        moments = partial(activation_moments, source, text, progress=progress)
    first = path.with_name(f".{path.name}.unmatched.slr") if request.match_blocks else path
    checkpoint = decompose(
        source, first, method=method, density=density, rank=rank, statistics=statistics,
        moments=moments, value_type=_integers(method, request.values), group=request.group,
        balance=balance, iterations=request.iterations, jobs=request.jobs,
        replace=replace or first != path, progress=as_stage(progress, f"decomposing by {method}"),
    )  # fmt: skip
    if request.match_blocks is None or text is None:
        return checkpoint
    matched = match_blocks(
        source, checkpoint, path, text, steps=request.match_blocks, replace=replace,
        progress=as_stage(progress, "matching blocks"),
    )  # fmt: skip
    shutil.rmtree(first)  # not before: a run that is stopped while matching goes on from it
    return matched


def check_rounding(request: Request) -> None:
    """What `structure` can round S for."""
    if request.values not in ("auto", "f16", "i8", "i4"):
        raise RequestError(f"--values: got {request.values!r}, wanted auto, f16, i8 or i4")
    method = request.chosen_method()
    if request.values in ("i8", "i4") and method != "hessian":
        raise RequestError(
            f"--values {request.values}: got the method {method}, wanted hessian, the default with "
            "--calibrate FILE; the others are rounded by slc export, so give --values there"
        )
    if request.group < 64 or request.group % 64:
        raise RequestError(f"--group: got {request.group}, wanted a positive multiple of 64")


def _integers(method: str, values: str) -> IntegerType | None:
    """The value type that S is rounded for while it is made; other methods leave it to export."""
    if method != "hessian":
        return None
    return "i8" if values == "i8" else "i4" if values == "i4" else None


def check_free(path: Path, force: bool) -> None:
    """Deletes nothing: a checkpoint that is to be replaced goes when the new one is whole."""
    if not path.exists():
        return
    if not force:
        raise RequestError(f"{path} exists; pass --force or another name")
    if not (path / "slr.json").exists():
        raise RequestError(f"{path} exists and is no structured checkpoint; choose another name")


def check_apart(save_structured: PathLike | None, out: Path, values: str) -> None:
    """A checkpoint to keep needs a place of its own, and something to hold."""
    if save_structured is None:
        return
    path, out = Path(save_structured).resolve(), out.resolve()
    if path.exists():
        raise RequestError(f"--save-structured {save_structured} exists; choose another name")
    if path == out or out in path.parents or path in out.parents:
        raise RequestError(
            f"--save-structured {save_structured} and the artifact {out.name} lie inside each "
            "other; choose a place outside"
        )
    if values == "dense":
        raise RequestError("--save-structured has nothing to keep with --values dense; drop one")


def check_repricing(source: Source, request: Request, *, by_hand: bool) -> None:
    """Refuses what would change a checkpoint that is only to get a menu."""
    others = request.method or request.iterations or request.match_blocks
    if request.text() is None or by_hand or others or request.values != "auto":
        raise RequestError(
            f"{source.path.name} is a structured checkpoint already: slc export takes it, and any "
            "slice of it, as it is. --calibrate FILE alone measures what its slices lose and keeps "
            "that in OUT; to decompose otherwise start from the dense model"
        )


def check_slice(source: Source, request: Request, save_structured: PathLike | None) -> None:
    """Refuses what only a dense model takes."""
    if request.method or request.iterations or request.match_blocks or save_structured:
        raise RequestError(
            f"{source.path.name} is a structured checkpoint already: leave out --method, "
            "--iterations, --match-blocks and --save-structured, or start from the dense model"
        )
