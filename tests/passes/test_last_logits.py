"""The logits of the last token: the same numbers as those of all, at a fraction of the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import slc.ops
from slc.compiler import export
from slc.compiler.errors import RequestError
from slc.compiler.passes.last_logits import LastLogits, gives_last_logits
from slc.compiler.request import make_request
from slc.compiler.request_plan import chosen_logits
from slc.targets import load

GENAI = """
import json, sys, onnxruntime_genai as og
model = og.Model(sys.argv[1])
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=20, do_sample=False, batch_size=2)
generator = og.Generator(model, parameters)
tokenizer = og.Tokenizer(model)
generator.append_tokens(tokenizer.encode_batch(["def main(self, value):", "import"]))
for _ in range(5):
    generator.generate_next_token()
print(json.dumps([[int(t) for t in generator.get_sequence(i)] for i in (0, 1)]))
"""


@pytest.fixture(scope="module")
def artifacts(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model both ways."""
    folder = tmp_path_factory.mktemp("logits")
    options: dict[str, Any] = {"density": 0.5, "rank": 4, "context": 64}
    return {
        logits: export(tiny_llama, folder / logits, logits=logits, **options)
        for logits in ("last", "all")
    }


def _logits(artifact: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    slc.ops.register(options)
    session = ort.InferenceSession(artifact / "model.onnx", options)
    decoder = json.loads((artifact / "genai_config.json").read_text())["model"]["decoder"]
    empty = np.zeros(
        (len(ids), decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32
    )
    known = {"input_ids": ids, "attention_mask": mask}
    feeds = {value.name: known.get(value.name, empty) for value in session.get_inputs()}
    return np.asarray(session.run(["logits"], feeds)[0])


def test_a_batch_that_is_padded_on_its_right(artifacts: dict[str, Path]) -> None:
    ids = np.random.default_rng(0).integers(3, 500, (3, 7))
    lengths = np.array([7, 4, 1])
    mask = (np.arange(7) < lengths[:, None]).astype(np.int64)
    every, last = (_logits(artifacts[kind], ids, mask) for kind in ("all", "last"))
    assert last.shape == (3, 1, every.shape[2])
    wanted = every[np.arange(3), lengths - 1]
    # The head multiplies one row instead of seven: sums of 64 terms in another order.
    np.testing.assert_allclose(last[:, 0], wanted, rtol=0, atol=64 * 2**-24 * np.abs(wanted).max())


def test_genai_takes_either(artifacts: dict[str, Path]) -> None:
    found = {}
    for kind, artifact in artifacts.items():
        done = subprocess.run(
            [sys.executable, "-c", GENAI, str(artifact)], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[kind] = json.loads(done.stdout)
    assert found["last"] == found["all"]


def test_predicted_memory_lacks_the_others(artifacts: dict[str, Path]) -> None:
    lines = {
        kind: {
            line["what"]: line["bytes"]
            for line in json.loads((path / "manifest.json").read_text())["memory"]["lines"]
        }
        for kind, path in artifacts.items()
    }
    saved = lines["all"]["activations"] - lines["last"]["activations"]
    # f32 of 512 words, of all of 64 tokens but one; what selects that one takes less than another.
    assert saved >= 4 * 512 * (64 - 2)


def test_what_is_no_decoder_is_left_alone() -> None:
    x = ir.Value(name="x", shape=ir.Shape(["n", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Relu", [x])
    node.outputs[0].name, node.outputs[0].shape = "logits", ir.Shape(["n", 4])
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports={"": 21})
    model = ir.Model(graph, ir_version=10)
    assert not LastLogits()(model).modified
    assert not gives_last_logits(model)


def test_another_word_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--logits"):
        export(tiny_llama, tmp_path / "out", logits="some")


@pytest.mark.parametrize(
    ("device", "asked", "wanted"),
    [
        ("x86-64-avx2", "auto", "last"),
        ("jetson", "auto", "all"),  # its onnxruntime goes with genai 0.11
        ("jetson", "last", "last"),
        ("raspberry-pi-5", "all", "all"),
        ("snapdragon-8-gen-3", "auto", "last"),  # no genai to reckon with
    ],
)
def test_the_device_decides_which_logits(device: str, asked: str, wanted: str) -> None:
    assert chosen_logits(make_request({"logits": asked}), load(device)) == wanted
