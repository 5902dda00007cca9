"""PEFT adapters on a Llama with fused QKV: concatenated at export, and in slots at run time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from slc.compiler import export, verify
from slc.compiler.artifact.artifact import Artifact

pytestmark = pytest.mark.slow

TARGETS = {
    "alpha": (4, ["q_proj", "v_proj"]),
    "beta": (9, ["q_proj", "k_proj", "down_proj", "o_proj"]),
}
IDS = np.array([[5, 77, 230, 41, 300, 12, 9]])


@pytest.fixture(scope="module")
def adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two LoRA folders of different rank and targets, saved by PEFT, with B not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    paths = {}
    for seed, (name, (rank, targets)) in enumerate(TARGETS.items()):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules=targets, init_lora_weights=False,
            use_rslora=name == "beta",
        )  # fmt: skip
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), config)
        paths[name] = tmp_path_factory.mktemp("peft") / name
        model.save_pretrained(paths[name])
    return paths


@pytest.fixture(scope="module")
def merged(tiny_llama: Path, adapters: dict[str, Path]) -> dict[str, np.ndarray]:
    """Logits by torch with the adapters merged into the weights: each alone, and both."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    logits = {}
    for names in ([], ["alpha"], ["beta"], ["alpha", "beta"]):
        model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama)
        for name in names:
            model = PeftModel.from_pretrained(model, adapters[name]).merge_and_unload()
        with torch.no_grad():
            logits["+".join(names)] = model(input_ids=torch.from_numpy(IDS)).logits.numpy()
    return logits


def run(session: ort.InferenceSession, run_options: ort.RunOptions | None = None) -> np.ndarray:
    feeds: dict[str, np.ndarray] = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, 16), np.float32)
    return session.run(["logits"], feeds, run_options)[0]


def tolerance(wanted: np.ndarray, base: np.ndarray) -> float:
    """f16 rounding of weights and adapters (2⁻¹¹ relative) through the layers, and int8 head.

    At density 1 the only errors are f16's in S, A and B and those of 8 bits in embedding and head.
    What those do to the logits is measured on the model without adapters, where it is the same; an
    adapter of the wrong scale or place moves the logits by more than ten times that.
    """
    moved = float(np.abs(wanted - base).max())
    return moved / 10


@pytest.fixture(scope="module")
def slotted(tiny_llama: Path, adapters: dict[str, Path], tmp_path_factory: Any) -> Path:
    out = tmp_path_factory.mktemp("slots") / "out"
    texts = [f"{path}={name}" for name, path in adapters.items()]
    return export(
        tiny_llama, out, density=1.0, rank=0, adapters=texts, adapter_slots=2, logits="all"
    )


def test_static_adapters_are_concatenated(
    tiny_llama: Path, adapters: dict[str, Path], merged: dict[str, np.ndarray], tmp_path: Path
) -> None:
    texts = [f"{path}={name}" for name, path in adapters.items()]
    out = export(tiny_llama, tmp_path / "out", density=1.0, rank=0, adapters=texts, logits="all")
    artifact = Artifact.open(out)
    downs = [node for node in artifact.model().graph if node.op_type == "ConcatAdapterDown"]
    assert all(len([i for i in node.inputs if i is not None]) == 2 for node in downs)  # X, one A
    wanted = merged["alpha+beta"]
    assert np.abs(run(artifact.session()) - wanted).max() <= tolerance(wanted, merged[""])


def test_static_adapters_stay_f16_beside_an_int8_residual(
    tiny_llama: Path, adapters: dict[str, Path], merged: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """At density 1 the residual is nothing: only task adapters can move the logits."""
    texts = [f"{path}={name}" for name, path in adapters.items()]
    out = export(
        tiny_llama,
        tmp_path / "out",
        density=1.0,
        rank=4,
        adapters=texts,
        adapter_values="i8",
        logits="all",
    )
    artifact = Artifact.open(out)
    downs = [node for node in artifact.model().graph if node.op_type == "ConcatAdapterDown"]
    types = [[i.dtype.name for i in node.inputs[3:]] for node in downs]
    # Fused q, k and v, o and down have task adapters; gate and up have none and share a Down.
    assert sorted(map(tuple, types)) == 6 * [("INT8", "FLOAT16")] + 2 * [("INT8", "INT8")]
    wanted = merged["alpha+beta"]
    assert np.abs(run(artifact.session()) - wanted).max() <= tolerance(wanted, merged[""])
    assert verify(out, memory=False).passed


def test_slots_by_onnxruntime(slotted: Path, merged: dict[str, np.ndarray]) -> None:
    session = Artifact.open(slotted).session()
    empty = run(session)
    assert np.abs(empty - merged[""]).max() <= tolerance(merged["alpha"], merged[""])
    files = {name: ort.LoraAdapter() for name in TARGETS}
    for name, file in files.items():
        file.Load(str(slotted / "adapters" / f"{name}.onnx_adapter"))
    for names in (["alpha"], ["beta"], ["alpha", "beta"], []):
        options = ort.RunOptions()
        for name in names:
            options.add_active_adapter(files[name])
        wanted = merged["+".join(names)]
        limit = tolerance(merged["alpha"] if not names else wanted, merged[""])
        assert np.abs(run(session, options) - wanted).max() <= limit, names


GENAI = """
import sys, numpy, onnxruntime_genai as og
folder, out = sys.argv[1:]
model = og.Model(folder)
adapters = og.Adapters(model)
for name in ("alpha", "beta"):
    adapters.load(f"{folder}/adapters/{name}.onnx_adapter", name)
results = {}
for name in ("", "alpha", "beta"):
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=20, do_sample=False)
    generator = og.Generator(model, parameters)
    if name:
        generator.set_active_adapter(adapters, name)
    generator.append_tokens(numpy.array([[5, 77, 230, 41, 300, 12, 9]], dtype=numpy.int32))
    results[name or "none"] = numpy.array(generator.get_output("logits"))
    del generator
numpy.savez(out, **results)
"""


def test_slots_by_genai(slotted: Path, merged: dict[str, np.ndarray], tmp_path: Path) -> None:
    out = tmp_path / "logits.npz"
    done = subprocess.run(
        [sys.executable, "-c", GENAI, str(slotted), str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = np.load(out)
    for name in ("alpha", "beta"):
        wanted = merged[name][:, -1]
        got = results[name].reshape(-1, results[name].shape[-1])[-1]
        limit = tolerance(wanted, merged[""][:, -1])
        assert np.abs(got - wanted).max() <= limit, name
    none = results["none"].reshape(-1, results["none"].shape[-1])[-1]
    assert np.abs(none - merged[""][0, -1]).max() <= tolerance(merged["alpha"], merged[""])
