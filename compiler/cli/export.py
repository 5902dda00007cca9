"""`slc export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slc.compiler.cli import options as opt
from slc.compiler.cli.console import emit, people, progress_bar
from slc.compiler.cli.tables import print_export


def command(
    model: opt.Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The artifact folder to make.", show_default=False)
    ],
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
    method: opt.Method = None,
    calibrate: opt.Calibrate = None,
    iterations: opt.Iterations = None,
    match_blocks: opt.MatchBlocks = None,
    adapter: opt.Adapter = None,
    adapter_slots: opt.AdapterSlots = 0,
    save_structured: Annotated[
        Path | None, typer.Option(help="Also keep the structured checkpoint, as NAME.slr.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an artifact at OUT.")] = False,
    jobs: opt.Jobs = None,
    json: opt.Json = False,
) -> None:
    """Compile MODEL into an artifact folder that stock onnxruntime loads."""
    from slc.compiler import export
    from slc.compiler.artifact.manifest import read_manifest

    with progress_bar() as progress:
        path = export(
            model, out, device=device, mem=mem, density=density, rank=rank, values=values,
            adapter_values=adapter_values, group=group, accuracy_level=accuracy_level, gamma=gamma,
            allocation=allocation, max_latency=max_latency, context=context, batch=batch,
            logits=logits,
            provider=provider, method=method,
            calibrate=calibrate, iterations=iterations, match_blocks=match_blocks,
            adapters=tuple(adapter or ()), adapter_slots=adapter_slots,
            save_structured=save_structured, force=force, jobs=jobs, progress=progress,
        )  # fmt: skip
    manifest = read_manifest(path)
    print_export(people, path, manifest)
    if json:
        emit({"artifact": str(path), "manifest": manifest})
