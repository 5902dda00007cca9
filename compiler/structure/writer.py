"""Writes a structured checkpoint: one file per Linear, from several threads, restartable.

All goes to NAME.slr.partial, renamed to NAME.slr at the end. A Linear's file appears whole (it is
renamed into place too) and carries a fingerprint of the weight and of the settings it was made
with: after a kill, a file whose fingerprint still holds is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from slc.compiler.errors import RequestError
from slc.compiler.folders import put_in_place, remove
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

_SAFETENSORS_NAMES = {"float32": "F32", "uint32": "U32", "uint64": "U64", "int8": "I8"}


class CheckpointWriter:
    """Makes `path` out of Decompositions that arrive in any order, from any thread.

    Used in a `with` block, which holds the lock on NAME.slr.partial.
    """

    def __init__(
        self, path: Path, meta: CheckpointMeta, source: Source, *, replace: bool = False
    ) -> None:
        """Starts, or goes on with what a killed run left.

        Args:
          path: NAME.slr.
          meta: how the checkpoint is made, from what.
          source: the dense model.
          replace: a checkpoint at `path` gives way to the new one in `finish`, not before.

        Raises:
          RequestError: `path` exists and is not to be replaced, or another process writes it.
        """
        self.path = Path(path)
        self.meta = meta
        self._source = source
        self._replace = replace
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._aside = self.path.with_name(self.path.name + ".replaced")
        if not self._aside.exists():  # else it may be what belongs at `path`
            self._check_free()
        self._lock = _locked(self._partial, self.path)
        try:
            self._recover()
            self._check_free()
            (self._partial / LINEARS_FOLDER).mkdir(exist_ok=True)
            (self._partial / INDEX_FILE).unlink(missing_ok=True)
        except BaseException:
            with contextlib.suppress(OSError):
                self._partial.rmdir()  # only when it is empty, hence ours
            os.close(self._lock)
            raise
        self._places = {linear.name: i for i, linear in enumerate(source.linears)}
        self._entries: dict[str, Entry] = {}

    def __enter__(self) -> CheckpointWriter:
        """The lock is held since the writer was made."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Releases the lock; what is unfinished stays for the next run."""
        os.close(self._lock)

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
            digest.update(np.ascontiguousarray(statistics).data)
        return digest.hexdigest()

    def keep(self, linear: Linear, fingerprint: str) -> bool:
        """Takes over a file of this fingerprint: of a killed run, or of what is to be replaced."""
        file = self._partial / self._file_name(linear)
        entry = _entry_of(file, linear, fingerprint)
        if entry is None and self._replace:
            old = self.path / self._file_name(linear)
            entry = _entry_of(old, linear, fingerprint)
            if entry is not None:
                unfinished = file.with_suffix(".writing")
                shutil.copyfile(old, unfinished)
                os.replace(unfinished, file)
        if entry is not None:
            self._entries[linear.name] = entry
        return entry is not None

    def write(self, linear: Linear, decomposition: Decomposition, fingerprint: str) -> None:
        """Writes one Linear's file; threads may do so at once for different Linears."""
        grid = decomposition.grid
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
            value_type=None if grid is None else grid.value_type,
            group=0 if grid is None else grid.group,
        )
        arrays = {
            "S.index": decomposition.index,
            "S.value": decomposition.value,
            "A": decomposition.A,
            "B": decomposition.B,
        }
        if decomposition.scale is not None:
            arrays["scale"] = decomposition.scale
        if grid is not None:
            arrays["S.scale"] = grid.scales
            if grid.codebook is not None:
                arrays["S.codebook"] = grid.codebook
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
        self._put_in_place()
        return StructuredCheckpoint(self.path)

    def _check_free(self) -> None:
        """Refuses a `path` that exists, unless it is a checkpoint that is to be replaced."""
        if not self.path.exists():
            return
        if not self._replace:
            raise RequestError(
                f"{str(self.path)!r} exists already: choose another name or remove it"
            )
        if not (self.path / INDEX_FILE).is_file():
            raise RequestError(
                f"{str(self.path)!r} exists and is no structured checkpoint: choose another name"
            )

    def _recover(self) -> None:
        """Ends a replacement that was killed between its two renames, or after them."""
        if self.path.exists():
            remove(self._aside)
        elif self._aside.exists():
            self._aside.rename(self.path)

    def _put_in_place(self) -> None:
        self._check_free()  # again: it may have appeared meanwhile
        put_in_place(self._partial, self.path, self._aside)

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


def _locked(partial: Path, path: Path) -> int:
    """A descriptor of the folder `partial`, made if missing, with an exclusive lock on it."""
    while True:
        partial.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:  # renamed into place by another process just now
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(partial)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise RequestError(
                f"{str(path)!r} is being written by another process; "
                "wait for it or choose another name"
            ) from None
        except FileNotFoundError:
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _entry_of(file: Path, linear: Linear, fingerprint: str) -> Entry | None:
    """The entry in the header of a Linear's file, if that is whole and of this fingerprint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            header = json.loads((opened.metadata() or {})[METADATA_KEY])
        if header["fingerprint"] != fingerprint:
            return None
        return entry_from(linear, header["entry"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None


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
