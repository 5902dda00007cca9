"""Adapters of a finished artifact: those that its slots can be given at run time.

One artifact serves any number of them, of any rank: each is a file in `adapters/` that the LoRA API
of onnxruntime, or og.Adapters, loads, and a request names the ones it wants. An artifact needs
nothing of the base model to take one more: its manifest says which rows of which Linear each
parameter of the source became.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slc.compiler.artifact.adapter_files import (
    adapter_file,
    adapter_name,
    describe_adapter,
    write_adapter,
)
from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.changing import Change, changing
from slc.compiler.artifact.manifest import SBOM_FILE, Json, file_entry, write_json
from slc.compiler.artifact.sbom import renewed_sbom
from slc.compiler.errors import ArtifactError, RequestError
from slc.compiler.frontends.adapters import check_slots, read_peft
from slc.compiler.linear import Linear, SourceRows
from slc.compiler.passes.attach_adapters import slot_names
from slc.compiler.request import PathLike, named_adapters


def list_adapters(artifact: PathLike) -> list[Json]:
    """Says which adapters an artifact has for its slots.

    Args:
      artifact: a folder that `export` made.

    Returns:
      In name order: name, file (in the artifact), slot, rank (the largest of its Linears), linears
      (how many it adapts) and bytes, which a process that loads it needs beside the session's.

    Raises:
      ArtifactError: no artifact, or a file in adapters/ that slc did not write.
    """
    return _listed(Artifact.open(artifact))


def add_adapters(
    artifact: PathLike,
    adapters: Sequence[str],
    *,
    slot: int | None = None,
    force: bool = False,
) -> list[Json]:
    """Makes PEFT LoRA adapters loadable: adapters/NAME.onnx_adapter, and the manifest to match.

    All of them are added, or the artifact stays as it was. Sessions that are open are not touched;
    they can load the new files at once. The base model is not needed, so nothing can tell whether
    an adapter was trained on other weights of the same names and shapes.

    Args:
      artifact: a folder that `export` made with `adapter_slots`.
      adapters: "PATH" or "PATH=NAME": a folder saved by PEFT's save_pretrained, A: [r, K] and
        B: [N, r] per module in any floating type; files are f32, the scaling folded into B.
      slot: which slot they fill; None: for each the one that the fewest adapters fill, or the one
        of the adapter it replaces. Adapters of different slots can be active together, of two of
        one slot the first wins.
      force: replace adapters that have one of the names.

    Returns:
      What was added, in the given order, as `list_adapters` describes it.

    Raises:
      ArtifactError: not an artifact, one without slots, or it can't be written to.
      RequestError: a name that is taken or that can't be a file's, or a slot that there is not.
      ModelError: a folder that is not a LoRA adapter, is damaged, is for another base model, or
        adapts what has no slot.
    """
    path = Path(artifact)
    named = named_adapters(adapters, "slc adapters add")
    Artifact.open(path)  # said before anything is locked
    with changing(path) as change:
        return _add(Artifact.open(path), named, slot, force, change)


def _add(
    artifact: Artifact,
    named: Sequence[tuple[Path, str]],
    slot: int | None,
    force: bool,
    change: Change,
) -> list[Json]:
    slots = artifact.manifest["adapters"]["slots"]
    if slots == 0:
        raise ArtifactError(
            f"{artifact.path} was exported without adapter slots; export the model again with "
            "--adapter-slots 1 or more."
        )
    if slot is not None and not 0 <= slot < slots:
        raise RequestError(
            f"--slot: got {slot}, wanted 0 to {slots - 1}, the slots of the artifact"
        )
    listed = {entry["name"]: entry for entry in _listed(artifact)}
    for _, name in named:
        if not force and (name in listed or (artifact.path / adapter_file(name)).exists()):
            raise RequestError(
                f"the name {name!r} is taken in {artifact.path}: choose another (PATH=NAME) or "
                "pass --force to replace that adapter"
            )
    linears, slotted = _linears(artifact.manifest), _slotted(artifact)
    files = dict(artifact.manifest["files"])
    for path, name in named:
        adapter = read_peft(path, name, linears)
        check_slots(adapter, slotted)
        chosen = _slot_for(name, listed, slots) if slot is None else slot
        file = adapter_file(name)
        write_adapter(adapter, chosen, change.new_file(file))
        files[file] = file_entry(change.new_file(file))
        listed[name] = _entry(describe_adapter(change.new_file(file)), files)
    change.manifest = _with_adapters(artifact.manifest, listed, files)
    sbom = renewed_sbom(artifact.path, artifact.manifest, change.manifest)
    if sbom is not None:
        write_json(change.new_file(SBOM_FILE), sbom)
        change.manifest["files"][SBOM_FILE] = file_entry(change.new_file(SBOM_FILE))
    return [listed[name] for _, name in named]


def _listed(artifact: Artifact) -> list[Json]:
    """As `list_adapters`; a manifest of before it had a list says it by its files."""
    files = artifact.manifest["files"]
    known = {entry["name"]: entry for entry in artifact.manifest["adapters"].get("loadable", [])}
    names = sorted(name for file in files if (name := adapter_name(file)) is not None)
    return [
        _entry(known.get(name) or describe_adapter(artifact.path / adapter_file(name)), files)
        for name in names
    ]


def _entry(described: Mapping[str, Any], files: Mapping[str, Json]) -> Json:
    file = adapter_file(described["name"])
    return {**described, "file": file, "bytes": files[file]["bytes"]}


def _with_adapters(manifest: Json, listed: Mapping[str, Json], files: Mapping[str, Json]) -> Json:
    """The manifest with these adapters and files."""
    entries = [
        {key: entry[key] for key in ("name", "slot", "rank", "linears")}
        for _, entry in sorted(listed.items())
    ]
    adapters = {**manifest["adapters"], "loadable": entries}
    return {**manifest, "adapters": adapters, "files": dict(sorted(files.items()))}


def _slot_for(name: str, listed: Mapping[str, Json], slots: int) -> int:
    """The one it has had, else that of the fewest adapters, the first of them."""
    if name in listed and listed[name]["slot"] < slots:
        return int(listed[name]["slot"])
    filled = Counter(entry["slot"] for entry in listed.values())
    return min(range(slots), key=lambda slot: (filled[slot], slot))


def _linears(manifest: Json) -> list[Linear]:
    """The Linears as far as adapters ask for them; how they are stored is not among that."""
    sources = manifest["adapters"].get("sources", {})
    return [
        Linear(
            entry["name"], entry["N"], entry["K"], weight="", transposed=False, nodes=(),
            kind=entry["kind"],
            sources=tuple(SourceRows(**rows) for rows in sources.get(entry["name"], [])),
        )
        for entry in manifest["linears"]
    ]  # fmt: skip


def _slotted(artifact: Artifact) -> set[str]:
    """Names of the Linears that have slots, by the graph's overridable initializers."""
    inputs = {value.name for value in artifact.model().graph.inputs if value.is_initializer()}
    names = (entry["name"] for entry in artifact.manifest["linears"])
    return {name for name in names if slot_names(name, 0)[0] in inputs}
