"""What the user may ask of the budget stage, and whether it makes sense."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from slc.compiler.budget.choice import AdapterType
from slc.compiler.budget.encodings import FLOAT_LEVEL, INT8_LEVEL
from slc.compiler.budget.sizes import format_size
from slc.compiler.errors import RequestError

if TYPE_CHECKING:
    from slc.compiler.frontends.source import Source

DEFAULT_DENSITY = 0.5
DEFAULT_RANK = 32
CONTEXT_MAX_DEFAULT = 2048  # a longer one has to be asked for: its cache may outweigh the model
CONTEXT_UNSTATED = 512  # for graphs that state no limit
GROUP_MAX = 1 << 20  # columns; no matrix is wider
DENSE_ALLOCATIONS = ("dense_int8", "dense_int4")
ALLOCATIONS = ("auto", "best", "uniform", "hpa", *DENSE_ALLOCATIONS)
VALUES = ("auto", "f16", "i8", "i4", "dense")
INTEGER_VALUES = ("i8", "i4")
ADAPTER_VALUES: tuple[AdapterType, ...] = ("f16", "i8")


@dataclasses.dataclass(frozen=True)
class BudgetOptions:
    """The options of `slc export` and `slc plan` that decide sizes.

    Attributes:
      density: of every S, 0 … 1; None: by budget.
      rank: of every residual adapter; None: by budget.
      values: "auto", "f16", "i8" or "i4"; "dense" leaves every weight as it is, to compare with.
      mem_bytes: what the session may add to its process; None: what the device can spare.
      context: tokens per sequence, prompt and answer; None: the model's, at most 2048.
      batch: sequences at a time.
      group: columns that share a scale of i8 or i4 values, a multiple of 64, at most 2^20.
      extra_adapter_ranks: rank that static task adapters add, by Linear name.
      head: "bitmap" (i8 at density 1) or "int8" (onnxruntime's MatMulNBits) for lm_head.
      accuracy_level: of our operator, 1 (f32 activations) or 4 (int8); None: 4 for i8 and i4
        values, else 1.
      gamma: with a budget, the part of what is removed that the adapters give and S need not
        (SALAAD's allocation); None shrinks both by one ratio.
      allocation: with a budget, how it is divided: "best" by the errors of a menu, "uniform" by one
        ratio for all, "hpa" as `gamma` says, "dense_int8" and "dense_int4" every Linear alike;
        "auto" is the best.
      max_latency_ms: what a decoder may take for a token at half of the context, predicted.
      adapter_values: "f16" or "i8", of every residual adapter; task adapters are f16.
      logits: "last" or "all" tokens' of a decoder.
    """

    density: float | None = None
    rank: int | None = None
    values: str = "auto"
    mem_bytes: int | None = None
    context: int | None = None
    batch: int = 1
    group: int = 64
    extra_adapter_ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    head: str = "bitmap"
    accuracy_level: int | None = None
    gamma: float | None = None
    allocation: str = "auto"
    max_latency_ms: float | None = None
    adapter_values: str = "f16"
    logits: str = "last"


def check_options(options: BudgetOptions) -> None:
    """Refuses values that no model could take.

    Raises:
      RequestError: names the option, what was got and what was wanted.
    """
    density, rank = options.density, options.rank
    if density is not None and not 0.0 <= density <= 1.0:  # NaN fails as well
        raise RequestError(f"--density: got {density}, wanted a number from 0 to 1")
    if rank is not None and (rank != int(rank) or rank < 0):
        raise RequestError(f"--rank: got {rank}, wanted an integer of at least 0")
    if options.values not in VALUES:
        raise RequestError(f"--values: got {options.values!r}, wanted one of {', '.join(VALUES)}")
    chosen_adapter_type(options)
    if options.batch < 1:
        raise RequestError(f"--batch: got {options.batch}, wanted at least 1")
    if options.group < 64 or options.group % 64 or options.group > GROUP_MAX:
        raise RequestError(f"--group: got {options.group}, wanted a multiple of 64 of at most 2^20")
    if options.context is not None and options.context < 1:
        raise RequestError(f"--context: got {options.context}, wanted at least 1")
    if options.mem_bytes is not None and options.mem_bytes < 1:
        raise RequestError(f"--mem: got {options.mem_bytes}, wanted a size such as 4GB")
    level = options.accuracy_level
    if level not in (None, FLOAT_LEVEL, INT8_LEVEL):
        raise RequestError(f"--accuracy-level: got {level}, wanted 1 or 4")
    if options.gamma is not None and not 0.0 <= options.gamma <= 1.0:
        raise RequestError(f"--gamma: got {options.gamma}, wanted a number from 0 to 1")
    by_hand = options.density is not None or options.rank is not None
    if options.gamma is not None and (options.mem_bytes is None or by_hand):
        beside = "--density or --rank" if by_hand else "no --mem"
        raise RequestError(
            f"--gamma: got {options.gamma} with {beside}, "
            "wanted --mem alone: it divides what a budget takes away between S and the adapters"
        )
    if options.max_latency_ms is not None and not 0 < options.max_latency_ms < math.inf:
        raise RequestError(
            f"--max-latency: got {options.max_latency_ms}, wanted milliseconds above 0"
        )
    if options.allocation not in ALLOCATIONS:
        raise RequestError(
            f"--allocation: got {options.allocation!r}, wanted one of {', '.join(ALLOCATIONS)}"
        )
    if options.gamma is not None and options.allocation in ("best", "uniform"):
        raise RequestError(
            f"--gamma: got {options.gamma} with --allocation {options.allocation}, wanted hpa: "
            "only that one divides by it"
        )
    if options.head not in ("bitmap", "int8"):
        raise RequestError(f"head: got {options.head!r}, wanted 'bitmap' or 'int8'")


def chosen_adapter_type(options: BudgetOptions) -> AdapterType:
    """The value type of the residual adapters.

    Raises:
      RequestError: there is no such type.
    """
    for adapter_type in ADAPTER_VALUES:
        if options.adapter_values == adapter_type:
            return adapter_type
    raise RequestError(f"--adapter-values: got {options.adapter_values!r}, wanted f16 or i8")


def check_level(options: BudgetOptions) -> None:
    """Refuses int8 activations where all values are f16.

    Raises:
      RequestError: says what would do.
    """
    if options.accuracy_level == INT8_LEVEL and options.values not in INTEGER_VALUES:
        raise RequestError(
            f"--accuracy-level: got 4 with --values {options.values}, wanted 1, or --values i8 or "
            "i4: int8 activations need integer weights"
        )


def chosen_level(options: BudgetOptions) -> int:
    """The accuracy level after defaults."""
    if options.accuracy_level is not None:
        return options.accuracy_level
    return INT8_LEVEL if options.values in INTEGER_VALUES else FLOAT_LEVEL


def on_gpu(options: BudgetOptions) -> BudgetOptions:
    """The options for kernels whose activations are f16.

    Raises:
      RequestError: int8 activations were asked for.
    """
    if options.accuracy_level == INT8_LEVEL:
        raise RequestError(
            "--accuracy-level: got 4 with --provider cuda, wanted 1 or none: activations are f16 "
            "on GPUs"
        )
    return dataclasses.replace(options, accuracy_level=FLOAT_LEVEL)


def context_limit(source: Source) -> int | None:
    """The most tokens that the model's positions allow; None where it states no limit."""
    if source.genai_config is not None:
        return int(source.genai_config["model"]["context_length"])
    if source.hf_folder is None:
        return None
    config = source.hf_folder / "config.json"
    if not config.is_file():
        return None
    stated = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings")
    if not isinstance(stated, int) or stated < 1:
        return None
    # RoBERTa's family counts positions from pad_token_id + 1 = 2 on: 514 rows serve 512 tokens.
    return stated - 2 if stated % 128 == 2 and stated > 2 else stated


def chosen_context(source: Source, options: BudgetOptions) -> int:
    """The context after defaults.

    Raises:
      RequestError: more than the model's positions allow.
    """
    limit = context_limit(source)
    if options.context is None:
        return CONTEXT_UNSTATED if limit is None else min(limit, CONTEXT_MAX_DEFAULT)
    if limit is not None and options.context > limit:
        raise RequestError(
            f"--context: got {options.context}, wanted at most the model's {limit} tokens"
        )
    return options.context


def too_small(got: int, smallest: int, what: str, parts: str, hint: str) -> str:
    """The sentence for a budget that nothing fits."""
    return (
        f"{what}: got {format_size(got)}, the smallest that fits is "
        f"{format_size(smallest, up=True)} ({parts}); pass "
        f"--mem {format_size(smallest, up=True).replace(' ', '')} or {hint}"
    )
