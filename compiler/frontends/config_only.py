"""A Hugging Face folder that has no weights yet: its config.json says all that a plan needs.

The model is given weights of zero, in a file that takes no room on the disk, and goes the way of
every other folder from there: what is planned is the graph that an export would compile.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

from slc.compiler.errors import ModelError
from slc.compiler.extras import require
from slc.compiler.frontends import huggingface

_TYPE, _BYTES = "BF16", 2  # the smallest that every loader takes


def has_weights(folder: Path) -> bool:
    """Whether weight files of any kind are there, complete or not."""
    suffixes = {".safetensors", ".bin", ".pt", ".pth"}
    return any(path.suffix in suffixes or path.name.endswith(".index.json")
               for path in folder.iterdir())  # fmt: skip


def with_zeros(folder: Path, out: Path) -> Path:
    """Makes `out`, a folder like `folder` with all weights zero and a tokenizer where it has none.

    Raises:
      RequestError: transformers is not installed.
      ModelError: it knows no such model.
    """
    require("a config.json without weights", "torch", "transformers")
    out.mkdir()
    for path in huggingface.assets(folder).values():
        shutil.copy(path, out)
    shapes = _shapes(folder)
    _write_zeros(out / "model.safetensors", shapes)
    if huggingface.tokenizer_folder(huggingface.assets(folder)) is None:
        _write_tokenizer(out)
    return out


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Every parameter's and buffer's shape by name, shared ones once."""
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        names = config.architectures or ["AutoModel"]
        made = getattr(transformers, names[0], None)
        with torch.device("meta"):
            if made is None or names[0].startswith("Auto"):
                model = transformers.AutoModel.from_config(config)
            else:
                model = made(config)
    except Exception as error:  # a config can be wrong in as many ways as there are models
        raise ModelError(
            f"{str(folder / 'config.json')!r} describes no model that transformers can make "
            f"({error}): check it, or give a folder saved by save_pretrained"
        ) from error
    found: dict[str, list[int]] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = list(tensor.shape)
    return found


def _write_zeros(path: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file whose data is a hole: it reads as zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + _BYTES * _count(shape)
        header[name] = {"dtype": _TYPE, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def _count(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _write_tokenizer(folder: Path) -> None:
    """One that knows a single word: the builder asks for some tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
