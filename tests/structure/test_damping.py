"""How far the second moments of a text are trusted: what other text says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slc.compiler.frontends import load, weight_array
from slc.compiler.structure import gptq, hessian
from slc.compiler.structure.damping import best_damping, some_rows
from slc.compiler.structure.metric import DAMPING, Metric
from slc.compiler.structure.sensitivity import perturbed_model

N, K = 96, 80


def samples(rows: int, seed: int) -> np.ndarray:
    """Of one distribution whose columns correlate: H f32 [K, K] of `rows` draws."""
    mix = np.random.default_rng(7).standard_normal((K, K)) * np.geomspace(1, 0.05, K)
    x = np.random.default_rng(seed).standard_normal((rows, K)) @ mix.T
    return np.asarray(x.T @ x / rows, np.float32)


@pytest.fixture(scope="module")
def W() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, K)).astype(np.float32)


def loss(E: np.ndarray, H: np.ndarray) -> float:
    return float(np.sum((E @ H) * E, dtype=np.float64))


def int4_loss(W: np.ndarray, metric: gptq.DampedHessian, H: np.ndarray) -> float:
    return loss(W - gptq.quantize_matrix(W, metric, bits=4, group=32).matrix(), H)


def decomposed_loss(W: np.ndarray, fit: np.ndarray, damping: float, H: np.ndarray) -> float:
    made = hessian.decompose_matrix(
        W.copy(), fit, density=0.4, rank=4, iterations=60, damping=damping
    )
    E = W - made.B @ made.A
    E.reshape(-1)[made.index] -= made.value
    return loss(E, H)


def test_few_samples_are_trusted_less_and_other_text_gains(W: np.ndarray) -> None:
    """60 samples of 80 columns: H is singular, and what it shows of 20 directions is nothing."""
    fit, held_out, truth = samples(60, 1), samples(400, 2), samples(100_000, 3)
    metric = gptq.DampedHessian.chosen(W, fit, held_out, group=32)
    assert int4_loss(W, metric, truth) < 0.95 * int4_loss(W, gptq.DampedHessian.of(fit), truth)
    damping = hessian.chosen_damping(W, fit, held_out, 0.4)
    assert damping > DAMPING
    chosen, plain = (decomposed_loss(W, fit, d, truth) for d in (damping, DAMPING))
    assert chosen < 0.95 * plain


def test_many_samples_are_trusted(W: np.ndarray) -> None:
    fit, held_out = samples(100_000, 1), samples(20_000, 2)
    metric = gptq.DampedHessian.chosen(W, fit, held_out, group=32)
    # The least of all, or the next: rounding column by column gains by a little of it on any H.
    assert (np.diag(metric.H) < 1.031 * np.diag(fit)).all()
    assert hessian.chosen_damping(W, fit, held_out, 0.4) == DAMPING


def test_without_other_text_the_damping_is_the_usual_one(W: np.ndarray) -> None:
    fit = samples(60, 1)
    assert hessian.chosen_damping(W, fit, None, 0.4) == DAMPING
    metric = gptq.DampedHessian.chosen(W, fit, None, group=32)
    np.testing.assert_array_equal(metric.H, gptq.DampedHessian.of(fit).H)


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_where_there_is_nothing_to_choose(W: np.ndarray, density: float) -> None:
    assert hessian.chosen_damping(W, samples(60, 1), samples(400, 2), density) == DAMPING


def test_the_least_loss_is_taken_and_of_equals_the_first() -> None:
    errors = {0.1: 3.0, 0.2: -1.0, 0.3: 1.0}
    H = np.eye(1, dtype=np.float32)
    found = best_damping((0.1, 0.2, 0.3), lambda d: np.float32([[errors[d]]]), H)
    assert found == 0.2


@pytest.mark.parametrize("rows", [1, 47, 48, 96, 1000])
def test_rows_that_are_tried(rows: int) -> None:
    some = some_rows(np.arange(rows, dtype=np.float32)[:, None])[:, 0]
    assert min(rows, 48) <= len(some) <= 95
    assert some[0] == 0
    assert some[-1] >= rows - max(1, rows // 48)  # spread over all of them


def test_a_redamped_metric_is_that_of_its_damping() -> None:
    H = samples(200, 1)
    wanted, got = Metric.of(H, 0.1), Metric.of(H, 0.02).redamped(0.08)
    np.testing.assert_allclose(got.H, wanted.H, rtol=1e-6)
    # Eigenvectors are the same but for their signs: f32 residuals of a matrix of norm K.
    rebuilt = got.vectors * got.values @ got.vectors.T
    np.testing.assert_allclose(rebuilt, wanted.H, atol=K * 1e-6)


def test_sensitivities_are_of_the_texts_that_are_held_out(minilm: Path, tmp_path: Path) -> None:
    """Five texts give what the fifth gives alone."""
    texts = ["a cat sat", "rain", "the board is small", "write code", "one more for the judge"]
    (tmp_path / "work").mkdir()
    source = load(minilm, workdir=tmp_path / "work")
    linear = next(li for li in source.linears if "query" in li.name)
    W = weight_array(source, linear) * np.float32(0.5)

    def measured(some: list[str]) -> float:
        file = tmp_path / "text.jsonl"
        file.write_text("".join(json.dumps({"text": one}) + "\n" for one in some))
        with perturbed_model(source, file, [linear]) as model:
            return model.error(linear, W)

    assert measured(texts) == measured(texts[4:])
    assert measured(texts[:4]) != measured(texts[4:])
