"""--adapter-values from plan and export to inspect and verify: what is asked, counted, written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import slc.ops
from examples.docstrings import split
from examples.embedding import SentenceEncoder
from slc.compiler import export, plan, verify
from slc.compiler.artifact.artifact import Artifact
from slc.compiler.artifact.inspect import inspect
from slc.compiler.artifact.manifest import MANIFEST_FILE, read_manifest
from slc.compiler.artifact.writer import PAGE_BYTES
from slc.compiler.budget.encodings import adapter_bytes, aligned
from slc.compiler.errors import ArtifactError, RequestError

K, WIDTHS, RANK = 320, (256, 192, 500), 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three MatMuls of one x[b, 320]."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((K, N)) for i, N in enumerate(WIDTHS)}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", w], [f"y{w[1:]}"], name=f"n{w[1:]}") for w in weights],
        "siblings",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", K])],
        [
            helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["b", N])
            for i, N in enumerate(WIDTHS)
        ],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    path = tmp_path_factory.mktemp("siblings") / "siblings.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, path)
    return path


@pytest.fixture(scope="module")
def artifact(model: Path) -> Path:
    return export(model, model.parent / "i8", density=0.5, rank=RANK, adapter_values="i8")


def ours(artifact: Path) -> dict[str, Any]:
    """The tensors of our operators by name: blobs, adapters and their scales; no biases."""
    graph = Artifact.open(artifact).model().graph
    values = {
        value
        for node in graph
        if node.domain == slc.ops.DOMAIN
        for value in node.inputs[: 2 if node.op_type == "BitmapSparseGemm" else None]
    }
    return {str(v.name): v.const_value for v in values if v is not None and v.const_value}


def test_every_residual_adapter_is_int8_and_said_to_be(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    assert manifest["options"]["adapter_values"] == "i8"
    assert {entry["choice"]["adapter_type"] for entry in manifest["linears"]} == {"i8"}
    assert {row["adapter_type"] for row in inspect(artifact)["linears"]} == {"i8"}
    tensors = ours(artifact)
    for i, N in enumerate(WIDTHS):
        a, b = tensors[f"w{i}.lora_A"], tensors[f"w{i}.lora_B"]
        assert (a.dtype.name, tuple(a.shape)) == ("INT8", (RANK, K))
        assert (b.dtype.name, tuple(b.shape)) == ("INT8", (N, RANK))
        assert tensors[f"w{i}.lora_B_scale"].nbytes == 4 * N
    assert verify(artifact, memory=False).passed


def test_bytes_are_those_planned_but_for_the_padding_of_joined_scales(artifact: Path) -> None:
    planned = sum(row["bytes"] for row in inspect(artifact)["linears"])
    written = sum(aligned(tensor.nbytes) for tensor in ours(artifact).values())
    # 3 × 96 bytes of scales, planned as 128 each, are one tensor of 288, padded to 320.
    assert planned - written == 3 * 128 - 320
    data = (artifact / "model.onnx.data").stat().st_size
    last = max(ours(artifact).values(), key=lambda t: getattr(t, "offset", 0) or 0)
    assert data == written - (aligned(last.nbytes) - last.nbytes)  # nothing follows the last


def test_the_plan_counts_half_an_adapter_and_its_scales(model: Path) -> None:
    asked: dict[str, Any] = {"density": 0.5, "rank": RANK, "context": 8}
    halves, floats = (plan(model, adapter_values=v, **asked)[0] for v in ("i8", "f16"))
    name = "weights of Linears"
    saved = floats.memory.bytes_of(name) - halves.memory.bytes_of(name)
    assert saved == sum(adapter_bytes(N, K, RANK) - adapter_bytes(N, K, RANK, "i8") for N in WIDTHS)
    pages = len(WIDTHS) * PAGE_BYTES  # each scale of B is a tensor more
    assert saved == floats.memory.total_bytes - halves.memory.total_bytes + pages
    assert 0.9 * 24 * (3 * K + sum(WIDTHS)) < saved + 4 * (3 * RANK + sum(WIDTHS))


def test_a_budget_buys_more_with_int8_adapters(model: Path) -> None:
    least = plan(model, density=0.0, rank=0, context=8)[0].memory.total_bytes
    ranks, values = {}, {}
    # A matrix of 100 kB pays a page for the scales of B, which is nothing to those of a model.
    pages = len(WIDTHS) * PAGE_BYTES
    for kind, mem in (("f16", least + 200_000), ("i8", least + 200_000 + pages)):
        made = plan(model, mem=mem, context=8, adapter_values=kind, allocation="uniform")[0]
        assert made.memory.total_bytes <= mem
        ranks[kind] = sum(c.rank for c in made.choices)
        values[kind] = sum(c.nnz for c in made.choices)
    assert ranks["i8"] >= ranks["f16"]
    assert values["i8"] > values["f16"]


def test_without_an_adapter_there_is_no_type_to_tell(model: Path) -> None:
    made = plan(model, density=0.5, rank=0, context=8, adapter_values="i8")[0]
    bare = plan(model, density=0.5, rank=0, context=8)[0]
    assert made.choices == bare.choices


def test_two_exports_are_equal(model: Path, artifact: Path, tmp_path: Path) -> None:
    again = export(model, tmp_path / "i8", density=0.5, rank=RANK, adapter_values="i8")
    for name in ("model.onnx", "model.onnx.data", MANIFEST_FILE):
        assert (again / name).read_bytes() == (artifact / name).read_bytes()


@pytest.mark.parametrize("call", [plan, export])
def test_another_type_is_refused(call: Any, model: Path, tmp_path: Path) -> None:
    arguments = (model,) if call is plan else (model, tmp_path / "out")
    with pytest.raises(RequestError, match=r"^--adapter-values: got 'i4', wanted f16 or i8$"):
        call(*arguments, adapter_values="i4")
    assert not (tmp_path / "out").exists()


def test_a_manifest_of_another_type_is_damaged_and_an_old_one_has_f16(
    artifact: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(artifact)
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).write_bytes((artifact / name).read_bytes())
    choice = manifest["linears"][0]["choice"]
    del choice["adapter_type"]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert inspect(tmp_path)["linears"][0]["adapter_type"] == "f16"
    choice["adapter_type"] = "i4"
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"linears\[0\].choice.adapter_type is not one of"):
        read_manifest(tmp_path)


@pytest.mark.slow
def test_minilm_with_int8_adapters_is_as_good_as_with_f16(minilm: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "minilm.slr"
    asked: dict[str, Any] = {"density": 0.5, "rank": 32}
    outs = {
        "dense": export(minilm, tmp_path / "dense", values="dense"),
        "f16": export(minilm, tmp_path / "f16", save_structured=checkpoint, **asked),
        "i8": export(checkpoint, tmp_path / "i8", adapter_values="i8", **asked),
    }
    vectors = {}
    for name, out in outs.items():
        options = ort.SessionOptions()
        slc.ops.register(options)
        session = ort.InferenceSession(out / "model.onnx", options)
        vectors[name] = SentenceEncoder(session, minilm / "tokenizer.json")(split()[1][:128])
    cosine = {n: float((v * vectors["dense"]).sum(axis=1).mean()) for n, v in vectors.items()}
    # Measured: 0.84791 beside 0.84789; the adapters themselves move by a hundredth.
    assert abs(cosine["i8"] - cosine["f16"]) < 0.002
    assert float((vectors["i8"] * vectors["f16"]).sum(axis=1).mean()) > 0.999
    # Every rank is 32, so that joined scales need no padding: the plan is exact.
    planned = sum(row["bytes"] for row in inspect(outs["i8"])["linears"] if row["rank"])
    assert planned == sum(aligned(tensor.nbytes) for tensor in ours(outs["i8"]).values())
    downs = [
        [i for i in node.inputs if i is not None and i.dtype is not None and i.dtype.name == "INT8"]
        for node in Artifact.open(outs["i8"]).model().graph
        if node.op_type == "ConcatAdapterDown"
    ]
    assert sorted(map(len, downs)) == 6 * 3 * [1] + 6 * [3]  # q, k and v share theirs
    assert verify(outs["i8"], memory=False).passed
