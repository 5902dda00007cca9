"""What an artifact changes in a decoder's `genai_config.json`."""

from __future__ import annotations

import copy
from typing import Any


def patch_genai_config(
    config: dict[str, Any], *, context: int | None, library_name: str | None,
    threads: int | None = None, provider: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Returns a copy of `config` with which onnxruntime-genai runs the artifact as it stands.

    Args:
      config: the parsed genai_config.json of the builder; left unchanged.
      context: tokens that the KV cache was counted for: the session is limited to them, so that
        what runs is what was counted. None keeps the model's own length.
      library_name: the op library's file name in the artifact; genai from 0.16 on refuses a path.
        None when no operator of ours is used.
      threads: of the session: the cores of the device. None leaves it to genai, which was seen to
        take one of two, and then decodes at little more than half the speed.
      provider: "cpu" or "cuda".
    """
    patched = copy.deepcopy(config)
    model = patched["model"]
    decoder = model["decoder"]
    if library_name is not None:
        decoder.setdefault("session_options", {})["custom_ops_library"] = library_name
    if provider == "cuda":
        decoder.setdefault("session_options", {})["provider_options"] = [{"cuda": {}}]
    if threads is not None:
        decoder.setdefault("session_options", {})["intra_op_num_threads"] = threads
    if context is not None:
        context = min(context, model.get("context_length", context))
        model["context_length"] = context
        search = patched.setdefault("search", {})
        search["max_length"] = min(context, search.get("max_length", context))
    return patched
