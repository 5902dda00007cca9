"""Small decoders without Linears, run by onnxruntime-genai: what a token costs beside them.

    ids -> Gather -> (SkipSimplifiedLayerNormalization -> GroupQueryAttention -> Concat
           -> Sigmoid, Mul, Mul) per layer -> Tile -> logits

The queries are as wide as keys and values together, so that attention's output twice over is the
next layer's input and no projection is needed.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper, save

from slc.compiler.budget import operation as op
from slc.compiler.budget.calibrate.fit import Sample
from slc.compiler.budget.calibrate.timing import median_and_fastest
from slc.compiler.budget.operation import Operation

HEAD_SIZE = 64
NEW_TOKENS = 24
PAUSE_SECONDS = 0.05  # onnxruntime's threads spin some time after a run
_FLOAT, _INT32, _INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


@dataclasses.dataclass(frozen=True)
class Shape:
    """A decoder: layers, key and value heads (half of the query heads), vocabulary, cached tokens.

    `repeats` is how often the element-wise nodes of a layer come.
    """

    layers: int
    kv_heads: int
    vocabulary: int
    tokens: int
    repeats: int = 1

    @property
    def width(self) -> int:
        """Of the residual stream: queries, keys and values side by side."""
        return 4 * self.kv_heads * HEAD_SIZE

    def operations(self) -> tuple[tuple[Operation, int], ...]:
        """What one token does, and how often."""
        cached = self.tokens + NEW_TOKENS // 2
        return (
            (op.attention(2 * self.kv_heads, self.kv_heads, HEAD_SIZE, cached, 4), self.layers),
            (op.node(self.width), self.layers * (2 + 3 * self.repeats) + 1),
            (op.node(1), 6),  # of the attention mask
            (op.node(self.vocabulary), 1),
            (op.runtime(self.vocabulary), 1),
        )


SHAPES = (
    Shape(1, 4, 1 << 12, 16),
    Shape(1, 4, 1 << 16, 16),
    Shape(16, 4, 1 << 12, 16),
    Shape(16, 4, 1 << 12, 480),
    Shape(12, 4, 1 << 14, 200, repeats=4),
    Shape(8, 16, 1 << 14, 16),
    Shape(8, 16, 1 << 14, 480),
    Shape(4, 16, 1 << 14, 64, repeats=6),
    Shape(8, 8, 1 << 15, 1000),
)


def samples(
    folder: Path, shapes: tuple[Shape, ...], rounds: int, threads: int
) -> Iterator[Sample | None]:
    """A sample for each of `shapes`, and None after every round but the last: for a progress bar.

    Args:
      folder: where the models may be written.
      shapes: to time, in turns.
      rounds: of NEW_TOKENS tokens each.
      threads: of onnxruntime; left alone, its genai takes half as many as there are cores.
    """
    import onnxruntime_genai as og

    models = []
    for i, shape in enumerate(shapes):
        _write(folder / str(i), shape, threads)
        models.append(og.Model(str(folder / str(i))))
    times: list[list[float]] = [[] for _ in shapes]
    for turn in range(rounds):
        for model, shape, found in zip(models, shapes, times, strict=True):
            time.sleep(PAUSE_SECONDS)
            found += _token_us(og, model, shape)
        if turn < rounds - 1:
            yield None
    for shape, found in zip(shapes, times, strict=True):
        yield Sample(shape.operations(), *median_and_fastest(found))


def _token_us(og: Any, model: Any, shape: Shape) -> list[float]:
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=shape.tokens + NEW_TOKENS, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(np.full((1, shape.tokens), 2, np.int32))
    generator.generate_next_token()
    times = []
    while not generator.is_done():
        begin = time.perf_counter()
        generator.generate_next_token()
        times.append((time.perf_counter() - begin) * 1e6)
    return times


def _write(folder: Path, shape: Shape, threads: int) -> None:
    folder.mkdir(parents=True)
    save(_model(shape), str(folder / "model.onnx"))
    layer_names = {"past_key_names": "past.%d.key", "past_value_names": "past.%d.value"}
    present = {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    decoder = {
        "session_options": {"intra_op_num_threads": threads, "provider_options": []},
        "filename": "model.onnx",
        "head_size": HEAD_SIZE,
        "hidden_size": shape.width,
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", **layer_names},
        "outputs": {"logits": "logits", **present},
        "num_attention_heads": 2 * shape.kv_heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
    }
    limit = shape.tokens + NEW_TOKENS
    last = shape.vocabulary - 1  # logits repeat every `width`: the search never gets that far
    model = {
        "type": "llama", "vocab_size": shape.vocabulary, "context_length": limit,
        "bos_token_id": 0, "eos_token_id": last, "pad_token_id": last, "decoder": decoder,
    }  # fmt: skip
    search = {"do_sample": False, "max_length": limit, "past_present_share_buffer": True}
    text = json.dumps({"model": model, "search": search})
    (folder / "genai_config.json").write_text(text, encoding="utf-8")


def _model(shape: Shape) -> ModelProto:
    width, rng = shape.width, np.random.default_rng(0)
    angles = np.ones((shape.tokens + NEW_TOKENS, HEAD_SIZE // 2), np.float32)
    table = rng.standard_normal((width, width), np.float32)  # all ids of the logits fall in here
    constants = {
        "table": table, "norm": np.ones(width, np.float32), "one": np.array([1], np.int64),
        "axis": np.array(1, np.int64), "cos": angles, "sin": 0 * angles,
        "times": np.array([1, 1, shape.vocabulary // width], np.int64),
    }  # fmt: skip
    nodes = _mask_nodes()
    nodes.append(helper.make_node("Gather", ["table", "input_ids"], ["x"]))
    x = skip = "x"
    for layer in range(shape.layers):
        layer_nodes, x, skip = _layer(layer, shape, x, skip)
        nodes += layer_nodes
    nodes.append(helper.make_node("Tile", [x, "times"], ["logits"]))
    inputs, outputs = _interface(shape)
    graph = helper.make_graph(
        nodes, "decoder", inputs, outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _mask_nodes() -> list[Any]:
    """The attention mask as the fused operator wants it, as onnxruntime-genai's builder does."""
    make = helper.make_node
    return [
        make("ReduceSum", ["attention_mask", "one"], ["sum"], keepdims=0),
        make("Sub", ["sum", "one"], ["last"]),
        make("Cast", ["last"], ["last32"], to=_INT32),
        make("Shape", ["attention_mask"], ["mask_shape"]),
        make("Gather", ["mask_shape", "axis"], ["total"], axis=0),
        make("Cast", ["total"], ["total32"], to=_INT32),
    ]


def _layer(i: int, shape: Shape, x: str, skip: str) -> tuple[list[Any], str, str]:
    def ms(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
        return helper.make_node(op_type, inputs, outputs, domain="com.microsoft", **attributes)

    nodes = [
        ms("SkipSimplifiedLayerNormalization", [x, skip, "norm"],
           [f"n{i}", "", "", f"skip{i}"], epsilon=1e-6),
        ms("GroupQueryAttention",
           [f"n{i}", "", "", f"past.{i}.key", f"past.{i}.value", "last32", "total32", "cos", "sin"],
           [f"a{i}", f"present.{i}.key", f"present.{i}.value"],
           num_heads=2 * shape.kv_heads, kv_num_heads=shape.kv_heads, do_rotary=1),
        helper.make_node("Concat", [f"a{i}", f"a{i}"], [f"e{i}_0"], axis=-1),
    ]  # fmt: skip
    for j in range(shape.repeats):
        e = f"e{i}_{j}"
        nodes += [
            helper.make_node("Sigmoid", [e], [f"{e}s"]),
            helper.make_node("Mul", [e, f"{e}s"], [f"{e}m"]),
            helper.make_node("Mul", [f"{e}m", f"n{i}"], [f"e{i}_{j + 1}"]),
        ]
    return nodes, f"e{i}_{shape.repeats}", f"skip{i}"


def _interface(shape: Shape) -> tuple[list[Any], list[Any]]:
    make = helper.make_tensor_value_info
    inputs = [
        make("input_ids", _INT64, ["batch", "length"]),
        make("attention_mask", _INT64, ["batch", "total"]),
    ]
    outputs = [make("logits", _FLOAT, ["batch", "length", shape.vocabulary])]
    for i in range(shape.layers):
        for part in ("key", "value"):
            past = ["batch", shape.kv_heads, "past", HEAD_SIZE]
            present = ["batch", shape.kv_heads, "total", HEAD_SIZE]
            inputs.append(make(f"past.{i}.{part}", _FLOAT, past))
            outputs.append(make(f"present.{i}.{part}", _FLOAT, present))
    return inputs, outputs
