"""`slc plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people, progress_bar
from slc.compiler.cli.tables import print_plan


def command(
    model: opt.Model,
    device: opt.Device = "host",
    mem: opt.Mem = None,
    density: opt.Density = None,
    rank: opt.Rank = None,
    values: opt.Values = "auto",
    adapter_values: opt.AdapterValues = "f16",
    group: opt.Group = 64,
    accuracy_level: opt.AccuracyLevel = None,
    gamma: opt.Gamma = None,
    allocation: opt.Allocation = "auto",
    max_latency: opt.MaxLatency = None,
    context: opt.Context = None,
    batch: opt.Batch = 1,
    logits: opt.Logits = "auto",
    provider: opt.Provider = None,
    adapter: opt.Adapter = None,
    adapter_slots: opt.AdapterSlots = 0,
    calibrate: opt.Calibrate = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Beside it what one ratio for all, SALAAD's allocation, dense int8 and dense int4 "
            "would give at this budget.",
        ),
    ] = False,
    json: opt.Json = False,
) -> None:
    """Say what export would choose and need for MODEL, and write nothing."""
    from slc.compiler import plan
    from slc.compiler.budget import to_json

    with progress_bar() as progress:
        result, target = plan(
            model, device=device, mem=mem, density=density, rank=rank, values=values,
            adapter_values=adapter_values, group=group, accuracy_level=accuracy_level, gamma=gamma,
            allocation=allocation, max_latency=max_latency, context=context, batch=batch,
            logits=logits,
            provider=provider,
            adapters=tuple(adapter or ()), adapter_slots=adapter_slots, calibrate=calibrate,
            compare=compare, progress=progress,
        )  # fmt: skip
    print_plan(people, result, target)
    if json:
        emit({"device": target.name, **to_json(result)})
