"""Writes a structured checkpoint: one file per Linear, from several threads, restartable.

All goes to NAME.slr.partial, renamed to NAME.slr at the end. A Linear's file appears whole (it is
renamed into place too) and carries a fingerprint of the weight and of the settings it was made
with: after a kill, a file whose fingerprint still holds is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

from slc.compiler.errors import RequestError
from slc.compiler.frontends.source import Source
from slc.compiler.linear import Linear
from slc.compiler.structure.base import write_base
from slc.compiler.structure.checkpoint import StructuredCheckpoint, tensor_shapes
from slc.compiler.structure.decomposition import F32, Decomposition
from slc.compiler.structure.records import (
    FORMAT_VERSION,
    INDEX_FILE,
    LINEARS_FOLDER,
    METADATA_KEY,
    CheckpointMeta,
    Entry,
    Json,
    entry_from,
    entry_json,
    linear_json,
    meta_json,
)

_SAFETENSORS_NAMES = {"float32": "F32", "uint32": "U32", "uint64": "U64"}


class CheckpointWriter:
    """Makes `path` out of Decompositions that arrive in any order, from any thread."""

    def __init__(self, path: Path, meta: CheckpointMeta, source: Source) -> None:
        """Starts, or goes on with what a killed run left.

        Raises:
          RequestError: `path` exists.
        """
        self.path = Path(path)
        self.meta = meta
        self._source = source
        if self.path.exists():
            raise RequestError(f"{str(path)!r} exists already: choose another name or remove it")
        self._partial = self.path.with_name(self.path.name + ".partial")
        (self._partial / LINEARS_FOLDER).mkdir(parents=True, exist_ok=True)
        (self._partial / INDEX_FILE).unlink(missing_ok=True)
        self._places = {linear.name: i for i, linear in enumerate(source.linears)}
        self._entries: dict[str, Entry] = {}

    def fingerprint(self, linear: Linear, W: F32, statistics: Any = None) -> str:
        """Of all that decides a Linear's file: its record, weight, statistics and the settings."""
        digest = hashlib.sha256(
            json.dumps(
                [FORMAT_VERSION, self.meta.slc_version, self.meta.method, self.meta.settings,
                 linear_json(linear)],
                sort_keys=True,
            ).encode()
        )  # fmt: skip
        digest.update(np.ascontiguousarray(W).data)
        if statistics is not None:
            digest.update(np.ascontiguousarray(statistics, dtype=np.float64).data)
        return digest.hexdigest()

    def keep(self, linear: Linear, fingerprint: str) -> bool:
        """Takes over the file of an earlier run, if it is there, whole and of this fingerprint."""
        from safetensors import SafetensorError, safe_open

        file = self._partial / self._file_name(linear)
        try:
            with safe_open(file, framework="numpy") as opened:
                header = json.loads((opened.metadata() or {})[METADATA_KEY])
            if header["fingerprint"] != fingerprint:
                return False
            self._entries[linear.name] = entry_from(linear, header["entry"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return False
        return True

    def write(self, linear: Linear, decomposition: Decomposition, fingerprint: str) -> None:
        """Writes one Linear's file; threads may do so at once for different Linears."""
        entry = Entry(
            linear=linear,
            nnz=int(decomposition.index.size),
            rank=len(decomposition.A),
            order=decomposition.order,
            file=self._file_name(linear),
            has_scale=decomposition.scale is not None,
            singular_values=tuple(float(s) for s in decomposition.singular_values),
            plain=decomposition.plain,
            scaled=decomposition.scaled,
            tail=decomposition.tail,
        )
        arrays = {
            "S.index": decomposition.index,
            "S.value": decomposition.value,
            "A": decomposition.A,
            "B": decomposition.B,
        }
        if decomposition.scale is not None:
            arrays["scale"] = decomposition.scale
        file = self._partial / entry.file
        unfinished = file.with_suffix(".writing")
        _write_safetensors(unfinished, entry, arrays, fingerprint)
        os.replace(unfinished, file)
        self._entries[linear.name] = entry

    def finish(self) -> StructuredCheckpoint:
        """Writes the base and slr.json, and renames the folder into place."""
        wanted = {entry.file for entry in self._entries.values()}
        for file in sorted((self._partial / LINEARS_FOLDER).iterdir()):
            if f"{LINEARS_FOLDER}/{file.name}" not in wanted:
                file.unlink()
        base = self._partial / "base"
        shutil.rmtree(base, ignore_errors=True)
        write_base(self._source, base, frozenset(self._entries))
        text = json.dumps(self._document(), indent=1, ensure_ascii=False, allow_nan=False)
        (self._partial / INDEX_FILE).write_text(text + "\n", encoding="utf-8")
        os.replace(self._partial, self.path)
        return StructuredCheckpoint(self.path)

    def _document(self) -> Json:
        rows = []
        for linear in self._source.linears:
            entry = self._entries.get(linear.name)
            rows.append(
                {**linear_json(linear), "entry": None if entry is None else entry_json(entry)}
            )
        files = sorted(p for p in self._partial.rglob("*") if p.is_file())
        return {
            **meta_json(self.meta),
            "linears": rows,
            "refusals": [{"name": r.name, "reason": r.reason} for r in self._source.refusals],
            "files": {p.relative_to(self._partial).as_posix(): p.stat().st_size for p in files},
        }

    def _file_name(self, linear: Linear) -> str:
        return f"{LINEARS_FOLDER}/{self._places[linear.name]:05d}.safetensors"


def _write_safetensors(path: Path, entry: Entry, arrays: dict[str, Any], fingerprint: str) -> None:
    """A safetensors file in a fixed order, straight from the arrays: nothing is copied."""
    note = json.dumps({"fingerprint": fingerprint, "entry": entry_json(entry)}, allow_nan=False)
    header: Json = {"__metadata__": {METADATA_KEY: note}}
    offset = 0
    for name, (dtype, shape) in tensor_shapes(entry).items():
        array = arrays[name] = np.ascontiguousarray(arrays[name], dtype=dtype)
        assert array.shape == shape, f"{name} of {entry.name} is {array.shape}, not {shape}"
        end = offset + array.nbytes
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[dtype.name],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in tensor_shapes(entry):
            file.write(arrays[name].reshape(-1).view(np.uint8).data)
