"""A Hugging Face model folder: its checks before any heavy work, and its parameters on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slc.compiler.errors import ModelError
from slc.compiler.frontends.safetensors_file import Parameter, non_finite, parameters_of

_INDEX = "model.safetensors.index.json"

# What a tokenizer or processor of any kind reads; copied into the artifact when there.
ASSET_NAMES = (
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def read_config(folder: Path) -> dict[str, Any]:
    """Parses config.json.

    Raises:
      ModelError: it isn't a JSON object, or it doesn't say what model it is.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(
            f"{str(folder / 'config.json')!r} can't be read as JSON ({error}): "
            "download or save the model again"
        ) from error
    if not isinstance(config, dict) or not (
        config.get("model_type") or config.get("architectures")
    ):
        raise ModelError(
            f"{str(folder / 'config.json')!r} names neither a model_type nor architectures: "
            "give a folder saved by save_pretrained"
        )
    return dict(config)


def is_decoder(config: dict[str, Any]) -> bool:
    """Says whether the model generates text token by token (a decoder-only language model)."""
    architectures = config.get("architectures") or ()
    return any(str(a).endswith(("ForCausalLM", "LMHeadModel")) for a in architectures)


def safetensors_files(folder: Path) -> list[Path]:
    """Lists the folder's weight files in name order.

    Raises:
      ModelError: there are none (pickled ones are refused), or a shard is missing.
    """
    if (folder / _INDEX).is_file():
        try:
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            shards = sorted({str(name) for name in index["weight_map"].values()})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(
                f"{str(folder / _INDEX)!r} is not a safetensors index ({error}): "
                "download or save the model again"
            ) from error
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{str(folder)!r} lacks {missing[0]!r}, one of {len(shards)} weight files that "
                f"its {_INDEX} names ({len(missing)} missing): download the model again"
            )
        return [folder / name for name in shards]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth"})
    if pickled:
        raise ModelError(
            f"{str(folder)!r} holds its weights only as pickle ({pickled[0]!r}), which can run "
            "code when it is opened: save the model again with safe_serialization=True"
        )
    raise ModelError(
        f"{str(folder)!r} has a config.json and no model.safetensors: "
        "download the weights, or save the model with save_pretrained"
    )


def parameters(folder: Path) -> dict[str, Parameter]:
    """Maps parameter names to their place on disk; nothing but the headers is read.

    Raises:
      ModelError: a weight file is missing, truncated or damaged.
    """
    return {
        name: parameter
        for path in safetensors_files(folder)
        for name, parameter in parameters_of(path).items()
    }


def check_weights(folder: Path) -> dict[str, Parameter]:
    """Checks that the weights are all there and finite.

    Returns:
      The parameters by name.

    Raises:
      ModelError: a file is missing, truncated or damaged, or a tensor holds NaN or infinity.
    """
    found = parameters(folder)
    bad = next(non_finite(found), None)
    if bad is not None:
        raise ModelError(
            f"parameter {bad!r} in {str(folder)!r} holds NaN or infinity, where finite numbers "
            "are wanted: repair or retrain the model"
        )
    return found


def assets(folder: Path) -> dict[str, Path]:
    """Gives the tokenizer, processor and configuration files there are, by name."""
    return {name: folder / name for name in ASSET_NAMES if (folder / name).is_file()}


def tokenizer_folder(assets: dict[str, Path]) -> Path | None:
    """Gives the folder that tokenises text, where the assets hold a tokenizer."""
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if name in assets:
            return assets[name].parent
    return None
