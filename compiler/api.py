"""Export, plan and structure, as Python functions; the command line is a thin skin over them."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slc.compiler.errors import RequestError
from slc.compiler.progress import Progress
from slc.compiler.request import PathLike, Request, make_request
from slc.compiler.request_plan import (
    asked_adapters,
    budget_options,
    choose,
    chosen_logits,
    chosen_target,
    ort_min,
)
from slc.compiler.request_structure import (
    STRUCTURE_DENSITY,
    STRUCTURE_RANK,
    check_apart,
    check_free,
    check_repricing,
    check_rounding,
    check_slice,
    chooses,
    decompose_source,
    menu_of_checkpoint,
    menu_of_dense,
    price,
    repriced,
    sliced,
    with_built_in_text,
)

if TYPE_CHECKING:
    from slc.compiler.budget import Plan
    from slc.compiler.budget.frontier import Point
    from slc.compiler.frontends.adapters import PeftAdapter
    from slc.compiler.frontends.source import Source
    from slc.compiler.structure.checkpoint import StructuredCheckpoint
    from slc.targets import Target


def export(
    model: PathLike,
    out: PathLike,
    *,
    force: bool = False,
    save_structured: PathLike | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """Compiles `model` into the artifact folder `out`.

    Args:
      model: a Hugging Face folder, an .onnx file or an .slr structured checkpoint.
      out: the folder to make; it appears whole or not at all.
      force: replace an artifact that is there already.
      save_structured: also keep the structured checkpoint, at this path (NAME.slr).
      progress: called as progress(done, total, what).
      **options: the fields of `Request`.

    Returns:
      The path of the artifact.

    Raises:
      SlcError: the input or the request is wrong; nothing is left behind.
    """
    from slc.compiler.artifact.sbom import source_date
    from slc.compiler.artifact.staging import staged
    from slc.compiler.frontends import load

    request = make_request(options)
    target = chosen_target(request)
    request.chosen_method()  # refused before any work
    source_date()
    check_apart(save_structured, Path(out), request.values)
    with staged(Path(out), force=force) as folder, _scratch(folder) as work:
        source = load(Path(model), workdir=work, target=target, progress=progress)
        _export_source(source, target, request, folder, work, save_structured, progress)
    return Path(out)


def export_torch(
    module: Any, example_inputs: Any, out: PathLike, *, force: bool = False,
    save_structured: PathLike | None = None, progress: Progress | None = None,
    dynamic_shapes: Any = None, input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None, **options: Any,
) -> Path:  # fmt: skip
    """Compiles a torch `nn.Module`; arguments as `export` and `torch.onnx.export`.

    Raises:
      SlcError: the module can't be exported or the request is wrong.
    """
    from slc.compiler.artifact.sbom import source_date
    from slc.compiler.artifact.staging import staged
    from slc.compiler.frontends import load_torch

    request = make_request(options)
    target = chosen_target(request)
    request.chosen_method()  # refused before any work
    source_date()
    check_apart(save_structured, Path(out), request.values)
    with staged(Path(out), force=force) as folder, _scratch(folder) as work:
        source = load_torch(
            module, example_inputs, workdir=work, dynamic_shapes=dynamic_shapes,
            input_names=input_names, output_names=output_names,
        )  # fmt: skip
        _export_source(source, target, request, folder, work, save_structured, progress)
    return Path(out)


def plan(
    model: PathLike, *, compare: bool = False, progress: Progress | None = None, **options: Any
) -> tuple[Plan, Target]:
    """Says what `export` with the same options would choose and need, and writes nothing.

    A dense model's errors are taken as typical unless `calibrate` says by what to measure them,
    which takes minutes; `export` with `mem` measures them by itself.

    Args:
      model: as for `export`.
      compare: also reckon what else the budget could be spent on.
      progress: called as progress(done, total, what).
      **options: the fields of `Request`.

    Returns:
      (the plan, the target it is for).

    Raises:
      SlcError: the input or the request is wrong, or nothing fits.
    """
    from slc.compiler.frontends import load

    request = make_request(options)
    target = chosen_target(request)
    with tempfile.TemporaryDirectory(prefix="slc-plan-") as work:
        source = load(
            Path(model), workdir=Path(work), target=target, config_only=True, progress=progress
        )
        adapters = asked_adapters(source, request)
        method = request.chosen_method()
        menu = menu_of_checkpoint(source, request, Path(work), progress)
        if source.checkpoint is None and chooses(request, method):
            menu = menu_of_dense(source, target, request, method, adapters, Path(work), progress)[1]
        return choose(source, target, request, adapters, menu, compare=compare), target


def frontier(
    model: PathLike, out: PathLike, *, budgets: int = 16, low: str | int | None = None,
    high: str | int | None = None, force: bool = False, progress: Progress | None = None,
    **options: Any,
) -> tuple[list[Point], Target]:  # fmt: skip
    """Draws what `export` would give at many budgets, as an HTML page.

    Args:
      model: a structured checkpoint with a menu, or any with `calibrate`.
      out: the page to write.
      budgets: how many.
      low: the first of them, as `mem`; None: the smallest that fits.
      high: the last of them; None: one at which every weight has 8 bits.
      force: replace a file that is there already.
      progress: called as progress(done, total, what).
      **options: the fields of `Request`; device, context, batch and calibrate matter.

    Returns:
      (one point per budget, rising, the target they are for).

    Raises:
      SlcError: the input or the request is wrong.
    """
    from slc.compiler.budget.frontier import frontier as budget_frontier
    from slc.compiler.budget.sizes import parse_size
    from slc.compiler.frontends import load
    from slc.compiler.report.frontier_page import page

    request = make_request(options)
    first = None if low is None else parse_size(low, "--from")
    last = None if high is None else parse_size(high, "--to")
    target, path = chosen_target(request), Path(out)
    if path.is_dir() or (path.exists() and not force):
        raise RequestError(f"{out} exists already: choose another name or pass --force")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RequestError(
            f"{out}: got a folder {str(path.parent)!r} that is not there or can't be written to, "
            "wanted one that can"
        )
    with tempfile.TemporaryDirectory(prefix="slc-frontier-") as work:
        source = load(Path(model), workdir=Path(work), target=target, progress=progress)
        menu = menu_of_checkpoint(source, request, Path(work), progress)
        if menu is None:
            raise RequestError(
                f"{Path(model).name}: got a model whose errors were not measured, wanted an .slr "
                "made with --calibrate FILE, or --calibrate FILE here beside an .slr"
            )
        points = budget_frontier(
            source, target, budget_options(request, target, {}), menu, count=budgets, low=first,
            high=last, progress=progress,
        )  # fmt: skip
        unit = "divergence of the next token (nats)"
        if source.kind != "decoder":
            unit = "relative squared error of the output"
        text = page(
            points, model=Path(model).name, device=target.name, unit=unit,
            calibration=menu.calibration,
        )  # fmt: skip
        path.write_text(text, encoding="utf-8")
    return points, target


def structure(
    model: PathLike,
    out: PathLike,
    *,
    density: float | None = None,
    rank: int | None = None,
    method: str | None = None,
    calibrate: PathLike | None = None,
    iterations: int | None = None,
    match_blocks: int | None = None,
    balance: bool = False,
    values: str = "auto",
    group: int = 64,
    jobs: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> StructuredCheckpoint:
    """Makes the structured checkpoint `out` (NAME.slr): the slow, once-only half of an export.

    Args:
      model: a Hugging Face folder or an .onnx file; a structured checkpoint gets a menu by
        `calibrate` and stays what it is.
      out: the .slr folder to make.
      density: ceiling of S's density, by itself 0.7; any lower one is a prefix. With `balance` a
        part of what every matrix may spend.
      rank: ceiling of the residual adapter's rank, by itself 32; any lower one is a prefix.
        Likewise with `balance`.
      method: "salr", "oats" or "hessian"; None: hessian when `calibrate` is given, else salr.
      calibrate: calibration text or inputs.
      iterations: of hessian or oats; None: what each takes by itself.
      match_blocks: steps of block-wise matching after hessian; None: none.
      balance: let hessian choose every matrix's rank, at the bytes of `density` and `rank`.
      values: "i8" or "i4" rounds S for blobs of that type as it is made, which "hessian" does
        better than an export can afterwards; "auto" or "f16" leaves it in f32.
      group: columns that share a scale of i8 or i4 values.
      jobs: matrices worked on at a time.
      force: replace a checkpoint that is there already.
      progress: called as progress(done, total, what).

    Raises:
      SlcError: the input or the request is wrong.
    """
    from slc.compiler.frontends import load

    options = {"method": method, "calibrate": calibrate, "values": values, "group": group}
    effort = {"iterations": iterations, "match_blocks": match_blocks, "jobs": jobs}
    request = make_request({**options, **effort})
    check_rounding(request)
    chosen = request.chosen_method()
    if balance and chosen != "hessian":
        raise RequestError(
            f"--balance: got the method {chosen}, wanted hessian, the default with --calibrate FILE"
        )
    path = Path(out)
    check_free(path, force)
    if path.resolve() == Path(model).resolve():
        raise RequestError(f"{out} is the model itself; choose another name for the checkpoint")
    with tempfile.TemporaryDirectory(prefix="slc-structure-") as work:
        source = load(Path(model), workdir=Path(work), progress=progress)
        if source.checkpoint is not None:
            check_repricing(source, request, by_hand=balance or (density, rank) != (None, None))
            return repriced(source, path, request, progress, replace=force)
        checkpoint = decompose_source(
            source, path, chosen, STRUCTURE_DENSITY if density is None else density,
            STRUCTURE_RANK if rank is None else rank, request, progress, replace=force,
            balance=balance,
        )  # fmt: skip
        if request.text() is not None:
            price(source, checkpoint, request, progress)
        return checkpoint


def _export_source(
    source: Source, target: Target, request: Request, folder: Path, work: Path,
    save_structured: PathLike | None, progress: Progress | None,
) -> None:  # fmt: skip
    from slc.compiler.artifact.assemble import assemble
    from slc.compiler.frontends.weights import matrix, matrix_pieces, weight_tensor
    from slc.compiler.passes.lowering import Lowering
    from slc.compiler.pipeline import fit, halve, lower

    request = with_built_in_text(request, source)
    request = dataclasses.replace(request, logits=chosen_logits(request, target))
    method = request.chosen_method()
    if source.checkpoint is not None:
        check_slice(source, request, save_structured)
        method = source.checkpoint.meta.method
    adapters = asked_adapters(source, request)
    checkpoint, menu = source.checkpoint, menu_of_checkpoint(source, request, work, progress)
    if checkpoint is None and chooses(request, method):
        path = Path(save_structured) if save_structured else work / "model.slr"
        checkpoint, menu = menu_of_dense(
            source, target, request, method, adapters, path.parent, progress, path.name
        )
    plan = choose(source, target, request, adapters, menu)
    slotted = adapters if request.adapter_slots else []
    if checkpoint is None:
        checkpoint = sliced(source, plan, request, method, save_structured, work, progress)
    # The passes take weights out of the graph before the writer asks for them.
    tensors = {linear.name: weight_tensor(source.graph, linear.weight) for linear in source.linears}
    lowering = Lowering(
        linears=source.linears,
        choices={choice.linear: choice for choice in plan.choices},
        checkpoint=checkpoint,
        weight=lambda linear: matrix(tensors[linear.name], linear.transposed),
        menu=menu,
        adapters=_static(adapters) if not slotted else {},
        adapter_slots=request.adapter_slots,
        pieces=lambda linear: matrix_pieces(tensors[linear.name], linear.transposed),
    )
    if source.genai_config is not None:
        fit(source.graph, plan.context, request.logits)
    lower(source.graph, lowering, ort_min(target))
    if target.provider == "cuda":
        halve(source.graph, source.genai_config)
    assemble(source, target, request, plan, method, slotted, folder, progress)


def _static(adapters: list[PeftAdapter]) -> dict[str, list[Any]]:
    pairs: dict[str, list[Any]] = {}
    for adapter in adapters:
        for name, pair in adapter.modules.items():
            pairs.setdefault(name, []).append(pair)
    return pairs


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for graphs and checkpoints in the making; gone before the artifact is renamed."""
    work = folder / ".work"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
