"""A folder with a config.json alone can be planned, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from slc.compiler import export, plan
from slc.compiler.budget import to_json
from slc.compiler.errors import BudgetError, ModelError
from slc.compiler.frontends.config_only import has_weights, with_zeros
from slc.compiler.frontends.safetensors_file import parameters_of

SCHEMA = Path(__file__).resolve().parents[2] / "compiler" / "budget" / "plan.schema.json"


@pytest.fixture(scope="module")
def bare(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama without weights and tokenizer."""
    folder = tmp_path_factory.mktemp("bare") / "llama"
    folder.mkdir()
    shutil.copy(tiny_llama / "config.json", folder)
    return folder


def test_a_plan_is_that_of_the_model(bare: Path, tiny_llama: Path) -> None:
    options = {"mem": "60MB", "context": 64, "device": "x86-64-avx2"}
    found, target = plan(bare, **options)
    wanted, _ = plan(tiny_llama, **options)
    assert found.memory == wanted.memory
    assert [(c.encoding, c.nnz, c.rank) for c in found.choices] == [
        (c.encoding, c.nnz, c.rank) for c in wanted.choices
    ]
    assert any("no weights" in note for note in found.notes)
    assert not any("no weights" in note for note in wanted.notes)
    document = {"device": target.name, **to_json(found)}
    jsonschema.validate(json.loads(json.dumps(document)), json.loads(SCHEMA.read_text()))
    with pytest.raises(BudgetError) as error:
        plan(bare, **{**options, "mem": "1MB"})
    assert 1e6 < error.value.smallest_bytes <= found.memory.total_bytes


def test_zeros_take_no_room(bare: Path, tmp_path: Path, tiny_llama: Path) -> None:
    made = with_zeros(bare, tmp_path / "zeros") / "model.safetensors"
    found = {name: p.shape for name, p in parameters_of(made).items()}
    wanted = {name: p.shape for name, p in parameters_of(tiny_llama / "model.safetensors").items()}
    assert found == wanted
    assert 512 * made.stat().st_blocks < made.stat().st_size / 2


def test_an_export_wants_weights(bare: Path, tmp_path: Path) -> None:
    assert not has_weights(bare)
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        export(bare, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "no_such_model", "architectures": ["NoSuchModel"]},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": "wide"},
    ],
)
def test_a_config_of_nothing_is_a_sentence(config: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        plan(tmp_path)


def test_an_encoder(minilm: Path, tmp_path: Path) -> None:
    config = json.loads((minilm / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "vocab_size": 400}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found, _ = plan(tmp_path, context=64)
    # Word and position embeddings; the attention's output and both halves of the MLP.
    assert sorted(choice.encoding for choice in found.choices) == [
        "bitmap", "bitmap", "bitmap", "int8", "int8",
    ]  # fmt: skip
