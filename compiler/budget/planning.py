"""A plan: what every Linear becomes on a target, and what the session will need."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from slc.compiler.budget.alternatives import (
    Alternative,
    alternatives,
    dense_int4,
    dense_int8,
)
from slc.compiler.budget.choice import Choice
from slc.compiler.budget.cost_plan import CostPlan
from slc.compiler.budget.encodings import (
    FLOAT_LEVEL,
    INT8_LEVEL,
    SparseValues,
    Storage,
    blob_layout,
    dense_choice,
)
from slc.compiler.budget.memory import MemoryPlan, Workload
from slc.compiler.budget.menu_errors import choice_error
from slc.compiler.budget.notes import plan_notes
from slc.compiler.budget.options import (
    DEFAULT_DENSITY,
    DEFAULT_RANK,
    DENSE_ALLOCATIONS,
    BudgetOptions,
    check_level,
    check_options,
    chosen_adapter_type,
    chosen_context,
    chosen_level,
    on_gpu,
)
from slc.compiler.budget.sizes import format_size
from slc.compiler.budget.stage import Stage
from slc.compiler.budget.typical import typical_menu
from slc.compiler.errors import BudgetError, RequestError
from slc.compiler.linear import Refusal

if TYPE_CHECKING:
    from slc.compiler.frontends.source import Source
    from slc.compiler.structure.menu import Prices
    from slc.targets import Target

_VALUES: dict[str, SparseValues] = {"i8": "i8", "i4": "i4"}  # "auto" and "dense" are f16


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be exported, and what it will need.

    Attributes:
      choices: one per Linear, in graph order.
      memory: the predicted session memory, line by line.
      refusals: weights that can't be Linears, and why.
      context: tokens per sequence.
      batch: sequences at a time.
      values: value type of S, after "auto".
      accuracy_level: of our operator where it has a choice, after defaults.
      budget_bytes: of --mem; None when the user gave none.
      allowed_bytes: what the session must stay within: the budget, or what the device can spare.
      notes: decisions that the user did not ask for, a sentence each.
      allocation: "hand", "dense", "uniform", "hpa", "best", "dense_int8" or "dense_int4".
      error: predicted error of the model's output (sensitivity.py); None where nothing predicts it.
      error_bound: no other choice for this budget has a lower one; None likewise.
      speed: what a token takes at half of the context, predicted; None of what is no decoder.
      alternatives: what else there would be at this budget, where it was asked for.
    """

    choices: tuple[Choice, ...]
    memory: MemoryPlan
    refusals: tuple[Refusal, ...]
    context: int
    batch: int
    values: SparseValues
    accuracy_level: int
    budget_bytes: int | None
    allowed_bytes: int
    notes: tuple[str, ...] = ()
    allocation: str = "hand"
    error: float | None = None
    error_bound: float | None = None
    speed: CostPlan | None = None
    alternatives: tuple[Alternative, ...] = ()


def plan(
    source: Source, target: Target, options: BudgetOptions, menu: Prices | None = None,
    *, compare: bool = False,
) -> Plan:  # fmt: skip
    """Chooses the encoding, density and rank of every Linear.

    By hand when density or rank are given; by `--mem` for the least error, or at one ratio where
    that or a value type is asked for; else at density 0.5 and rank 32, or at all that a checkpoint
    holds.

    Args:
      source: the model.
      target: the device.
      options: of the budget.
      menu: of the checkpoint that will be exported; None takes typical errors.
      compare: also reckon the alternatives.

    Raises:
      RequestError: an option's value can't be.
      BudgetError: nothing fits, or what was asked for by hand does not; carries the smallest.
    """
    check_options(options)
    gpu = target.provider == "cuda"
    if gpu:
        options = on_gpu(options)
    allocation = chosen_allocation(options, gpu=gpu)
    by_default = (options.mem_bytes, options.density, options.rank) == (None, None, None)
    try:
        return _plan(source, target, options, menu, allocation, compare=compare)
    except BudgetError:
        if allocation != "hand" or not by_default:
            raise
    # The defaults do not fit: what the device can spare decides.
    spare = dataclasses.replace(options, mem_bytes=target.usable_bytes)
    allocation = chosen_allocation(spare, gpu=gpu)
    found = _plan(source, target, options, menu, allocation, compare=compare)
    note = (
        f"no --mem was given and density {DEFAULT_DENSITY}, rank {DEFAULT_RANK} do not fit: chosen "
        f"for the {format_size(target.usable_bytes)} that {target.name} can spare"
    )
    return dataclasses.replace(found, notes=(note, *found.notes))


def _plan(
    source: Source, target: Target, options: BudgetOptions, menu: Prices | None, allocation: str,
    *, compare: bool,
) -> Plan:  # fmt: skip
    """The plan by one allocation."""
    asked = options
    priced = typical_menu(source) if menu is None else menu
    menu = priced if allocation == "best" else None
    if allocation != "best":
        menu, options = None, _with_stored_values(source, options)
        check_level(options)
    context = chosen_context(source, options)
    source = _fitted(source, context, options.logits, half=target.provider == "cuda")
    cuda = target.provider == "cuda"
    workload = Workload(options.batch, context, source.genai_config, target.ort_min, cuda)
    storage = Storage(
        _VALUES.get(options.values, "f16"), options.group, blob_layout(target),
        chosen_level(options), chosen_adapter_type(options),
    )  # fmt: skip
    stage = Stage(source, target, options, workload, storage)
    best = None if menu is None else stage.best(menu)
    choices = _chosen(stage, allocation, priced) if best is None else list(best.choices)
    memory = stage.predict(choices)
    if memory.total_bytes > stage.allowed:
        raise stage.error(choices, memory)
    speed = stage.speed(choices)
    return Plan(
        _predicted(stage, choices, menu, timed=speed is not None), memory,
        tuple(source.refusals), workload.context, workload.batch,
        storage.values, storage.accuracy_level, options.mem_bytes, stage.allowed,
        plan_notes(source, target, asked, options, menu, by_hand=allocation == "hand"), allocation,
        None if best is None else best.error, None if best is None else best.bound,
        speed,
        _compared(source, target, options, workload, priced) if compare else (),
    )  # fmt: skip


def _fitted(source: Source, context: int, logits: str, *, half: bool) -> Source:
    """The source with the graph that an export starts from, or for a GPU ends with, in f16."""
    from slc.compiler.pipeline import fit, halve

    if source.genai_config is None and not half:
        return source
    graph, linears = source.graph.clone(), source.linears
    if source.genai_config is not None:
        fit(graph, context, logits)
    if half:
        halve(graph, source.genai_config)
        linears = [dataclasses.replace(linear, itemsize=2) for linear in linears]
    return dataclasses.replace(source, graph=graph, linears=linears)


def _chosen(stage: Stage, allocation: str, priced: Prices) -> list[Choice]:
    """The Choices of every allocation but the best."""
    if allocation in DENSE_ALLOCATIONS:
        rate = dense_int8 if allocation == "dense_int8" else dense_int4
        return list(rate(stage, priced).choices)
    if allocation == "dense":
        return [dense_choice(li, "--values dense asked for it") for li in stage.linears]
    return stage.by_hand() if allocation == "hand" else stage.by_budget()


def _predicted(
    stage: Stage, choices: list[Choice], menu: Prices | None, *, timed: bool
) -> tuple[Choice, ...]:
    """The choices with their own part of the error and of the time."""
    return tuple(
        dataclasses.replace(
            choice,
            error=None if menu is None else choice_error(menu, choice, stage.structured),
            us=stage.linear_us(linear, choice) if timed else None,
        )
        for linear, choice in zip(stage.linears, choices, strict=True)
    )


def _compared(
    source: Source, target: Target, options: BudgetOptions, workload: Workload, menu: Prices
) -> tuple[Alternative, ...]:
    """The alternatives, S in every value type and adapters in int8: each at its best."""
    types: tuple[SparseValues, ...] = ("f16", "i8", "i4")
    stages = []
    for values in types:
        exact = values == "f16" or target.provider == "cuda"
        level = FLOAT_LEVEL if exact else options.accuracy_level or INT8_LEVEL
        storage = Storage(values, options.group, blob_layout(target), level, "i8")
        stages.append(Stage(source, target, options, workload, storage))
    return tuple(alternatives(stages, menu))


def chosen_allocation(options: BudgetOptions, *, gpu: bool = False) -> str:
    """How the Choices are found, on a CPU or a GPU; a word of `Plan.allocation`.

    Raises:
      RequestError: time is bounded where nothing is left to choose by it.
    """
    by_hand = options.density is not None or options.rank is not None
    if options.values == "dense":
        found = "dense"
    elif by_hand or options.mem_bytes is None:
        found = "hand"
    elif options.allocation in DENSE_ALLOCATIONS and options.values == "auto":
        found = options.allocation if options.gamma is None else "hpa"
    elif options.gamma is not None or options.allocation == "hpa":
        found = "hpa"
    elif options.allocation == "uniform" or options.values != "auto":
        found = "uniform"
    else:
        found = "best"
    if found in DENSE_ALLOCATIONS and options.accuracy_level == FLOAT_LEVEL and not gpu:
        raise RequestError(
            f"--allocation {found}: got --accuracy-level 1, wanted 4: at level 1 onnxruntime may "
            "decode whole matrices in every call, which no budget counts"
        )
    if options.max_latency_ms is not None and found != "best":
        raise RequestError(
            f"--max-latency: got {options.max_latency_ms} where the choices are made by {found}, "
            "wanted --mem alone: what is quick enough is chosen with what fits"
        )
    if options.allocation not in ("auto", found):
        raise RequestError(
            f"--allocation {options.allocation}: got choices made by {found}, wanted --mem without "
            "what decides otherwise: --density, --rank, --values or --gamma"
        )
    return found


def _with_stored_values(source: Source, options: BudgetOptions) -> BudgetOptions:
    """`options` with the value type and group that a checkpoint's S was rounded for, if left open.

    Whoever names another value type gets it; the values are then rounded a second time.
    """
    checkpoint = source.checkpoint
    if options.values != "auto" or checkpoint is None:
        return options
    stored = {(e.value_type, e.group) for e in map(checkpoint.entry, checkpoint.names)}
    if len(stored) != 1:
        return options
    value_type, group = stored.pop()
    if value_type is None:
        return options
    return dataclasses.replace(options, values=value_type, group=group)


def to_json(result: Plan) -> dict[str, Any]:
    """`result` as JSON values."""
    document = dataclasses.asdict(result)
    if result.speed is not None:
        document["speed"]["us_per_token"] = result.speed.us_per_token
        document["speed"]["tokens_per_s"] = result.speed.tokens_per_s
        document["speed"]["tokens_per_s_range"] = result.speed.tokens_per_s_range
        for line in document["speed"]["lines"]:  # NaN, of figures without residuals, is no JSON
            line.update({k: None for k in ("low_us", "high_us") if math.isnan(line[k])})
    document["alternatives"] = {
        one["name"]: {key: value for key, value in one.items() if key not in ("name", "choices")}
        for one in document["alternatives"]
    }
    document["memory"]["total_bytes"] = result.memory.total_bytes
    return document
