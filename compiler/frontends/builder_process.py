"""Runs onnxruntime-genai's builder without it ever holding the weights: a process of its own.

    python -m slc.compiler.frontends.builder_process OPTIONS OF THE BUILDER

transformers maps a model's safetensors files, so that a parameter is a range of a file until
somebody reads it. The builder then transposes it, converts it to f32 and writes it into a file of
its own, which costs the whole model in mapped pages and twice its largest matrix beside them.

Here an initializer that is nothing but rows of a mapped file is left out of the graph, and
`left_out.json` says where its rows lie; parameter_tensor.py reads them when they are wanted. Which
those are is never guessed by a name:

1. A view of a parameter is known by its address, which the kernel's list of mappings turns into a
   place in a file. A mapping that was written to is another matter than its file, and then nothing
   may be left out.
2. What the builder puts together (a fused QKV projection) is compared with the parameters, row
   range by row range, in full.
3. Everything else (norms, biases, tables, what was scaled or added to) is evaluated and written by
   the builder as always. So is everything, where the loader copies weights: then the builder needs
   what it always needed.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import importlib
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from slc.compiler.frontends.parameter_tensor import FileRows, to_json

BUILDER = "onnxruntime_genai.models.builder"
LEFT_OUT_FILE = "left_out.json"
ABSENT = "left_out"  # where the graph says that the data is; no such file is ever made
WRITTEN_TO = 86  # exit code: memory holds other weights than the files do
LEFT_OUT_BYTES_MIN = 1 << 12  # smaller ones are not worth the trouble
_KEY_ELEMS = 8


@dataclasses.dataclass(frozen=True)
class _Mapping:
    """A range of addresses that shows a range of a file."""

    start: int
    stop: int
    offset: int
    path: str


# start-stop permissions offset device inode path
_FILE_MAPPING = r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+\s+(/.*\.safetensors)$"


class MappedFiles:
    """The safetensors files that this process maps (proc(5): /proc/self/maps)."""

    def __init__(self) -> None:
        self._mappings: list[_Mapping] = []

    def place(self, address: int, size: int) -> tuple[Path, int] | None:
        """(file, offset) of what lies at these addresses; None where it is no mapped file."""
        found = self._find(address, size)
        if found is None:
            self._mappings = _mappings()
            found = self._find(address, size)
        if found is None:
            return None
        return Path(found.path), found.offset + address - found.start

    def _find(self, address: int, size: int) -> _Mapping | None:
        at = bisect.bisect_right(self._mappings, address, key=lambda m: m.start) - 1
        if at < 0 or address + size > self._mappings[at].stop:
            return None
        return self._mappings[at]


def _mappings() -> list[_Mapping]:
    found = []
    for line in _lines("maps"):
        match = re.match(_FILE_MAPPING, line)
        if match:
            start, stop, offset = (int(text, 16) for text in match.groups()[:3])
            found.append(_Mapping(start, stop, offset, match[4]))
    return sorted(found, key=lambda m: m.start)


def written_to() -> bool:
    """Whether a page of a mapped safetensors file is no longer the file's (copied on write)."""
    inside = False
    for line in _lines("smaps"):
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(".safetensors")
        elif inside and line.startswith("Anonymous:") and line.split()[1] != "0":
            return True
    return False


def _lines(name: str) -> list[str]:
    try:
        return Path("/proc/self", name).read_text(errors="replace").splitlines()
    except OSError:  # another kernel: nothing is known to be mapped
        return []


class LeftOut:
    """The initializers that are rows of files.

    Attributes:
      found: by name, what `parameter_tensor.from_json` reads.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self._files = MappedFiles()
        self._parameters: dict[tuple[Any, ...], list[tuple[Any, FileRows]]] | None = None

    def take(self, name: str, tensor: Any, weights: Any) -> bool:
        """Takes a tensor that is rows of files, or their transpose; says whether it did.

        Args:
          name: of the initializer.
          tensor: what the builder gave for it, before any conversion.
          weights: the torch module whose parameters it may be put together of.
        """
        self.found.pop(name, None)
        if not _is_matrix(tensor):
            return False
        for transposed in (False, True):
            rows = tensor.detach().T if transposed else tensor.detach()
            if not rows.is_contiguous():
                continue
            part = self._place(rows)
            parts = self._joined(rows, weights) if part is None else [part]
            if parts:
                self.found[name] = to_json(parts, rows.shape[1], transposed=transposed)
                return True
        return False

    def _place(self, rows: Any) -> FileRows | None:
        """Rule 1: where a contiguous matrix lies."""
        place = self._files.place(rows.data_ptr(), rows.numel() * rows.element_size())
        if place is None:
            return None
        return FileRows(*place, str(rows.dtype).removeprefix("torch."), rows.shape[0])

    def _joined(self, rows: Any, weights: Any) -> list[FileRows]:
        """Rule 2: the parameters below each other that a matrix equals, if it does."""
        import torch

        if self._parameters is None:
            self._parameters = self._indexed(weights)
        parts: list[FileRows] = []
        start = 0
        while start < len(rows):
            for parameter, part in self._parameters.get(_key(rows[start:]), ()):
                if torch.equal(rows[start : start + part.rows], parameter):
                    parts.append(part)
                    start += part.rows
                    break
            else:
                return []
        return parts

    def _indexed(self, weights: Any) -> dict[tuple[Any, ...], list[tuple[Any, FileRows]]]:
        """The mapped matrices of a module by how they begin."""
        index: dict[tuple[Any, ...], list[tuple[Any, FileRows]]] = {}
        parameters = getattr(weights, "parameters", lambda: ())
        for parameter in parameters():
            rows = parameter.detach()
            if _is_matrix(rows) and rows.is_contiguous():
                part = self._place(rows)
                if part is not None:
                    index.setdefault(_key(rows), []).append((rows, part))
        return index


def _is_matrix(tensor: Any) -> bool:
    """Whether a tensor is one that could be left out."""
    import torch

    kinds = (torch.float32, torch.float16, torch.bfloat16)
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in kinds or tensor.dim() != 2:
        return False
    return bool(tensor.numel() * tensor.element_size() >= LEFT_OUT_BYTES_MIN)


def _key(rows: Any) -> tuple[Any, ...]:
    """How a matrix begins: candidates are then compared in full."""
    return rows.dtype, rows.shape[1], tuple(rows[0, :_KEY_ELEMS].tolist())


def leave_out(left: LeftOut) -> None:
    """Makes the builder leave out what `left` takes.

    Raises:
      ImportError, AttributeError: this version of the builder is built in another way.
    """
    import onnxruntime_genai.models  # noqa: F401  puts the builder's own folder on sys.path

    base = importlib.import_module("builders.base")
    make_initializer = base.Model.make_initializer

    def made(self: Any, tensor: Any, /, *args: Any, **options: Any) -> Any:
        result = make_initializer(self, tensor, *args, **options)
        name = args[0] if args else options["name"]
        value = self.model.graph.initializers.get(name)
        given = None if value is None else value.const_value
        if given is None or given.dtype != ir.DataType.FLOAT:
            return result
        if left.take(name, tensor, getattr(self, "weights", None)):
            value.const_value = _absent(given, name)
        return result

    base.Model.make_initializer = made
    ir.save = functools.partial(save, left, ir.save)


def save(
    left: LeftOut, whole: Callable[..., None], model: ir.Model, path: str, **options: Any
) -> None:
    """`onnx_ir.save` for a graph that lacks some tensors."""
    if not left.found:
        whole(model, path, **options)
        return
    if written_to():
        raise SystemExit(WRITTEN_TO)
    given = [
        (value, value.const_value)
        for graph in model.graphs()
        for name, value in graph.initializers.items()
        if value.const_value is not None and name not in left.found
    ]
    folder, data = Path(path).parent, options["external_data"]
    there = ir.external_data.convert_tensors_to_external([t for _, t in given], folder, data)
    for (value, _), tensor in zip(given, there, strict=True):
        value.const_value = tensor
    (folder / LEFT_OUT_FILE).write_text(json.dumps(left.found))
    whole(model, path)


def _absent(like: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
    """A tensor whose data is nowhere: who reads it finds no file, not zeros."""
    return ir.ExternalTensor(
        ABSENT,
        0,
        like.nbytes,
        like.dtype,
        shape=ir.Shape(like.shape.numpy()),
        name=name,
        base_dir="",
    )


def main() -> None:
    """The builder, with its own options."""
    with contextlib.suppress(ImportError, AttributeError):
        leave_out(LeftOut())
    runpy.run_module(BUILDER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
