"""Artifacts for CUDA, as far as a CPU can tell: f16 graphs, blobs in tiles, what is beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import slc.ops
from slc.compiler import export, plan, verify
from slc.compiler.artifact import elf
from slc.compiler.artifact.artifact import Artifact, host_platform
from slc.compiler.artifact.doctor import doctor
from slc.compiler.errors import ArtifactError, BudgetError, RequestError
from slc.ops import bitmap
from slc.ops.bitmap_sparse_gemm import bitmap_sparse_gemm
from slc.targets import load

JETSON = {"device": "jetson", "context": 64}
UNIT = 2.0**-11


@pytest.fixture(scope="module")
def artifact(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jetson")
    return export(tiny_llama, folder / "out", density=0.5, rank=8, values="f16", **JETSON)


def _gemms(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "BitmapSparseGemm"]


def _blob(node: ir.Node) -> np.ndarray:
    return np.array(node.inputs[1].const_value.numpy())


def test_what_the_artifact_is_for(artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["provider"] == "cuda"
    assert manifest["device"]["name"] == "jetson-orin-nano-8gb"
    if manifest["op_library"]["file"] is None:  # before `make cuda`
        assert "libslc_ops_cuda.so" in manifest["op_library"]["note"]
    else:
        for name in ("libslc_ops.so", "libslc_ops_cuda.so"):
            assert name in manifest["files"]
            assert elf.machine(artifact / name) == "aarch64"
    decoder = json.loads((artifact / "genai_config.json").read_text())["model"]["decoder"]
    assert decoder["session_options"]["provider_options"] == [{"cuda": {}}]
    assert decoder["session_options"]["custom_ops_library"] == "libslc_ops.so"
    lines = {line["what"]: line for line in manifest["memory"]["lines"]}
    assert lines["CUDA context"]["bytes"] > 0


def test_the_graph_is_f16_and_its_blobs_in_tiles(artifact: Path) -> None:
    model = ir.load(artifact / "model.onnx")
    gemms = _gemms(model)
    assert gemms
    for node in gemms:
        header = bitmap.read_header(blob := _blob(node))
        bitmap.check(blob)
        assert header.layout == "tiles"
        assert node.attributes["accuracy_level"].as_int() == 1
        assert node.outputs[0].dtype == ir.DataType.FLOAT16
    state = [v for v in (*model.graph.inputs, *model.graph.outputs)
             if str(v.name).startswith(("past", "present", "logits"))]  # fmt: skip
    assert state
    assert {v.dtype for v in state} == {ir.DataType.FLOAT16}
    dense = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
    assert all(v.shape is not None and len(v.shape) == 1 for v in dense)  # biases and scales


def test_every_node_of_ours_is_what_the_plan_says(artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    choices = {row["name"]: row["choice"] for row in manifest["linears"]}
    model = ir.load(artifact / "model.onnx")
    rng = np.random.default_rng(0)
    for node in _gemms(model):
        blob, name = _blob(node), str(node.inputs[1].name).removesuffix(".packed")
        header, choice = bitmap.read_header(blob), choices[name]
        assert (choice["layout"], choice["nnz"]) == ("tiles", header.nnz)
        assert choice["weight_bytes"] >= blob.size
        X = rng.standard_normal((2, header.k)).astype(np.float16)
        Y = bitmap_sparse_gemm(X, blob, N=header.n, K=header.k)
        np.testing.assert_array_equal(
            Y, (X.astype(np.float32) @ bitmap.decode(blob).T).astype(np.float16)
        )


def _in_rows(model: ir.Model) -> ir.Model:
    """The same graph for the CPU provider: every blob in rows."""
    for value in {node.inputs[1] for node in _gemms(model)}:
        S = bitmap.decode(np.array(value.const_value.numpy()))
        # f16 values times a power of two: rounded again they are what they were.
        value.const_value = ir.tensor(bitmap.encode(S, "f16", mask=S != 0), name=value.name)
        value.shape = ir.Shape(list(value.const_value.shape.numpy()))
    return model


def _logits(model: ir.Model, folder: Path, ids: np.ndarray) -> np.ndarray:
    folder.mkdir()
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data")
    options = ort.SessionOptions()
    slc.ops.register(options)
    session = ort.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    feeds: dict[str, Any] = {}
    for value in session.get_inputs():
        if value.name.startswith("past"):
            dims = [d if isinstance(d, int) else known
                    for d, known in zip(value.shape, (1, 2, 0, 16), strict=True)]  # fmt: skip
            feeds[value.name] = np.zeros(dims, np.float16 if "16" in value.type else np.float32)
        else:
            feeds[value.name] = ids if value.name == "input_ids" else np.ones_like(ids)
    return np.asarray(session.run(["logits"], feeds)[0], np.float64)


def test_the_graph_says_what_the_cpu_artifact_says(
    artifact: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    cpu = export(tiny_llama, tmp_path / "cpu", density=0.5, rank=8, values="f16", context=64,
                 device="jetson", provider="cpu")  # fmt: skip
    assert verify(cpu).passed  # in genai too, by this machine's library in the place of Arm's
    ids = np.array([[5, 77, 23, 41]], np.int64)
    half = _logits(_in_rows(ir.load(artifact / "model.onnx")), tmp_path / "a", ids)
    whole = _logits(ir.load(cpu / "model.onnx"), tmp_path / "b", ids)
    # Every value passes through some 30 operators, each of which rounds it by 2^-11 at most.
    assert 0 < np.linalg.norm(half - whole) / np.linalg.norm(whole) <= 30 * UNIT


def test_a_budget_is_kept_and_spent_on_what_gpus_have(tiny_llama: Path) -> None:
    with pytest.raises(BudgetError) as error:
        plan(tiny_llama, mem="1MB", **JETSON)
    least = error.value.smallest_bytes
    found, target = plan(tiny_llama, mem=least + 300_000, compare=True, **JETSON)
    assert target.provider == "cuda"
    assert found.memory.total_bytes <= least + 300_000
    assert {choice.encoding for choice in found.choices} <= {"bitmap", "int8", "int4", "dense"}
    assert all(choice.layout == "tiles" for choice in found.choices if choice.encoding == "bitmap")
    assert {choice.accuracy_level for choice in found.choices} == {1}
    assert {c.value_type for c in found.choices if c.encoding == "dense"} <= {"f16"}
    names = {line.name: line.bytes for line in found.memory.lines}
    assert names["operator scratch"] == names["pre-packing"] == 0


def test_a_dense_f16_graph_is_half_as_large(tiny_llama: Path) -> None:
    gpu, _ = plan(tiny_llama, values="dense", **JETSON)
    cpu, _ = plan(tiny_llama, values="dense", provider="cpu", **JETSON)
    for a, b in zip(gpu.choices, cpu.choices, strict=True):
        assert 2 * a.weight_bytes == pytest.approx(b.weight_bytes, rel=0.02)  # alignment
    cache = [p.memory.bytes_of("KV cache") for p in (gpu, cpu)]
    assert 2 * cache[0] == cache[1]


def test_without_cuda_it_says_so(artifact: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ArtifactError, match="exported for CUDA"):
        Artifact.open(artifact).session()


def test_doctor_asks_no_gpu_of_another_machine(artifact: Path) -> None:
    if load("jetson").platform_tag == host_platform():
        pytest.skip("this machine is of the board's kind")
    assert not any("no CUDA provider" in finding.what for finding in doctor(artifact))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": "i8", "accuracy_level": 4}, "--accuracy-level: got 4 with --provider cuda"),
        ({"adapter_slots": 1}, "--adapter-slots: got it with --provider cuda"),
    ],
)
def test_what_cuda_has_not(tiny_llama: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        plan(tiny_llama, **JETSON, **options)
