"""Export, plan and structure, as Python functions; the command line is a thin skin over them."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slc.compiler.errors import RequestError
from slc.compiler.progress import Progress, as_stage

if TYPE_CHECKING:
    from slc.compiler.budget import Plan
    from slc.compiler.frontends.adapters import PeftAdapter
    from slc.compiler.frontends.source import Source
    from slc.compiler.structure.checkpoint import StructuredCheckpoint
    from slc.targets import Target

PathLike = str | Path

METHODS = ("salr", "oats")
DEFAULT_RANK = 32


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for: the options of `slc export` and `slc plan`.

    Attributes:
      device: a name that `slc devices` lists, or the path of a TOML profile.
      mem: what the session may add to its process ("4GB", "512MiB"); None: what the device has.
      density, rank: of every Linear's S and residual adapter; None: chosen by `mem`.
      values: value type of S: "auto", "f16" or "i8"; "dense" compresses nothing.
      group: columns that share a scale of i8 values.
      context: tokens that the session must hold; None: what the model allows, at most 2048.
      batch: sequences at a time.
      provider: execution provider; None: the device's.
      method: "salr" or "oats"; None: oats when `calibrate` is given, else salr.
      calibrate: calibration text or inputs.
      adapters: PEFT LoRA folders as "PATH" or "PATH=NAME".
      adapter_slots: slots per Linear for adapters that are loaded at run time.
      jobs: matrices worked on at a time; None: one per core.
    """

    device: str = "host"
    mem: str | int | None = None
    density: float | None = None
    rank: int | None = None
    values: str = "auto"
    group: int = 64
    context: int | None = None
    batch: int = 1
    provider: str | None = None
    method: str | None = None
    calibrate: PathLike | None = None
    adapters: Sequence[str] = ()
    adapter_slots: int = 0
    jobs: int | None = None

    def chosen_method(self) -> str:
        """The method after defaults.

        Raises:
          RequestError: an unknown method, or oats without calibration.
        """
        method = self.method or ("oats" if self.calibrate else "salr")
        if method not in METHODS:
            raise RequestError(f"--method {method}: got {method!r}, wanted one of {list(METHODS)}")
        if method == "oats" and not self.calibrate:
            raise RequestError(
                "--method oats needs activation statistics: got no --calibrate FILE, wanted a text "
                "file with a few hundred lines like those the model will see"
            )
        return method


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

    request = _request(options)
    target = _target(request)
    method = request.chosen_method()
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

    request = _request(options)
    target = _target(request)
    method = request.chosen_method()
    with staged(Path(out), force=force) as folder, _scratch(folder) as work:
        source = load_torch(
            module, example_inputs, workdir=work, dynamic_shapes=dynamic_shapes,
            input_names=input_names, output_names=output_names,
        )  # fmt: skip
        _export_source(source, target, request, method, folder, work, save_structured, progress)
    return Path(out)


def plan(
    model: PathLike, *, progress: Progress | None = None, **options: Any
) -> tuple[Plan, Target]:
    """Says what `export` with the same options would choose and need, and writes nothing.

    Returns:
      (the plan, the target it is for).

    Raises:
      SlcError: the input or the request is wrong, or nothing fits.
    """
    from slc.compiler.frontends import load

    request = _request(options)
    target = _target(request)
    with tempfile.TemporaryDirectory(prefix="slc-plan-") as work:
        source = load(Path(model), workdir=Path(work), target=target, progress=progress)
        adapters = _adapters(source, request)
        return _choose(source, target, request, adapters), target


def structure(
    model: PathLike,
    out: PathLike,
    *,
    density: float = 1.0,
    rank: int = DEFAULT_RANK,
    method: str | None = None,
    calibrate: PathLike | None = None,
    jobs: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> StructuredCheckpoint:
    """Makes the structured checkpoint `out` (NAME.slr): the slow, once-only half of an export.

    Args:
      model: as for `export`.
      out: the .slr folder to make.
      density: ceiling of S's density; any lower one is a prefix.
      rank: ceiling of the residual adapter's rank; any lower one is a prefix.
      method: "salr" or "oats"; None: oats when `calibrate` is given.
      calibrate: calibration text or inputs.
      jobs: matrices worked on at a time.
      force: replace a checkpoint that is there already.
      progress: called as progress(done, total, what).

    Raises:
      SlcError: the input or the request is wrong.
    """
    from slc.compiler.frontends import load

    request = Request(method=method, calibrate=calibrate, jobs=jobs)
    chosen = request.chosen_method()
    path = Path(out)
    _check_new(path, force)
    with tempfile.TemporaryDirectory(prefix="slc-structure-") as work:
        source = load(Path(model), workdir=Path(work), progress=progress)
        return _decompose(source, path, chosen, density, rank, request, progress)


def _request(options: dict[str, Any]) -> Request:
    known = {field.name for field in dataclasses.fields(Request)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise RequestError(f"unknown option {unknown[0]!r}: wanted one of {sorted(known)}")
    request = Request(**options)
    for name, least in (("adapter_slots", 0), ("jobs", 1)):
        value = getattr(request, name)
        if value is not None and (not isinstance(value, int) or value < least):
            option = name.replace("_", "-")
            raise RequestError(f"--{option}: got {value}, wanted an integer of at least {least}")
    return request


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


def _choose(source: Source, target: Target, request: Request, adapters: list[PeftAdapter]) -> Plan:
    from slc.compiler.budget import BudgetOptions
    from slc.compiler.budget import plan as plan_budget
    from slc.compiler.budget.sizes import parse_size
    from slc.compiler.passes import runtime_versions

    reason = runtime_versions.refusal(source.graph, _ort_min(target))
    if reason:
        raise RequestError(
            f"{source.path.name} can't run on {target.name}: {reason}; export the model at an "
            "older opset or choose a device with a newer onnxruntime"
        )
    mem = parse_size(request.mem) if isinstance(request.mem, str) else request.mem
    options = BudgetOptions(
        density=request.density,
        rank=request.rank,
        values=request.values,
        mem_bytes=mem,
        context=request.context,
        batch=request.batch,
        group=request.group,
        extra_adapter_ranks=_extra_ranks(adapters, request),
    )
    return plan_budget(source, target, options)


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

    loaded: list[PeftAdapter] = []
    for text in request.adapters:
        path, _, name = text.partition("=")
        name = name or Path(path).name
        if any(other.name == name for other in loaded):
            raise RequestError(
                f"--adapter {text}: the name {name!r} is taken; add =NAME to tell them apart"
            )
        loaded.append(load_peft(Path(path), name, source))
    return loaded


def _export_source(
    source: Source, target: Target, request: Request, method: str, folder: Path, work: Path,
    save_structured: PathLike | None, progress: Progress | None,
) -> None:  # fmt: skip
    from slc.compiler.artifact.assemble import assemble
    from slc.compiler.frontends.weights import matrix, weight_tensor
    from slc.compiler.passes.lowering import Lowering
    from slc.compiler.pipeline import lower

    if save_structured is not None:
        _check_new(Path(save_structured), force=False)
    adapters = _adapters(source, request)
    plan = _choose(source, target, request, adapters)
    slotted = adapters if request.adapter_slots else []
    checkpoint = _checkpoint(source, plan, request, method, save_structured, work, progress)
    # The passes take weights out of the graph before the writer asks for them.
    tensors = {linear.name: weight_tensor(source.graph, linear.weight) for linear in source.linears}
    lowering = Lowering(
        linears=source.linears,
        choices={choice.linear: choice for choice in plan.choices},
        checkpoint=checkpoint,
        weight=lambda linear: matrix(tensors[linear.name], linear.transposed),
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


def _checkpoint(
    source: Source, plan: Plan, request: Request, method: str,
    save_structured: PathLike | None, work: Path, progress: Progress | None,
) -> StructuredCheckpoint | None:  # fmt: skip
    """The source's own checkpoint, or a new one at the densities and ranks that were chosen."""
    if source.checkpoint is not None:
        return source.checkpoint
    sparse = [c for c in plan.choices if c.encoding == "bitmap"]
    if not sparse:
        return None
    path = Path(save_structured) if save_structured else work / "model.slr"
    density, rank = max(c.density for c in sparse), max(c.rank for c in sparse)
    return _decompose(source, path, method, density, rank, request, progress)


def _decompose(
    source: Source, path: Path, method: str, density: float, rank: int,
    request: Request, progress: Progress | None,
) -> StructuredCheckpoint:  # fmt: skip
    from slc.compiler.structure.calibration import activation_statistics
    from slc.compiler.structure.decompose import decompose

    statistics = None
    if request.calibrate is not None and method == "oats":
        statistics = activation_statistics(source, Path(request.calibrate), progress=progress)
    return decompose(
        source, path, method=method, density=density, rank=rank, statistics=statistics,
        jobs=request.jobs, progress=as_stage(progress, f"decomposing by {method}"),
    )  # fmt: skip


def _check_new(path: Path, force: bool) -> None:
    if not path.exists():
        return
    if not force:
        raise RequestError(f"{path} exists; pass --force or another name")
    if not (path / "slr.json").exists():
        raise RequestError(f"{path} exists and is no structured checkpoint; choose another name")
    shutil.rmtree(path)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for graphs and checkpoints in the making; gone before the artifact is renamed."""
    work = folder / ".work"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
