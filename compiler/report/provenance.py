"""What an artifact is, where it is from, and how to make it again."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

from slc.compiler.budget.sizes import format_size
from slc.compiler.report.page import table
from slc.compiler.request import Request

Json = Mapping[str, Any]

_SPELT_APART = frozenset({"device", "adapters", "calibrate"})
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Request)}


def provenance(manifest: Json, manifest_sha256: str) -> list[str]:
    """Source, versions, device, options, files."""
    source, device, versions = manifest["source"], manifest["device"], manifest["versions"]
    library = manifest["op_library"]
    rows = [
        ("source", f"{escape(source['name'])} ({source['kind']})"),
        ("source sha256", _hash(source["sha256"])),
        ("manifest sha256", _hash(manifest_sha256)),
        ("made by", escape(", ".join(f"{name} {version}" for name, version in versions.items()))),
        ("device", escape(_device(device))),
        ("provider", escape(manifest["provider"])),
        ("op library", escape(library["file"] or library["note"] or "none")),
    ]
    adapters = manifest["adapters"]
    if adapters["static"]:
        rows.append(("adapters", escape(", ".join(adapters["static"]))))
    if adapters["slots"]:
        rows.append(("adapter slots", str(adapters["slots"])))
    if adapters.get("loadable"):
        rows.append(("adapters to load", escape(", ".join(map(_loadable, adapters["loadable"])))))
    rows += [("note", escape(note)) for note in manifest.get("notes", ())]
    return [
        table(("", ""), rows, text=(0, 1)),
        "<h3>To make it again</h3>",
        f"<pre class='code'>{escape(command(manifest))}</pre>",
        _files(manifest),
    ]


def _loadable(adapter: Json) -> str:
    """One that `slc adapters list` lists."""
    return f"{adapter['name']} (rank {adapter['rank']}, slot {adapter['slot']})"


def command(manifest: Json) -> str:
    """The `slc export` that gives these bytes, with placeholders for paths.

    What a budget chose is left to it: with `--mem` the level is a Linear's own affair.
    """
    options = dict(manifest["options"])
    if options.get("density") is None and options.get("rank") is None:
        options.pop("accuracy_level", None)
    words = ["slc", "export", manifest["source"]["name"], "--device", manifest["device"]["name"]]
    for name, value in options.items():
        if name not in _SPELT_APART and value is not None and value != _DEFAULTS.get(name):
            words += ["--" + name.replace("_", "-"), str(value)]
    if options.get("calibrate"):
        words += ["--calibrate", options["calibrate"]]
    for adapter in options.get("adapters") or []:
        words += ["--adapter", f"PATH={adapter}"]
    return shlex.join([*words, "-o", "OUT"])


def _device(device: Json) -> str:
    known = [device["name"], device.get("description"), device["platform"]]
    known += [f"onnxruntime from {device['ort_min']}"]
    known += [f"ISA {' '.join(device['isa'])}"] if device.get("isa") else []
    return ", ".join(str(part) for part in known if part)


def _hash(digest: str) -> str:
    return f"<code class='hash'>{escape(digest)}</code>"


def _files(manifest: Json) -> str:
    files = manifest["files"]
    size = format_size(sum(entry["bytes"] for entry in files.values()))
    rows = [
        (f"<code>{escape(name)}</code>", f"{entry['bytes']:,}", _hash(entry["sha256"]))
        for name, entry in files.items()
    ]
    inside = table(("file", "bytes", "sha256"), rows, text=(0, 2))
    return f"<details><summary>{len(files)} files, {size}</summary>{inside}</details>"
