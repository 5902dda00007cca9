"""SALAAD in a transformers Trainer and in the example's loop, and from there to onnxruntime."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import slc.ops
from examples.salaad_pretrain.corpus import Corpus, make_corpus
from examples.salaad_pretrain.model import Shape, make_model, save
from examples.salaad_pretrain.train import Run, read_log, train
from slc.compiler import export
from slc.compiler.errors import ModelError
from slc.compiler.structure.checkpoint import StructuredCheckpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPE = Shape(hidden=64, layers=1, heads=2, kv_heads=1, intermediate=160, vocabulary=512)
TOKENS = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), SHAPE.vocabulary, every=40)


def with_salaad(model: Any) -> Any:
    from slc.compiler.structure.salaad import Salaad

    # Six passes take thresholds to more than half of a weight's root mean square.
    stacks = [("q_proj", "k_proj", "v_proj")]
    return Salaad(model, every=2, stacks=stacks, k_alpha=0.15, k_beta=0.15)


def trained(
    corpus: Corpus, folder: Path, resume: Path | None = None, at: Path | None = None
) -> Any:
    """(model, salaad) after 12 steps of a Trainer, from the start or from a checkpoint."""
    from slc.compiler.structure.salaad_callback import SalaadCallback

    model = make_model(SHAPE, 0)
    salaad = with_salaad(model)
    rows = [{"input_ids": row[:TOKENS], "labels": row[:TOKENS]} for row in corpus.train[:64]]
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=12, per_device_train_batch_size=4, save_steps=8, logging_steps=4,
        use_cpu=True, report_to=[], disable_tqdm=True, learning_rate=2e-3,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows, callbacks=[SalaadCallback(salaad, at or resume)]
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    logged = [row for row in trainer.state.log_history if "salaad_density" in row]
    assert logged, "the structure's figures are in the Trainer's log"
    assert all(row["salaad_seconds_per_step"] > 0 for row in logged)
    return model, salaad


@pytest.fixture(scope="module")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    folder = tmp_path_factory.mktemp("trainer")
    return (*trained(corpus, folder), folder)


def equal(a: Any, b: Any) -> bool:
    states = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in states)


def test_a_trainer_resumes_to_the_bit(corpus: Corpus, whole: tuple[Any, Any, Path]) -> None:
    model, salaad, folder = whole
    again, salaad_again = trained(corpus, folder, resume=folder / "checkpoint-8")
    assert salaad.passes == salaad_again.passes == 6
    assert equal(model, again)
    for block, other in zip(salaad.blocks, salaad_again.blocks, strict=True):
        assert torch.equal(block.S, other.S)
        assert torch.equal(block.L(), other.L())


def test_a_trainer_refuses_another_steps_state(
    corpus: Corpus, whole: tuple[Any, Any, Path]
) -> None:
    folder = whole[2]
    with pytest.raises(ModelError, match="step 8"):
        trained(corpus, folder, resume=folder / "checkpoint-8", at=folder / "checkpoint-12")


def test_the_examples_loop_resumes_to_the_bit(corpus: Corpus, tmp_path: Path) -> None:
    run = Run(steps=6, batch=2, warmup=2, autocast=False)
    options = {"salaad": with_salaad, "save_every": 100}
    model, _ = train(run, SHAPE, corpus, tmp_path / "whole", **options)
    train(run, SHAPE, corpus, tmp_path / "cut", stop_at=3, **options)
    again, _ = train(run, SHAPE, corpus, tmp_path / "cut", **options)
    assert equal(model, again)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "cut")]
    losses = [[row["loss"] for row in log if "loss" in row] for log in logs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == run.steps
    longer = dataclasses.replace(run, steps=run.steps + 1)
    with pytest.raises(SystemExit, match="is of another run"):
        train(longer, SHAPE, corpus, tmp_path / "cut", **options)


def test_an_export_computes_the_surrogate(
    corpus: Corpus, whole: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    from slc.compiler.structure.salaad_export import write_salaad

    model, salaad, _ = whole
    model.eval()
    folder = save(model, corpus.tokenizer, tmp_path / "hf")
    checkpoint = write_salaad(salaad, folder, tmp_path / "m.slr")
    assert isinstance(checkpoint, StructuredCheckpoint)
    out = export(tmp_path / "m.slr", tmp_path / "out", values="f16", context=256, logits="all")
    rows = json.loads((out / "manifest.json").read_text())["linears"]
    head = next(row for row in rows if row["kind"] == "lm_head")
    assert head["choice"]["encoding"] in ("bitmap", "delta")
    assert head["choice"]["nnz"] == checkpoint.entry(head["name"]).nnz < head["N"] * head["K"]

    options = ort.SessionOptions()
    slc.ops.register(options)
    session = ort.InferenceSession(out / "model.onnx", options)
    ids = corpus.held_out[:1, :TOKENS]
    past = {
        value.name: np.zeros((1, 1, 0, SHAPE.hidden // SHAPE.heads), np.float32)
        for value in session.get_inputs()
        if "past" in value.name
    }
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), **past}
    logits = session.run(["logits"], feeds)[0]
    with torch.no_grad():
        vanilla = model(torch.from_numpy(ids)).logits.numpy()
        with salaad.surrogate():
            wanted = model(torch.from_numpy(ids)).logits.numpy()
    # f16 values and adapters and an 8-bit embedding (a step is 1/127 of a group's largest entry)
    # move logits by less than a hundredth; X instead of L + S would move them several times more.
    largest = np.abs(wanted).max()
    assert np.abs(logits - wanted).max() <= 0.02 * largest
    assert np.abs(vanilla - wanted).max() >= 0.06 * largest
