"""Puts an artifact's folder together once the graph is lowered: model, runtime files, papers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slc.compiler.artifact import elf
from slc.compiler.artifact.adapter_files import (
    adapter_file,
    describe_adapter,
    write_adapter,
)
from slc.compiler.artifact.genai import patch_genai_config
from slc.compiler.artifact.manifest import (
    CUDA_LIBRARY_FILE,
    LIBRARY_FILE,
    OpLibrary,
    build_manifest,
    write_manifest,
)
from slc.compiler.artifact.sbom import add_sbom
from slc.compiler.artifact.writer import write_model
from slc.compiler.progress import Progress, as_stage
from slc.ops import DOMAIN
from slc.targets.target import version_tuple

if TYPE_CHECKING:
    from slc.compiler.budget import Plan
    from slc.compiler.frontends.adapters import PeftAdapter
    from slc.compiler.frontends.source import Source
    from slc.compiler.request import Request
    from slc.targets import Target


def assemble(
    source: Source,
    target: Target,
    request: Request,
    plan: Plan,
    method: str,
    slotted: Sequence[PeftAdapter],
    folder: Path,
    progress: Progress | None,
) -> None:
    """Writes every file of the artifact into `folder`, the bill of materials and the manifest last.

    Args:
      source: its graph is lowered already.
      target: what the artifact is for.
      request: the options, for the manifest.
      plan: the Choices and the memory arithmetic.
      method: of the decomposition.
      slotted: adapters to write as `.onnx_adapter` files, the i-th for slot i modulo the slots.
      folder: an empty staging folder.
      progress: called as progress(bytes written, bytes in all, what).
    """
    write_model(source.graph, folder, as_stage(progress, "writing"))
    for name, path in sorted(source.assets.items()):
        if name != "genai_config.json":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    library = _op_library(target, folder)
    if source.genai_config is not None:
        ours = any(node.domain == DOMAIN for node in source.graph.graph)
        config = patch_genai_config(
            source.genai_config, context=plan.context,
            library_name=LIBRARY_FILE if ours else None, threads=target.cores,
            provider=target.provider,
        )  # fmt: skip
        (folder / "genai_config.json").write_text(json.dumps(config, indent=4) + "\n")
    loadable = []
    for index, adapter in enumerate(slotted):
        destination = folder / adapter_file(adapter.name)
        destination.parent.mkdir(exist_ok=True)
        write_adapter(adapter, index % request.adapter_slots, destination)
        loadable.append(describe_adapter(destination))
    manifest = _manifest(source, target, request, plan, method, library, loadable, folder)
    add_sbom(folder, manifest, source, _tools(source, request))
    write_manifest(folder, manifest)


def _tools(source: Source, request: Request) -> list[str]:
    """Distributions that were used for this source and this request."""
    tools = list(source.tools)
    text = request.text()
    if text is not None and text.suffix != ".npz":
        tools.append("transformers")  # the tokenizer
    if request.match_blocks is not None:
        tools += ["torch", "transformers"]
    return tools


def _manifest(
    source: Source, target: Target, request: Request, plan: Plan, method: str,
    library: OpLibrary, loadable: list[dict[str, Any]], folder: Path,
) -> dict[str, Any]:  # fmt: skip
    return build_manifest(
        folder,
        source=source,
        choices={choice.linear: choice for choice in plan.choices},
        device=_device(target),
        provider=target.provider,
        options=_options(request, plan, method),
        memory_lines=[(line.name, line.bytes) for line in plan.memory.lines],
        op_library=library,
        budget_bytes=plan.budget_bytes,
        static_adapters=[] if request.adapter_slots else _names(request),
        adapter_slots=request.adapter_slots,
        loadable=loadable,
        predicted=None
        if plan.speed is None
        else {"us_per_token": plan.speed.us_per_token, "context": plan.speed.context},
        notes=plan.notes,
    )


def _device(target: Target) -> dict[str, Any]:
    fields = dataclasses.asdict(target)
    for key in ("sources", "aliases", "notes"):
        del fields[key]
    return {**fields, "platform": target.platform_tag, "isa": list(target.isa)}


def _options(request: Request, plan: Plan, method: str) -> dict[str, Any]:
    """The request without paths, with the method, context and level that were chosen."""
    options = dataclasses.asdict(request)
    options["calibrate"] = Path(request.calibrate).name if request.calibrate else None
    options["device"] = Path(request.device).name
    options["adapters"] = _names(request)
    options["method"] = method
    options["context"] = plan.context
    options["accuracy_level"] = plan.accuracy_level
    del options["jobs"]  # how many matrices at a time changes no byte
    return options


def _names(request: Request) -> list[str]:
    return [name for _, name in request.named_adapters()]


def _op_library(target: Target, folder: Path) -> OpLibrary:
    """Copies the op library of the target's platform, for CUDA both; says so if there is none."""
    import slc.ops

    wanted = LIBRARY_FILE
    if target.provider == "cuda":
        wanted += f" and a {CUDA_LIBRARY_FILE}"
    remedy = f"put a {wanted} built for {target.platform_tag} beside model.onnx"
    try:
        library = Path(slc.ops.library_path(target.platform_tag))
    except FileNotFoundError:
        return OpLibrary(
            None,
            f"this slc was installed without a library for {target.platform_tag}: {remedy}; slc "
            f"ops build compiles the {LIBRARY_FILE}",
        )
    parts = [library]
    if target.provider == "cuda":
        parts.append(library.with_name(CUDA_LIBRARY_FILE))
        if not parts[1].is_file():
            return OpLibrary(
                None,
                f"this slc was installed without a {CUDA_LIBRARY_FILE} for {target.platform_tag} "
                f"(make cuda): {remedy}",
            )
    for part in parts:
        shutil.copyfile(part, folder / part.name)
    needed = elf.glibc_needed(library)
    if needed is not None and version_tuple(needed) > version_tuple(target.glibc_min):
        return OpLibrary(
            LIBRARY_FILE,
            f"{LIBRARY_FILE} was built here and needs glibc {needed}, where {target.name} may have "
            f"{target.glibc_min}: for such a machine take the one of a wheel (make wheel)",
        )
    return OpLibrary(LIBRARY_FILE)
