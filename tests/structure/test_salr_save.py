"""What SALR leaves and slc exports: S, residual and task adapters in onnxruntime against torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BertConfig, BertModel
from typer.testing import CliRunner

from slc.compiler import export
from slc.compiler.artifact.artifact import Artifact
from slc.compiler.cli import app
from slc.compiler.errors import ModelError, RequestError
from slc.compiler.frontends import load
from slc.compiler.frontends.source import Source
from slc.compiler.structure.checkpoint import StructuredCheckpoint
from slc.compiler.structure.salr_peft import Salr

torch.set_num_threads(1)  # the matrices are too small to share, and other tests run beside these

IDS = torch.arange(5, 24)[None]
TARGETS = r"encoder\..*\.(query|key|value|dense)"
WHOLE: dict[str, Any] = {"values": "f16", "logits": "all"}  # all that it holds
U16 = 2.0**-11  # f16's rounding, relative


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights, four times the usual size: they matter."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    config = BertConfig(
        vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=160, max_position_embeddings=64, initializer_range=0.08,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Its graph: loaded once, since that takes seconds."""
    return load(bert, workdir=tmp_path_factory.mktemp("graph"))


def lora(model: Any, targets: Any = TARGETS, **options: Any) -> Any:
    """LoRA with B not zero, as if trained."""
    torch.manual_seed(1)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, **options
    )
    return get_peft_model(model, config).eval()


def train_a_little(salr: Salr) -> None:
    """Moves every trained parameter, so that nothing can be made again from the base."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in salr.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


def states(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=IDS).last_hidden_state.numpy()


def states_by_ort(artifact: Path) -> np.ndarray:
    session = Artifact.open(artifact).session()
    ids = IDS.numpy()
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    feeds["token_type_ids"] = np.zeros_like(ids)
    feeds = {value.name: feeds[value.name] for value in session.get_inputs()}
    return session.run(["last_hidden_state"], feeds)[0]


def rounding_moves(salr: Salr, left_out: Sequence[str] = ()) -> float:
    """How far f16's rounding of S, A and B can move the hidden states.

    Each weight is moved by the largest error that rounding can make, U16 of its size (2·U16 and a
    second factor for B·A), with random signs; real errors are uniform below that, so sqrt(3) times
    smaller in the mean square. The largest of a few draws is taken, and three times it allowed for
    the largest element's luck.
    """
    wanted = states(salr.model)
    largest = 0.0
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        kept = {}
        with torch.no_grad():
            for target in salr.targets:
                if target.name in left_out:
                    continue
                module = salr.model.get_base_model().get_submodule(target.name)
                for weight in (
                    target.weight,
                    *(module.lora_A[name].weight for name in salr.adapters),
                    *(module.lora_B[name].weight for name in salr.adapters),
                ):
                    kept[weight] = weight.detach().clone()
                    signs = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
                    weight.mul_(1 + U16 * signs)
            largest = max(largest, float(np.abs(states(salr.model) - wanted).max()))
            for weight, value in kept.items():
                weight.copy_(value)
    return 3 * largest


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}], ids=["lora", "rslora"])
def test_artifact_computes_what_was_trained(
    bert: Path, source: Source, tmp_path: Path, options: dict[str, Any]
) -> None:
    salr = Salr(lora(BertModel.from_pretrained(bert), **options), density=0.5, rank=8)
    train_a_little(salr)
    base = source if options else None  # None: from where it was loaded
    saved = salr.save(tmp_path / "out", base)
    assert saved.model == tmp_path / "out" / "model.slr"
    assert saved.adapters == {"default": tmp_path / "out" / "adapter"}
    artifact = tmp_path / "artifact"
    command = ["export", str(saved.model), "--adapter", str(saved.adapters["default"])]
    command += ["--values", "f16", "-o", str(artifact)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    wanted, limit = states(salr.model), rounding_moves(salr)
    assert np.abs(states_by_ort(artifact) - wanted).max() <= limit
    for name in salr.adapters:  # and the limit tells either adapter from none
        salr.model.base_model.set_adapter([other for other in salr.adapters if other != name])
        assert np.abs(states(salr.model) - wanted).max() > 10 * limit


def test_one_pair_of_gemms_for_all_adapters(bert: Path, source: Source, tmp_path: Path) -> None:
    model = lora(BertModel.from_pretrained(bert))
    model.add_adapter("second", LoraConfig(r=3, target_modules=TARGETS, init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    salr = Salr(model, density=0.5, rank=8)
    saved = salr.save(tmp_path / "out", source)
    assert list(saved.adapters) == ["default", "second"]
    adapters = [f"{path}={name}" for name, path in saved.adapters.items()]
    artifact = export(saved.model, tmp_path / "artifact", **WHOLE, adapters=adapters)
    downs = [n for n in Artifact.open(artifact).model().graph if n.op_type == "ConcatAdapterDown"]
    ranks = [[i.shape[0] for i in node.inputs[3:] if i is not None] for node in downs]
    assert {rank for group in ranks for rank in group} == {8 + 4 + 3}
    wanted, limit = states(model), rounding_moves(salr)
    assert np.abs(states_by_ort(artifact) - wanted).max() <= limit


def test_checkpoint_holds_mask_and_residual(bert: Path, source: Source, tmp_path: Path) -> None:
    salr = Salr(lora(BertModel.from_pretrained(bert)), density=0.5, rank=8)
    train_a_little(salr)
    made = StructuredCheckpoint(salr.save(tmp_path / "out", source).model)
    assert made.meta.method == "salr"
    assert made.meta.settings == {"density": 0.5, "rank": 8, "seed": 0}
    base = salr.model.get_base_model()
    for target in salr.targets:
        module = base.get_submodule(target.name)
        S = module.base_layer.weight.numpy()
        B, A = (half["residual"].weight.detach().numpy() for half in (module.lora_B, module.lora_A))
        entry = made.entry(target.name)
        assert (entry.nnz, entry.rank) == (np.count_nonzero(S), 8)
        assert np.array_equal(made.sparse_matrix(target.name), S)
        # B·A is factored again: see test_trained.py's bound.
        size = np.linalg.norm(B) * np.linalg.norm(A)
        limit = np.finfo(np.float32).eps * (18 * size + np.abs(S))
        assert np.all(np.abs(made.dense(target.name) - (S + B @ A)) <= limit)


def test_without_residual(bert: Path, source: Source, tmp_path: Path) -> None:
    salr = Salr(lora(BertModel.from_pretrained(bert)), density=0.5, rank=0)
    saved = salr.save(tmp_path / "out", source)
    adapters = [str(saved.adapters["default"])]
    artifact = export(saved.model, tmp_path / "artifact", **WHOLE, adapters=adapters)
    wanted, limit = states(salr.model), rounding_moves(salr)
    assert np.abs(states_by_ort(artifact) - wanted).max() <= limit


def test_bf16_base(bert: Path, source: Source, tmp_path: Path) -> None:
    """The mask keeps the values in bf16; the source is read in f32."""
    salr = Salr(lora(BertModel.from_pretrained(bert, dtype=torch.bfloat16)), density=0.5, rank=8)
    saved = salr.save(tmp_path / "out", source)
    adapters = [str(saved.adapters["default"])]
    artifact = export(saved.model, tmp_path / "artifact", **WHOLE, adapters=adapters)
    assert np.isfinite(states_by_ort(artifact)).all()
    for target in salr.targets:
        S = StructuredCheckpoint(saved.model).sparse_matrix(target.name)
        assert np.array_equal(S, target.array())


def test_fused_qkv_of_a_decoder(tiny_llama: Path, tmp_path: Path) -> None:
    """q, k and v share one Linear: their residuals are stacked, at the sum of their ranks."""
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    salr = Salr(lora(base, ["q_proj", "v_proj", "down_proj"]), density=0.5, rank=6)
    train_a_little(salr)
    saved = salr.save(tmp_path / "out")
    made = StructuredCheckpoint(saved.model)
    for layer in range(2):
        fused = next(name for name in made.names if re.search(rf"\.{layer}\..*q", name))
        attention = salr.model.get_base_model().model.layers[layer].self_attn
        parts = []
        for name in ("q_proj", "k_proj", "v_proj"):
            module = getattr(attention, name)
            if name == "k_proj":  # not adapted: whole
                parts.append(module.weight.detach().numpy())
                continue
            B, A = module.lora_B["residual"].weight, module.lora_A["residual"].weight
            parts.append((module.base_layer.weight + B @ A).detach().numpy())
        W = np.concatenate(parts)
        # Rank 12 of two residuals, factored again: rounding of the products' sizes, all below 8.
        assert np.abs(made.dense(fused) - W).max() <= 26 * np.finfo(np.float32).eps * 8
    adapters = [str(saved.adapters["default"])]
    artifact = export(saved.model, tmp_path / "artifact", **WHOLE, adapters=adapters)
    with torch.no_grad():
        wanted = salr.model(input_ids=IDS).logits.numpy()
        salr.model.base_model.set_adapter("residual")
        moved = np.abs(salr.model(input_ids=IDS).logits.numpy() - wanted).max()
    session = Artifact.open(artifact).session()
    ids = IDS.numpy()
    feeds: dict[str, np.ndarray] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, 16), np.float32)
    # What 8 bits in embedding and head and f16 elsewhere do; see tests/test_adapters.py.
    assert np.abs(session.run(["logits"], feeds)[0] - wanted).max() <= moved / 10


def test_adapter_goes_on_in_peft(bert: Path, source: Source, tmp_path: Path) -> None:
    """The task's folder is PEFT's own: loaded on a base masked again it is the trained model."""
    salr = Salr(lora(BertModel.from_pretrained(bert)), density=0.5, rank=8)
    saved = salr.save(tmp_path / "out", source)
    again = PeftModel.from_pretrained(BertModel.from_pretrained(bert), saved.adapters["default"])
    Salr(again, density=0.5, rank=8)
    assert np.array_equal(states(again.eval()), states(salr.model))


def test_module_that_the_graph_lacks(bert: Path, source: Source, tmp_path: Path) -> None:
    """The pooler feeds no output: left out while LoRA's B is zero, refused once it was trained."""
    config = LoraConfig(r=4, target_modules=[*["query", "value"], "pooler.dense"])
    salr = Salr(get_peft_model(BertModel.from_pretrained(bert), config), density=0.5, rank=4)
    saved = salr.save(tmp_path / "out", source)
    assert saved.left_out == ("pooler.dense",)
    adapters = [str(saved.adapters["default"])]
    artifact = export(saved.model, tmp_path / "artifact", **WHOLE, adapters=adapters)
    # Key and MLP, neither masked nor adapted, are rounded too and are not in rounding_moves: they
    # are 2/3 of the weights, so that the sum of squares is three times as large.
    salr.model.eval()
    limit = 2 * rounding_moves(salr, left_out=saved.left_out)
    assert np.abs(states_by_ort(artifact) - states(salr.model)).max() <= limit
    train_a_little(salr)
    with pytest.raises(ModelError, match=r"pooler\.dense"):
        salr.save(tmp_path / "trained", source)


def test_refusals(bert: Path, source: Source, tmp_path: Path) -> None:
    salr = Salr(lora(BertModel.from_pretrained(bert)), density=0.5, rank=4)
    torch.manual_seed(5)
    other = Salr(lora(BertModel(BertConfig.from_pretrained(bert))), density=0.5, rank=4)
    with pytest.raises(ModelError, match="is not that of"):
        other.save(tmp_path / "out", source)
    salr.save(tmp_path / "out", source)
    with pytest.raises(RequestError, match="exists"):
        salr.save(tmp_path / "out", source)
    salr.save(tmp_path / "out", source, replace=True)
    salr.model.get_base_model().config._name_or_path = "hub/name"
    with pytest.raises(RequestError, match="give base="):
        salr.save(tmp_path / "again")


def test_initializers_are_f16(bert: Path, source: Source, tmp_path: Path) -> None:
    """What the size claim rests on: one bit a weight, f16 values, f16 adapters."""
    salr = Salr(lora(BertModel.from_pretrained(bert)), density=0.5, rank=8)
    saved = salr.save(tmp_path / "out", source)
    adapters = [str(saved.adapters["default"])]
    artifact = export(saved.model, tmp_path / "artifact", **WHOLE, adapters=adapters)
    sparse = dense = 0
    for node in Artifact.open(artifact).model().graph:
        if node.op_type == "BitmapSparseGemm":
            dense += 2 * int(node.attributes["N"].as_int()) * int(node.attributes["K"].as_int())
            sparse += int(node.inputs[1].const_value.nbytes)
        if node.op_type == "ConcatAdapterDown":
            assert node.inputs[3].dtype == ir.DataType.FLOAT16
    # 16·0.5 + 1 of 16 bits is 0.5625; beside it a header and row starts, which matter at K = 64.
    assert 0.5625 * dense <= sparse <= 0.60 * dense
