"""What slr.json holds, as records and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from slc.compiler.frontends.source import SourceKind
from slc.compiler.linear import Linear, Refusal, SourceRows
from slc.compiler.structure.decomposition import Order, SquaredErrors
from slc.compiler.structure.stored_grid import IntegerType

FORMAT_VERSION = 1
FORMAT_NAME = "slr"
INDEX_FILE = "slr.json"
LINEARS_FOLDER = "linears"
BASE_FOLDER = "base"
ASSETS_FOLDER = "base/assets"
METADATA_KEY = "slc"  # in a Linear's safetensors header: one key, since their order is not kept

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class CheckpointMeta:
    """The head of slr.json.

    Attributes:
      method: "salr", "oats", or what else made S and the adapter.
      settings: the method's numbers (density, rank, iterations, seed …).
      kind: what family the base graph belongs to.
      source_name: of the model's file or folder, without its path.
      source_sha256: of the source's files.
      slc_version: that wrote the checkpoint.
    """

    method: str
    settings: dict[str, float | int]
    kind: SourceKind
    source_name: str
    source_sha256: str
    slc_version: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One structured Linear of a checkpoint.

    Attributes:
      linear: as the frontend found it.
      nnz: entries of S that are stored.
      rank: of the adapter that is stored.
      order: what a prefix of S is.
      file: below the checkpoint's folder.
      has_scale: whether the file holds "scale", the calibration's input scale.
      singular_values: of the adapter, falling, in the metric of `scaled`.
      plain: squared errors of W.
      scaled: squared errors of W·diag(scale): the expected squared error of an output row.
      tail: sum of squares (scaled) of what a prefix of S of nnz·j/64 entries leaves out.
      value_type: "i8" or "i4" where S lies on the grid of such a blob, which the file then holds.
      group: columns that share a scale of that grid, a multiple of 64; 0 without one.
    """

    linear: Linear
    nnz: int
    rank: int
    order: Order
    file: str
    has_scale: bool
    singular_values: tuple[float, ...]
    plain: SquaredErrors
    scaled: SquaredErrors
    tail: tuple[float, ...]
    value_type: IntegerType | None = None
    group: int = 0

    @property
    def name(self) -> str:
        """The Linear's name."""
        return self.linear.name

    @property
    def N(self) -> int:
        """Rows of W."""
        return self.linear.N

    @property
    def K(self) -> int:
        """Columns of W."""
        return self.linear.K

    @property
    def density(self) -> float:
        """Of S as stored: nnz / (N·K)."""
        return self.nnz / self.linear.numel

    @property
    def row_wise(self) -> bool:
        """Whether a prefix of S takes the largest of every row, not of the whole matrix."""
        return self.order == "row"


def linear_json(linear: Linear) -> Json:
    """A Linear as JSON values."""
    row = dataclasses.asdict(linear)
    del row["itemsize"]  # of an export, not of the model
    return row


def linear_from(row: Json) -> Linear:
    """The Linear that `linear_json` wrote.

    Raises:
      KeyError, TypeError: a field is missing or of another type.
    """
    names = {field.name for field in dataclasses.fields(Linear)} - {"itemsize"}
    fields = {name: row[name] for name in names}
    fields["sources"] = tuple(SourceRows(**rows) for rows in fields["sources"])
    fields["nodes"] = tuple(fields["nodes"])
    linear = Linear(**fields)
    if not all(type(n) is int and n > 0 for n in (linear.N, linear.K)):
        raise TypeError(f"N and K are {linear.N!r} and {linear.K!r}, not positive integers")
    return linear


def entry_json(entry: Entry) -> Json:
    """An Entry as JSON values, without its Linear."""
    row = dataclasses.asdict(entry)
    del row["linear"]
    return row


def entry_from(linear: Linear, row: Json) -> Entry:
    """The Entry that `entry_json` wrote.

    Raises:
      KeyError, TypeError, ValueError: a field is missing or can't be right.
    """
    fields = {field.name: row[field.name] for field in dataclasses.fields(Entry)[1:-2]}
    # A file written before there were grids lacks both.
    fields |= {"value_type": row.get("value_type"), "group": row.get("group", 0)}
    for metric in ("plain", "scaled"):
        errors = dict(fields[metric])
        fields[metric] = SquaredErrors(**{**errors, "gains": tuple(errors["gains"])})
    fields["singular_values"] = tuple(fields["singular_values"])
    fields["tail"] = tuple(fields["tail"])
    entry = Entry(linear, **fields)
    if type(entry.nnz) is not int or not 0 <= entry.nnz <= linear.numel:
        raise ValueError(f"nnz is {entry.nnz!r}, not a number from 0 to {linear.numel}")
    side = min(linear.N, linear.K)
    if type(entry.rank) is not int or not 0 <= entry.rank <= side:
        raise ValueError(f"rank is {entry.rank!r}, not a number from 0 to {side}")
    if entry.order not in ("global", "row"):
        raise ValueError(f"order is {entry.order!r}, not 'global' or 'row'")
    if entry.has_scale is not True and entry.has_scale is not False:
        raise ValueError(f"has_scale is {entry.has_scale!r}, not true or false")
    if entry.value_type not in (None, "i8", "i4"):
        raise ValueError(f"value_type is {entry.value_type!r}, not null, 'i8' or 'i4'")
    legal = type(entry.group) is int and (entry.group > 0) == (entry.value_type is not None)
    if not legal or entry.group % 64:
        raise ValueError(f"group is {entry.group!r}, not a multiple of 64 (0 without value_type)")
    return entry


def meta_json(meta: CheckpointMeta) -> Json:
    """The head as JSON values, with the format's name and version first."""
    return {"format": FORMAT_NAME, "version": FORMAT_VERSION, **dataclasses.asdict(meta)}


def meta_from(document: Json) -> CheckpointMeta:
    """The head that `meta_json` wrote.

    Raises:
      KeyError: a field is missing.
    """
    fields = dataclasses.fields(CheckpointMeta)
    return CheckpointMeta(**{field.name: document[field.name] for field in fields})


def refusals_from(document: Json) -> list[Refusal]:
    """The weights that were left as they are."""
    return [Refusal(**cast(Json, row)) for row in document["refusals"]]
