"""Export, plan and structure, as Python functions; the command line is a thin skin over them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slc.compiler.errors import RequestError
from slc.compiler.progress import Progress, as_stage
from slc.compiler.request import PathLike, Request, make_request

if TYPE_CHECKING:
    from slc.compiler.budget import BudgetOptions, Plan
    from slc.compiler.budget.frontier import Point
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
    from slc.compiler.artifact.staging import staged
    from slc.compiler.frontends import load

    request = make_request(options)
    target = _target(request)
    method = request.chosen_method()
    _check_apart(save_structured, Path(out), request.values)
    with staged(Path(out), force=force) as folder, _scratch(folder) as work:
        source = load(Path(model), workdir=work, target=target, progress=progress)
        _export_source(source, target, request, method, folder, work, save_structured, progress)
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
    from slc.compiler.artifact.staging import staged
    from slc.compiler.frontends import load_torch

    request = make_request(options)
    target = _target(request)
    method = request.chosen_method()
    _check_apart(save_structured, Path(out), request.values)
    with staged(Path(out), force=force) as folder, _scratch(folder) as work:
        source = load_torch(
            module, example_inputs, workdir=work, dynamic_shapes=dynamic_shapes,
            input_names=input_names, output_names=output_names,
        )  # fmt: skip
        _export_source(source, target, request, method, folder, work, save_structured, progress)
    return Path(out)


def plan(
    model: PathLike, *, compare: bool = False, progress: Progress | None = None, **options: Any
) -> tuple[Plan, Target]:
    """Says what `export` with the same options would choose and need, and writes nothing.

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
    target = _target(request)
    with tempfile.TemporaryDirectory(prefix="slc-plan-") as work:
        source = load(Path(model), workdir=Path(work), target=target, progress=progress)
        adapters = _adapters(source, request)
        method = request.chosen_method()
        menu = _menu(source, request, Path(work), progress)
        if source.checkpoint is None and _chooses(request, method):
            menu = _menu_of_dense(source, target, request, method, adapters, Path(work), progress)[
                1
            ]
        return _choose(source, target, request, adapters, menu, compare=compare), target


def frontier(
    model: PathLike, out: PathLike, *, budgets: int = 16, force: bool = False,
    progress: Progress | None = None, **options: Any,
) -> tuple[list[Point], Target]:  # fmt: skip
    """Draws what `export` would give at many budgets, as an HTML page.

    Args:
      model: a structured checkpoint with a menu, or any with `calibrate`.
      out: the page to write.
      budgets: how many.
      force: replace a file that is there already.
      progress: called as progress(done, total, what).
      **options: the fields of `Request`; device, context, batch and calibrate matter.

    Returns:
      (one point per budget, rising, the target they are for).

    Raises:
      SlcError: the input or the request is wrong.
    """
    from slc.compiler.budget.frontier import frontier as budget_frontier
    from slc.compiler.budget.frontier_page import page
    from slc.compiler.frontends import load

    request = make_request(options)
    target, path = _target(request), Path(out)
    if path.is_dir() or (path.exists() and not force):
        raise RequestError(f"{out} exists already: choose another name or pass --force")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RequestError(
            f"{out}: got a folder {str(path.parent)!r} that is not there or can't be written to, "
            "wanted one that can"
        )
    with tempfile.TemporaryDirectory(prefix="slc-frontier-") as work:
        source = load(Path(model), workdir=Path(work), target=target, progress=progress)
        menu = _menu(source, request, Path(work), progress)
        if menu is None:
            raise RequestError(
                f"{Path(model).name}: got a model whose errors were not measured, wanted an .slr "
                "made with --calibrate FILE, or --calibrate FILE here beside an .slr"
            )
        points = budget_frontier(
            source, target, _budget_options(request, {}), menu, count=budgets, progress=progress
        )
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
    density: float = 1.0,
    rank: int = 32,
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
      model: a Hugging Face folder or an .onnx file.
      out: the .slr folder to make.
      density: ceiling of S's density; any lower one is a prefix. With `balance` a part of what
        every matrix may spend.
      rank: ceiling of the residual adapter's rank; any lower one is a prefix. Likewise with
        `balance`.
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
    _check_rounding(request)
    chosen = request.chosen_method()
    if balance and chosen != "hessian":
        raise RequestError(
            f"--balance: got the method {chosen}, wanted hessian, the default with --calibrate FILE"
        )
    path = Path(out)
    _check_free(path, force)
    if path.resolve() == Path(model).resolve():
        raise RequestError(f"{out} is the model itself; choose another name for the checkpoint")
    with tempfile.TemporaryDirectory(prefix="slc-structure-") as work:
        source = load(Path(model), workdir=Path(work), progress=progress)
        if source.checkpoint is not None:
            raise RequestError(
                f"{source.path.name} is a structured checkpoint already: slc export takes it, and "
                "any slice of it, as it is; to decompose otherwise start from the dense model"
            )
        checkpoint = _decompose(
            source, path, chosen, density, rank, request, progress, replace=force, balance=balance
        )
        if calibrate is not None:
            _price(source, checkpoint, request, progress)
        return checkpoint


def _target(request: Request) -> Target:
    from slc.targets import load

    target = load(request.device)
    provider = request.provider or target.provider
    if provider != "cpu":
        raise RequestError(
            f"--provider {provider}: got {provider!r}, wanted 'cpu'; CUDA kernels are not offered "
            "yet"
        )
    return target


def _ort_min(target: Target) -> tuple[int, int]:
    from slc.targets.target import version_tuple

    major, minor = version_tuple(target.ort_min)[:2]
    return major, minor


def _choose(
    source: Source, target: Target, request: Request, adapters: list[PeftAdapter],
    menu: Menu | None, *, compare: bool = False,
) -> Plan:  # fmt: skip
    from slc.compiler.budget import plan as plan_budget
    from slc.compiler.passes import runtime_versions

    reason = runtime_versions.refusal(source.graph, _ort_min(target))
    if reason:
        raise RequestError(f"{source.path.name} can't run on {target.name}: {reason}")
    options = _budget_options(request, _extra_ranks(adapters, request))
    return plan_budget(source, target, options, menu, compare=compare)


def _budget_options(request: Request, extra_ranks: dict[str, int]) -> BudgetOptions:
    from slc.compiler.budget import BudgetOptions
    from slc.compiler.budget.sizes import parse_size

    return BudgetOptions(
        density=request.density,
        rank=request.rank,
        values=request.values,
        mem_bytes=parse_size(request.mem) if isinstance(request.mem, str) else request.mem,
        context=request.context,
        batch=request.batch,
        group=request.group,
        accuracy_level=request.accuracy_level,
        gamma=request.gamma,
        allocation=request.allocation,
        max_latency_ms=request.max_latency,
        extra_adapter_ranks=extra_ranks,
        adapter_values=request.adapter_values,
    )


def _extra_ranks(adapters: list[PeftAdapter], request: Request) -> dict[str, int]:
    """Rank that static task adapters add to each Linear."""
    ranks: dict[str, int] = {}
    if request.adapter_slots:
        return ranks
    for adapter in adapters:
        for name, (a, _) in adapter.modules.items():
            ranks[name] = ranks.get(name, 0) + int(a.shape[0])
    return ranks


def _adapters(source: Source, request: Request) -> list[PeftAdapter]:
    from slc.compiler.frontends.adapters import load_peft

    return [load_peft(path, name, source) for path, name in request.named_adapters()]


def _export_source(
    source: Source, target: Target, request: Request, method: str, folder: Path, work: Path,
    save_structured: PathLike | None, progress: Progress | None,
) -> None:  # fmt: skip
    from slc.compiler.artifact.assemble import assemble
    from slc.compiler.frontends.weights import matrix, weight_tensor
    from slc.compiler.passes.lowering import Lowering
    from slc.compiler.pipeline import lower

    if source.checkpoint is not None:
        _check_slice(source, request, save_structured)
        method = source.checkpoint.meta.method
    adapters = _adapters(source, request)
    checkpoint, menu = source.checkpoint, _menu(source, request, work, progress)
    if checkpoint is None and _chooses(request, method):
        path = Path(save_structured) if save_structured else work / "model.slr"
        checkpoint, menu = _menu_of_dense(
            source, target, request, method, adapters, path.parent, progress, path.name
        )
    plan = _choose(source, target, request, adapters, menu)
    slotted = adapters if request.adapter_slots else []
    if checkpoint is None:
        checkpoint = _sliced(source, plan, request, method, save_structured, work, progress)
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
    )
    lower(source.graph, lowering, _ort_min(target))
    assemble(source, target, request, plan, method, slotted, folder, progress)


def _static(adapters: list[PeftAdapter]) -> dict[str, list[Any]]:
    pairs: dict[str, list[Any]] = {}
    for adapter in adapters:
        for name, pair in adapter.modules.items():
            pairs.setdefault(name, []).append(pair)
    return pairs


def _check_slice(source: Source, request: Request, save_structured: PathLike | None) -> None:
    """Refuses what only a dense model takes."""
    if request.method or request.iterations or request.match_blocks or save_structured:
        raise RequestError(
            f"{source.path.name} is a structured checkpoint already: leave out --method, "
            "--iterations, --match-blocks and --save-structured, or start from the dense model"
        )


def _chooses(request: Request, method: str) -> bool:
    """Whether a dense model is to be stored by measured errors: then all options are made first."""
    by_hand = request.density is not None or request.rank is not None or request.mem is None
    left_open = request.values == "auto" and request.allocation in ("auto", "best")
    return left_open and not by_hand and request.gamma is None and method == "hessian"


def _menu(source: Source, request: Request, work: Path, progress: Progress | None) -> Menu | None:
    """The menu of a checkpoint; with calibration text one of this run, which is not kept."""
    from slc.compiler.structure.menu import open_menu

    if source.checkpoint is None:
        return None
    if request.calibrate is not None:
        return _price(source, source.checkpoint, request, progress, work / "menu")
    return open_menu(source.checkpoint.path)


def _menu_of_dense(
    source: Source, target: Target, request: Request, method: str, adapters: list[PeftAdapter],
    folder: Path, progress: Progress | None, name: str = "model.slr",
) -> tuple[StructuredCheckpoint, Menu]:  # fmt: skip
    """Decomposes a dense model and measures its options, once the budget is known to be possible.

    Raises:
      BudgetError: nothing fits.
    """
    _choose(source, target, request, adapters, None)  # minutes before it would be found otherwise
    checkpoint = _decompose(
        source, folder / name, method, MENU_DENSITY, MENU_RANK, request, progress
    )
    return checkpoint, _price(source, checkpoint, request, progress)


def _price(
    source: Source, checkpoint: StructuredCheckpoint, request: Request,
    progress: Progress | None, folder: Path | None = None,
) -> Menu:  # fmt: skip
    """Measures the errors of all options with the calibration text; None keeps them with it."""
    from slc.compiler.structure.menu_maker import make_menu

    assert request.calibrate is not None
    text = Path(request.calibrate)
    return make_menu(
        source, checkpoint, text, calibration=text.name, folder=folder, jobs=request.jobs,
        progress=progress,
    )  # fmt: skip


def _sliced(
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
    return _decompose(source, path, method, density, rank, request, progress)


def _decompose(
    source: Source, path: Path, method: str, density: float, rank: int,
    request: Request, progress: Progress | None, *, replace: bool = False, balance: bool = False,
) -> StructuredCheckpoint:  # fmt: skip
    from slc.compiler.structure.block_matching import check_matchable, match_blocks
    from slc.compiler.structure.calibration import activation_grams, activation_statistics
    from slc.compiler.structure.decompose import decompose

    text = Path(request.calibrate) if request.calibrate is not None else None
    statistics = grams = None
    if request.match_blocks is not None and text is not None:
        check_matchable(source, text)  # before the slow part
    if text is not None and method == "oats":
        statistics = activation_statistics(source, text, progress=progress)
    elif text is not None:
        grams = partial(activation_grams, source, text, progress=progress)
    first = path.with_name(f".{path.name}.unmatched.slr") if request.match_blocks else path
    checkpoint = decompose(
        source, first, method=method, density=density, rank=rank, statistics=statistics,
        grams=grams, value_type=_integers(method, request.values), group=request.group,
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


def _check_rounding(request: Request) -> None:
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


def _check_free(path: Path, force: bool) -> None:
    """Deletes nothing: a checkpoint that is to be replaced goes when the new one is whole."""
    if not path.exists():
        return
    if not force:
        raise RequestError(f"{path} exists; pass --force or another name")
    if not (path / "slr.json").exists():
        raise RequestError(f"{path} exists and is no structured checkpoint; choose another name")


def _check_apart(save_structured: PathLike | None, out: Path, values: str) -> None:
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


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for graphs and checkpoints in the making; gone before the artifact is renamed."""
    work = folder / ".work"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
