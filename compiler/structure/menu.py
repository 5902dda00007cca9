"""The menu of a structured checkpoint: what every way to store a Linear would cost in quality.

A folder `menu/` inside NAME.slr, made once from calibration text (menu_maker.py), read by the
budget stage. It holds, per Linear, the error of each option and how much the model's output suffers
from it, and the codes of the dense options, which need the second moments to be rounded well.

    menu/menu.json            errors and sensitivities; written last
    menu/00012.safetensors    int8.codes, int8.scales, int4_32.codes, …, correction.A, correction.B
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from slc.compiler.encoding import AdapterType, Encoding, ValueType
from slc.compiler.errors import ModelError
from slc.compiler.structure.decomposition import F32
from slc.compiler.structure.dense_codes import BITS_OF, DenseCodes, block_bytes, unpacked
from slc.compiler.structure.records import INDEX_FILE

FOLDER = "menu"
INDEX = "menu.json"
VERSION = 2
INT4_GROUPS = (32, 64, 128)
CORRECTED_GROUP = 64  # of int4, whose residual the correction is of
_REMEDY = f"delete the folder {FOLDER!r} in the checkpoint and make it again by --calibrate"


@dataclasses.dataclass(frozen=True)
class MenuOption:
    """One way to store a Linear.

    Attributes:
      encoding: "bitmap" stands for every blob of S; else "int8" or "int4".
      value_type: of what is stored.
      error: tr(E·H·Eᵀ) of the weight's error E, H = E[x·xᵀ]: the expected squared error of an
        output row; of an embedding that of a looked-up row.
      nnz: entries of S.
      rank: of the adapter: of S the checkpoint's, of int4 the correction.
      group: columns that share a scale.
      adapter_type: of the adapter.
    """

    encoding: Encoding
    value_type: ValueType
    error: float
    nnz: int
    rank: int = 0
    group: int = 0
    adapter_type: AdapterType = "f16"


@dataclasses.dataclass(frozen=True)
class MenuLinear:
    """The options of one Linear.

    Attributes:
      options: in no order.
      sensitivity: what an error of 1 adds to the model's output error, for small errors.
      file: with its codes, below the folder.
      activation_error: what options lose beside their own error where activations are int8.
    """

    options: tuple[MenuOption, ...]
    sensitivity: float
    file: str
    activation_error: float = 0.0


class Prices(Protocol):
    """What choosing needs of a menu: errors, measured or typical (budget/typical.py)."""

    @property
    def calibration(self) -> str:
        """Where the errors are from, for people."""

    @property
    def linears(self) -> Mapping[str, MenuLinear]:
        """The options by Linear name."""


class Menu:
    """A menu on disk.

    Attributes:
      path: the folder.
      calibration: where the errors are from, for people.
      linears: by name.
    """

    def __init__(self, path: Path, checkpoint: Path) -> None:
        """Reads menu.json in the folder `path`.

        Raises:
          ModelError: it is damaged, of another version or of another checkpoint.
        """
        self.path = Path(path)
        file = self.path / INDEX
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            if document["version"] != VERSION:
                raise ValueError(f"version {document['version']}, where this slc reads {VERSION}")
            if document["checkpoint_sha256"] != identity(checkpoint):
                raise ValueError("it is of another checkpoint")
            self.calibration = f"measured with {document['calibration']}"
            self.linears = {
                str(name): MenuLinear(
                    tuple(_checked(MenuOption(**option)) for option in row["options"]),
                    _finite(row["sensitivity"]),
                    str(row["file"]),
                    _finite(row["activation_error"]),
                )
                for name, row in document["linears"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{str(file)!r} can't be read ({type(error).__name__}: {error}): {_REMEDY}"
            ) from error

    def codes(self, name: str, encoding: str, group: int, K: int) -> DenseCodes | None:
        """The codes of a dense option; None where the menu has none."""
        row = self.linears.get(name)
        if row is None:
            return None
        return read_codes(self.path / row.file, encoding, group, K)

    def correction(self, name: str, rank: int) -> tuple[F32, F32] | None:
        """The first components of int4's correction: A [rank, K] and B [N, rank].

        Raises:
          ModelError: there are fewer.
        """
        row = self.linears.get(name)
        if row is None:
            return None
        A, B = _tensors(self.path / row.file, "correction.A", "correction.B")
        if A is None or B is None or len(A) < rank or len(A) != B.shape[-1]:
            raise ModelError(
                f"{str(self.path / row.file)!r} holds no correction of rank {rank}: {_REMEDY}"
            )
        return np.ascontiguousarray(A[:rank]), np.ascontiguousarray(B[:, :rank])


def read_codes(file: Path, encoding: str, group: int, K: int) -> DenseCodes | None:
    """The codes of a dense option in a Linear's file; None where it has none."""
    key = code_key(encoding, group)
    packed, scales = _tensors(file, f"{key}.codes", f"{key}.scales")
    if packed is None or scales is None:
        return None
    blocks = -(-K // group)
    shape = (len(scales), blocks, block_bytes(BITS_OF[encoding], group))
    if scales.shape != (len(scales), blocks) or packed.shape != shape:
        raise ModelError(f"{str(file)!r} holds codes of other shapes: {_REMEDY}")
    return unpacked(packed, scales, bits=BITS_OF[encoding], group=group, K=K)


def _tensors(path: Path, *names: str) -> list[Any]:
    """Some tensors of a file; None for those that it lacks."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            held = set(file.keys())
            return [file.get_tensor(name) if name in held else None for name in names]
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{str(path)!r} can't be read ({error}): {_REMEDY}") from error


def open_menu(checkpoint: Path) -> Menu | None:
    """The menu of the checkpoint in this folder; None where it has none."""
    folder = checkpoint / FOLDER
    return Menu(folder, checkpoint) if (folder / INDEX).is_file() else None


def identity(checkpoint: Path) -> str:
    """What tells one checkpoint from another: the hash of its index, which has sizes and errors."""
    return hashlib.sha256((checkpoint / INDEX_FILE).read_bytes()).hexdigest()


def _checked(option: MenuOption) -> MenuOption:
    """Refuses what no menu holds, so that whoever reads it need not look again."""
    counts = (option.nnz, option.rank, option.group)
    known = option.encoding in ("bitmap", *BITS_OF) and option.value_type in ("f16", "i8", "i4")
    legal = known and all(type(n) is int and n >= 0 for n in counts)
    if not legal or option.adapter_type not in ("f16", "i8"):
        raise ValueError(f"an option that there is not: {option}")
    if option.encoding in BITS_OF and (option.group < 1 or option.nnz < 1):
        raise ValueError(f"an option that can't be: {option}")
    _finite(option.error)
    return option


def _finite(number: object) -> float:
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 1e300:
        raise ValueError(f"{number!r} where a number of at least 0 is wanted")
    return float(number)


def dense_option(encoding: str, error: float, numel: int, group: int) -> MenuOption:
    """int8 or int4 of all `numel` weights."""
    if encoding == "int8":
        return MenuOption("int8", "i8", error, numel, group=group)
    return MenuOption("int4", "i4", error, numel, group=group)


def code_key(encoding: str, group: int) -> str:
    """How the tensors of a dense option are called: "int8_128", "int4_32"."""
    return f"{encoding}_{group}"


def write_menu(
    path: Path, checkpoint: Path, calibration: str, linears: dict[str, MenuLinear]
) -> None:
    """Writes menu.json into the folder `path`: with it the menu is complete."""
    document = {
        "version": VERSION,
        "checkpoint_sha256": identity(checkpoint),
        "calibration": calibration,
        "linears": {
            name: {
                "sensitivity": row.sensitivity,
                "file": row.file,
                "activation_error": row.activation_error,
                "options": [dataclasses.asdict(option) for option in row.options],
            }
            for name, row in linears.items()
        },
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    (path / INDEX).write_text(text + "\n", encoding="utf-8")
