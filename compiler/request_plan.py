"""From a request to a plan: the target, the adapters, the options of the budget."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from slc.compiler.errors import RequestError
from slc.compiler.request import Request

ADAPTER_FILES_ORT = "1.20"  # the first with LoraAdapter; 1.19.2 has none
SM_MIN = 80  # cp.async and the tensor-core products of ops/csrc/cuda

if TYPE_CHECKING:
    from slc.compiler.budget import BudgetOptions, Plan
    from slc.compiler.frontends.adapters import PeftAdapter
    from slc.compiler.frontends.source import Source
    from slc.compiler.structure.menu import Menu
    from slc.targets import Target


def chosen_target(request: Request) -> Target:
    """The device's profile, with the provider that was asked for.

    Raises:
      TargetError: there is none, or it is wrong.
      RequestError: a provider that the device has not.
    """
    from slc.targets import load

    target = load(request.device)
    if request.adapter_slots and not target.ort_at_least(ADAPTER_FILES_ORT):
        raise RequestError(
            f"--adapter-slots: got a device that promises onnxruntime {target.ort_min}, wanted "
            f"{ADAPTER_FILES_ORT} or newer, which can load adapter files: choose a device profile "
            "with a newer onnxruntime, or put adapters into the weights (--adapter alone)"
        )
    provider = request.provider or target.provider
    if provider == "cpu":
        return dataclasses.replace(target, provider="cpu")
    if provider != "cuda":
        raise RequestError(f"--provider: got {provider!r}, wanted cpu or cuda")
    if target.sm is None or target.sm < SM_MIN:
        gpu = "no GPU that CUDA runs on" if target.sm is None else f"a GPU of sm_{target.sm}"
        raise RequestError(
            f"--provider cuda: {target.name} has {gpu}, and slc's kernels want sm_{SM_MIN} or "
            "newer; pass --provider cpu"
        )
    if request.adapter_slots:
        raise RequestError(
            "--adapter-slots: got it with --provider cuda, wanted static adapters (--adapter) or "
            "--provider cpu: adapters that are loaded at run time are untested on CUDA"
        )
    return dataclasses.replace(target, provider="cuda")


def ort_min(target: Target) -> tuple[int, int]:
    """(major, minor) of the oldest onnxruntime that must run the artifact."""
    from slc.targets.target import version_tuple

    major, minor = version_tuple(target.ort_min)[:2]
    return major, minor


def choose(
    source: Source, target: Target, request: Request, adapters: list[PeftAdapter],
    menu: Menu | None, *, compare: bool = False,
) -> Plan:  # fmt: skip
    """The plan of a request.

    Raises:
      RequestError: the target's onnxruntime can't run the graph, or an option can't be.
      BudgetError: nothing fits.
    """
    from slc.compiler.budget import plan as plan_budget
    from slc.compiler.passes import runtime_versions

    reason = runtime_versions.refusal(source.graph, ort_min(target))
    if reason:
        raise RequestError(f"{source.path.name} can't run on {target.name}: {reason}")
    options = budget_options(request, target, _extra_ranks(adapters, request))
    return plan_budget(source, target, options, menu, compare=compare)


def chosen_logits(request: Request, target: Target) -> str:
    """Which logits a decoder gives, "last" or "all"; auto: what the device's genai can read."""
    from slc.compiler.passes.last_logits import GENAI_MIN
    from slc.targets.target import version_tuple

    if request.logits != "auto":
        return request.logits
    genai = target.genai_min
    return "last" if genai is None or version_tuple(genai) >= version_tuple(GENAI_MIN) else "all"


def budget_options(request: Request, target: Target, extra_ranks: dict[str, int]) -> BudgetOptions:
    """What the budget stage is asked, with the rank of task adapters by Linear name."""
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
        logits=chosen_logits(request, target),
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


def asked_adapters(source: Source, request: Request) -> list[PeftAdapter]:
    """The PEFT adapters of the request, read."""
    from slc.compiler.frontends.adapters import check_slots, load_peft
    from slc.compiler.passes.attach_adapters import has_slots

    adapters = [load_peft(path, name, source) for path, name in request.named_adapters()]
    if request.adapter_slots:
        slotted = {linear.name for linear in source.linears if has_slots(linear)}
        for adapter in adapters:
            check_slots(adapter, slotted)
    return adapters
