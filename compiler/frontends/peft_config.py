"""`adapter_config.json` of a PEFT folder: which kinds of LoRA slc compiles, and their scaling."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from slc.compiler.errors import ModelError

_FILE = "adapter_config.json"

# Options of LoraConfig that change what the adapter computes, and how to say so.
_UNSUPPORTED = {
    "use_dora": "DoRA rescales whole columns of the merged weight",
    "modules_to_save": "it replaces whole modules of the base model",
    "lora_bias": "it trains biases",
    "alora_invocation_tokens": "activated LoRA switches on inside a sequence",
    "target_parameters": "it adapts parameters that no module multiplies by",
    "layer_replication": "it changes the number of layers",
    "trainable_token_indices": "it retrains rows of the embedding",
}

# Ways to start a LoRA that change the base's weights: B·A fits those, not the model that slc reads.
_REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")


def read_config(path: Path) -> dict[str, Any]:
    """Reads a PEFT folder's configuration.

    Raises:
      ModelError: there is none, it is damaged, or of a kind that slc can't compile.
    """
    file = path / _FILE
    if not file.is_file():
        raise ModelError(
            f"{str(path)!r} is not a PEFT adapter (no adapter_config.json): "
            "give a folder saved by PEFT's save_pretrained"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        method = config["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, error) from error
    if method != "LORA":
        raise ModelError(
            f"the adapter {str(path)!r} is of type {method}, and slc takes LORA: "
            "train a LoRA adapter, or merge it into the model"
        )
    reason = unsupported_option(config)
    if reason:
        raise unsupported(path, reason)
    return dict(config)


def unsupported_option(config: dict[str, Any]) -> str | None:
    """Says which option of a LoraConfig slc can't compile, and why; None when all are fine."""
    for option, reason in _UNSUPPORTED.items():
        if config.get(option):
            return f"{option} is set: {reason}"
    if config.get("bias", "none") != "none":
        return f"bias={config['bias']!r}: it trains biases"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_REBASED):
        return f"init_lora_weights={start!r}: it changes the base model's weights"
    return None


def scale_of(path: Path, config: dict[str, Any], module: str, rank: int) -> float:
    """Gives s of one module: patterns are matched as PEFT does, on the end of the name.

    Args:
      path: the PEFT folder, for messages.
      config: what `read_config` gave.
      module: in the base model, e.g. "model.layers.0.self_attn.q_proj".
      rank: of its tensors, at least 1.

    Raises:
      ModelError: the configuration says another rank, or no finite scaling.
    """
    try:
        wanted = _of_module(config.get("rank_pattern"), module, config.get("r", rank))
        alpha = _of_module(config.get("alpha_pattern"), module, config.get("lora_alpha", rank))
        alpha = float(alpha)
    except (TypeError, ValueError, OverflowError, AttributeError, re.error) as error:
        raise _damaged(path / _FILE, error) from error
    if wanted != rank:
        raise ModelError(
            f"the adapter {str(path)!r} has rank {rank} on {module!r} and its configuration says "
            f"{wanted}: save it again"
        )
    if not math.isfinite(alpha):
        raise ModelError(
            f"the adapter {str(path)!r} has lora_alpha {alpha}, where a finite number is wanted: "
            "save it again"
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_module(patterns: dict[str, Any] | None, module: str, otherwise: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _damaged(file: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{str(file)!r} is not a PEFT configuration ({error}): save the adapter again"
    )


def unsupported(path: Path, what: str) -> ModelError:
    """Of an adapter that computes something else than LoRA's sum."""
    return ModelError(
        f"the adapter {str(path)!r} can't be compiled ({what}): merge it into the model with "
        "merge_and_unload, or train a plain LoRA"
    )
