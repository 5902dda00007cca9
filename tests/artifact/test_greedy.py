"""Greedy tokens: equality, ties within rounding, and a real decoder through export and verify."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slc.compiler.artifact.greedy import compare_tokens, token_distance
from slc.compiler.artifact.manifest import read_manifest
from slc.compiler.artifact.probes import make_probes, prompt, vocabulary
from slc.compiler.artifact.verify import verify


def scripted(tokens: list[int], gap: float = 1.0):
    """What a loop generates that prefers each of `tokens` by `gap`."""
    return tokens, [np.eye(10, dtype=np.float32)[token] * np.float32(gap) for token in tokens]


def test_equal_tokens_pass() -> None:
    check = compare_tokens([0], scripted([1, 2, 3]), scripted([1, 2, 3]), rounding=1e-5)
    assert (check.passed, check.equal, check.tie_margin) == (True, 3, None)


@pytest.mark.parametrize(("gap", "passed"), [(1.0, False), (1e-5, True)])
def test_tokens_may_part_only_at_a_tie(gap: float, passed: bool) -> None:
    ours, dense = scripted([1, 7, 3]), scripted([1, 2, 3], gap)
    check = compare_tokens([0], ours, dense, rounding=1e-5)
    assert (check.passed, check.equal) == (passed, 1)
    assert check.tie_margin == pytest.approx(gap)


def test_distance_of_tokens() -> None:
    distance = token_distance([4, 5, 6, 7, 8], [4, 5, 9, 7, 9])
    assert (distance.agreed, distance.equal) == (3, 2)
    assert token_distance([4], [4]).equal == 1


@pytest.fixture(scope="module")
def decoder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slc.compiler import export

    out = tmp_path_factory.mktemp("artifact") / "out"
    export(tiny_llama, out, device="host", density=0.5, rank=4, values="i8", context=128)
    return out


@pytest.mark.slow
def test_decoder_verifies(decoder: Path, tiny_llama: Path) -> None:
    report = verify(decoder, reference=tiny_llama, memory=False)
    assert report.passed
    assert report.tokens is not None
    assert len(report.tokens.tokens) == 64
    assert report.tokens.equal == 64 or report.tokens.tie_margin is not None
    assert len(set(report.tokens.tokens)) > 3
    for against in ("original", "as shipped"):  # i8 is shipped with int8 activations
        logits = [d for d in report.distances if (d.against, d.output) == (against, "logits")]
        assert len(logits) == 3
        assert all(0.5 < d.cosine < 1 and d.max_error > 0 for d in logits)
    assert {check.accuracy_level for check in report.linears} == {1, 4}
    assert len(report.linear_distances) == 12
    original = report.original_tokens
    assert original is not None
    assert len(original.tokens) == 64
    assert original.equal <= original.agreed <= 64
    assert original.agreed > 16  # a quarter: chance would be one of 512


@pytest.mark.slow
def test_as_it_is_says_what_the_original_says(tiny_llama: Path, tmp_path: Path) -> None:
    from slc.compiler import export

    out = export(tiny_llama, tmp_path / "out", values="dense", context=128)
    original = verify(out, reference=tiny_llama, memory=False).original_tokens
    assert original is not None
    assert original.agreed == original.equal == len(original.tokens)


@pytest.mark.slow
def test_full_head_leaves_the_residual_to_the_adapters(decoder: Path) -> None:
    """The head's density of 1 is not that of the decomposition, whose residual would be zero."""
    from slc.compiler.artifact.artifact import Artifact

    initializers = Artifact.open(decoder).model().graph.initializers
    adapters = [v.const_value for name, v in initializers.items() if name.endswith(".lora_A")]
    assert adapters
    assert all(np.abs(a.numpy()).max() > 0 for a in adapters if a is not None)


@pytest.mark.slow
def test_decoder_folder_says_what_was_counted(decoder: Path) -> None:
    config = json.loads((decoder / "genai_config.json").read_text())
    assert config["model"]["context_length"] == 128
    assert config["search"]["max_length"] == 128
    assert {"genai_config.json", "tokenizer.json"} <= set(read_manifest(decoder)["files"])


@pytest.mark.slow
def test_probes_of_a_decoder(decoder: Path) -> None:
    from slc.compiler.artifact.artifact import Artifact

    model = Artifact.open(decoder).model()
    config = json.loads((decoder / "genai_config.json").read_text())
    assert vocabulary(model, config) == 512
    assert all(0 <= token < 512 for token in prompt(model, config))
    for probe in make_probes(model, config):
        batch, length = probe.feeds["input_ids"].shape
        assert probe.feeds["attention_mask"].shape == (batch, length)
        assert probe.feeds["past_key_values.0.key"].shape == (batch, 2, 0, 16)
    again = make_probes(model, config)[2].feeds["input_ids"]
    np.testing.assert_array_equal(probe.feeds["input_ids"], again)
