"""Reads a structured checkpoint (CHECKPOINT.md): any lower density or rank is a slice of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slc.compiler.errors import ModelError, RequestError
from slc.compiler.structure.decomposition import F32, tail_cuts
from slc.compiler.structure.ordering import Index, index_dtype, positions
from slc.compiler.structure.records import (
    ASSETS_FOLDER,
    BASE_FOLDER,
    FORMAT_NAME,
    FORMAT_VERSION,
    INDEX_FILE,
    CheckpointMeta,
    Entry,
    Json,
    entry_from,
    linear_from,
    meta_from,
    refusals_from,
)
from slc.compiler.structure.stored_grid import StoredGrid
from slc.ops import encoder
from slc.ops.blob_sections import CODEBOOK_ENTRIES

_BLOCK_ELEMS = 1 << 22
_SAFETENSORS_TYPES = {"float32": "F32", "uint32": "U32", "uint64": "U64", "int8": "I8"}


class StructuredCheckpoint:
    """W ≈ S + B·A for every structured Linear of a model, and the dense rest of it.

    Opening checks slr.json, the presence and size of every file and the name, type and shape of
    every tensor, and reads no weights. A read maps one Linear's file for as long as it takes.

    Attributes:
      path: the folder.
      meta: how it was made, from what.
      names: of the structured Linears, in graph order.
      linears: all Linears of the model, those left dense included, in graph order.
      refusals: weights that could not be Linears.
    """

    def __init__(self, path: Path) -> None:
        """Opens `path`.

        Raises:
          ModelError: a file or a tensor is missing, damaged or of another version.
        """
        self.path = Path(path)
        document = self._document()
        try:
            self.meta: CheckpointMeta = meta_from(document)
            rows = [(linear_from(row), row["entry"]) for row in document["linears"]]
            self.linears = [linear for linear, _ in rows]
            self._entries = {
                linear.name: entry_from(linear, row) for linear, row in rows if row is not None
            }
            self.refusals = refusals_from(document)
            sizes = {str(name): int(size) for name, size in document["files"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"{str(self.path / INDEX_FILE)!r} lacks or garbles a field "
                f"({type(error).__name__}: {error}): make the checkpoint again"
            ) from error
        self.names = tuple(self._entries)
        self._check_files(sizes)
        for entry in self._entries.values():
            self._check_tensors(entry)

    @property
    def base_model(self) -> Path:
        """The dense rest as ONNX: every structured weight is a graph input of the same name."""
        return self.path / BASE_FOLDER / "model.onnx"

    @property
    def assets(self) -> dict[str, Path]:
        """Files to copy beside the model, by name."""
        folder = self.path / ASSETS_FOLDER
        return {p.name: p for p in sorted(folder.iterdir())} if folder.is_dir() else {}

    def entry(self, name: str) -> Entry:
        """The record of one structured Linear.

        Raises:
          ModelError: there is none of this name.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise ModelError(
                f"the structured checkpoint {str(self.path)!r} has no Linear {name!r}: "
                "make it again from the model that is being compiled"
            ) from None

    def sparse(
        self, name: str, nnz: int | None = None, rank: int | None = None
    ) -> tuple[Index, F32]:
        """The `nnz` most important entries of S (all, when None), for an adapter cut to `rank`.

        Where S was fitted to the adapter (an entry with a scale: oats, hessian), what the adapter
        loses by a cut is given back to S on its support, with nothing recomputed: of oats the
        values are then those of W − (B·A cut). SALR's S is W itself and stays.

        Returns:
          Flat row-major index u32 or u64 [nnz] and value f32 [nnz], most important first.

        Raises:
          RequestError: more is asked for than the checkpoint holds.
          ModelError: the file is damaged.
        """
        entry = self.entry(name)
        index = self._index(entry, nnz)
        value = self._value(entry, index, rank)
        self._mask(entry, index)  # checks them
        return index, value

    def _index(self, entry: Entry, nnz: int | None) -> Index:
        count = self._within(entry, "nnz", nnz, entry.nnz)
        if count == 0:  # safetensors refuses a slice of an empty tensor
            return np.empty(0, index_dtype(entry.N, entry.K))
        with self._open(entry) as file:
            index: Index = file.get_slice("S.index")[:count]
        if int(index.max()) >= entry.linear.numel:
            got = f"S.index {int(index.max())} in a matrix of {entry.linear.numel}"
            raise self._damaged(entry, got)
        return index

    def _value(self, entry: Entry, index: Index, rank: int | None) -> F32:
        """The values at `index`, which is what `_index` gave, for an adapter cut to `rank`."""
        value: F32 = np.empty(0, np.float32)
        if index.size:
            with self._open(entry) as file:
                value = file.get_slice("S.value")[: index.size]
        if not np.isfinite(value).all():
            raise self._damaged(entry, "values in S.value that are not finite")
        if rank is not None and rank < entry.rank and entry.has_scale:
            value = value + self._lost(entry, rank).reshape(-1)[index]
        return value

    def _mask(self, entry: Entry, index: Index) -> npt.NDArray[np.bool_]:
        """Bool [N, K], true at `index`, which must have each position once."""
        mask = np.zeros((entry.N, entry.K), np.bool_)
        flat = mask.reshape(-1)
        for _, places in positions(index):
            flat[places] = True
        if np.count_nonzero(mask) != index.size:
            raise self._damaged(entry, "a position in S.index twice")
        return mask

    def grid(self, name: str) -> StoredGrid | None:
        """The levels that S lies on; None where it was not rounded.

        Raises:
          ModelError: the file is damaged.
        """
        entry = self.entry(name)
        if entry.value_type is None:
            return None
        with self._open(entry) as file:
            scales = file.get_tensor("S.scale")
            codebook = file.get_tensor("S.codebook") if entry.value_type == "i4" else None
        if not np.isfinite(scales).all() or (scales < 0).any():
            raise self._damaged(entry, "scales in S.scale that are no finite numbers of at least 0")
        return StoredGrid(entry.value_type, entry.group, scales, codebook)

    def _lost(self, entry: Entry, rank: int) -> F32:
        """B·A of the components from `rank` on, f32 [N, K]."""
        A, B = self.adapter(entry.name)
        lost: F32 = B[:, rank:] @ A[rank:]
        return lost

    def placed(
        self, name: str, nnz: int | None = None, rank: int | None = None
    ) -> tuple[F32, npt.NDArray[np.bool_]]:
        """The same entries in place: S f32 [N, K], and which of its positions are stored."""
        entry = self.entry(name)
        index = self._index(entry, nnz)
        value = self._value(entry, index, rank)
        S = np.zeros((entry.N, entry.K), np.float32)
        try:
            encoder.scatter(index, value, S)
        except ValueError as error:
            raise self._damaged(entry, f"what makes no S: {error}") from error
        mask = S != 0
        if np.count_nonzero(mask) != index.size:  # zeros are stored, or a position is there twice
            mask = self._mask(entry, index)
        return S, mask

    def mask(self, name: str, nnz: int | None = None) -> npt.NDArray[np.bool_]:
        """Which positions of S are stored, bool [N, K]: what `placed` gives, without the values."""
        entry = self.entry(name)
        return self._mask(entry, self._index(entry, nnz))

    def word_counts(self, name: str, nnz: int | None = None) -> npt.NDArray[np.uint8]:
        """How many of each 64 columns of a row are stored, u8 [N, K/64]; K is a multiple of 64."""
        entry = self.entry(name)
        index = self._index(entry, nnz)
        try:
            counts = encoder.count_words(index, entry.linear.numel)
        except ValueError as error:
            raise self._damaged(entry, "a position in S.index twice") from error
        return counts.reshape(entry.N, -1)

    def sparse_matrix(self, name: str, nnz: int | None = None, rank: int | None = None) -> F32:
        """S of `placed` alone."""
        return self.placed(name, nnz, rank)[0]

    def slice_grid(
        self, name: str, value_type: str, group: int, rank: int | None = None
    ) -> StoredGrid | None:
        """The grid that S of a slice lies on, for a bitmap of this type and group; None: on none.

        A cut adapter gives S back what it loses, which takes the values off the grid.
        """
        entry = self.entry(name)
        cut = rank is not None and rank < entry.rank
        if cut or (value_type, group) != (entry.value_type, entry.group):
            return None
        return self.grid(name)

    def adapter(self, name: str, rank: int | None = None) -> tuple[F32, F32]:
        """The first `rank` components of the adapter (all, when None): A [r, K] and B [N, r].

        Raises:
          RequestError: more is asked for than the checkpoint holds.
          ModelError: the file is damaged.
        """
        entry = self.entry(name)
        count = self._within(entry, "rank", rank, entry.rank)
        if count == 0:  # safetensors refuses a slice of an empty tensor
            return np.empty((0, entry.K), np.float32), np.empty((entry.N, 0), np.float32)
        with self._open(entry) as file:
            A: F32 = np.ascontiguousarray(file.get_slice("A")[:count])
            B: F32 = np.ascontiguousarray(file.get_slice("B")[:, :count])
        if not (np.isfinite(A).all() and np.isfinite(B).all()):
            raise self._damaged(entry, "an adapter that is not finite")
        return A, B

    def dense(self, name: str, nnz: int | None = None, rank: int | None = None) -> F32:
        """S + B·A, f32 [N, K], at a slice (the whole, when None)."""
        W = self.sparse_matrix(name, nnz, rank)
        A, B = self.adapter(name, rank)
        rows = max(1, _BLOCK_ELEMS // W.shape[1])  # the product is never whole in memory
        for start in range(0, len(W), rows):
            W[start : start + rows] += B[start : start + rows] @ A
        return W

    def scale(self, name: str) -> F32 | None:
        """The calibration's input scale f32 [K], sqrt of the damped E[x²], where there was one."""
        entry = self.entry(name)
        if not entry.has_scale:
            return None
        with self._open(entry) as file:
            scale: F32 = file.get_tensor("scale")
        return scale

    def error(self, name: str, nnz: int | None = None, rank: int | None = None) -> float:
        """Predicts ‖(W − S − B·A)·diag(scale)‖² of a slice from slr.json alone.

        Exact in rank at full nnz for SALR; for OATS an upper estimate below full rank, since what S
        takes back (see `sparse`) is not counted. Below full nnz, what the prefix leaves out is
        added, interpolated between 65 points; its product with the adapter's error is neglected.
        """
        entry = self.entry(name)
        count = self._within(entry, "nnz", nnz, entry.nnz)
        rank = self._within(entry, "rank", rank, entry.rank)
        dropped = float(np.interp(count, tail_cuts(entry.nnz), entry.tail)) if entry.nnz else 0.0
        return entry.scaled.at_rank(rank) + dropped

    def _document(self) -> Json:
        """slr.json, when it is one of this version."""
        file = self.path / INDEX_FILE
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{str(file)!r} can't be read ({error}): an .slr folder is complete only with it, "
                "make the checkpoint again"
            ) from error
        if not isinstance(document, dict) or document.get("format") != FORMAT_NAME:
            raise ModelError(f"{str(file)!r} is not a structured checkpoint's index")
        if document.get("version") != FORMAT_VERSION:
            raise ModelError(
                f"{str(self.path)!r} has format version {document.get('version')!r} where this slc "
                f"reads {FORMAT_VERSION}: use the slc that wrote it, or make the checkpoint again"
            )
        return document

    def _check_files(self, sizes: dict[str, int]) -> None:
        """Every file is there, as long as it was; contents are not read."""
        wanted = {entry.file for entry in self._entries.values()} | {f"{BASE_FOLDER}/model.onnx"}
        for name in sorted(wanted | set(sizes)):
            file = self.path / name
            if not file.is_file():
                raise ModelError(
                    f"the structured checkpoint {str(self.path)!r} lacks {name!r}: "
                    "copy it completely, or make it again"
                )
            if name not in sizes or file.stat().st_size != sizes[name]:
                raise ModelError(
                    f"{str(file)!r} has {file.stat().st_size} bytes where {INDEX_FILE} says "
                    f"{sizes.get(name, 'nothing')}: copy the checkpoint again, or make it again"
                )

    def _check_tensors(self, entry: Entry) -> None:
        """The tensors of a Linear's file are those that slr.json promises."""
        wanted = tensor_shapes(entry)
        with self._open(entry) as file:
            found = set(file.keys())
            for name in sorted(wanted.keys() - found):
                raise self._damaged(entry, f"no tensor {name!r}")
            for name in sorted(found - wanted.keys()):
                raise self._damaged(entry, f"an unknown tensor {name!r}")
            for name, (dtype, shape) in wanted.items():
                part = file.get_slice(name)
                got = part.get_dtype(), tuple(part.get_shape())
                if got != (_SAFETENSORS_TYPES[dtype.name], shape):
                    raise self._damaged(
                        entry, f"{name!r} as {got[0]} {list(got[1])}, not {dtype} {list(shape)}"
                    )

    def _within(self, entry: Entry, what: str, asked: int | None, held: int) -> int:
        """`asked`, or all that is held."""
        if asked is None:
            return held
        if not 0 <= asked <= held:
            raise RequestError(
                f"{what} {asked} of {entry.name!r} is asked for and the checkpoint "
                f"{str(self.path)!r} holds {held}: ask for less, or make it with a higher "
                f"{'--density' if what == 'nnz' else '--rank'}"
            )
        return asked

    @contextlib.contextmanager
    def _open(self, entry: Entry) -> Iterator[Any]:
        """The Linear's file, mapped while inside."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path / entry.file, framework="numpy") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise self._damaged(entry, f"what safetensors can't read ({error})") from error

    def _damaged(self, entry: Entry, what: str) -> ModelError:
        return ModelError(
            f"{str(self.path / entry.file)!r} (Linear {entry.name!r}) holds {what}: "
            "copy the checkpoint again, or make it again"
        )


def tensor_shapes(
    entry: Entry,
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """The tensors of an entry's file: type and shape by name, in file order."""
    f32: np.dtype[Any] = np.dtype(np.float32)
    shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "S.index": (index_dtype(entry.N, entry.K), (entry.nnz,)),
        "S.value": (f32, (entry.nnz,)),
        "A": (f32, (entry.rank, entry.K)),
        "B": (f32, (entry.N, entry.rank)),
    }
    if entry.has_scale:
        shapes["scale"] = (f32, (entry.K,))
    if entry.value_type is not None:
        shapes["S.scale"] = (f32, (entry.N, -(-entry.K // entry.group)))
    if entry.value_type == "i4":
        shapes["S.codebook"] = (np.dtype(np.int8), (CODEBOOK_ENTRIES,))
    return shapes
