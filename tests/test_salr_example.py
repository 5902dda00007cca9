"""examples/salr_finetune: its scores against closed forms, its task, and `--quick` as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.salr_finetune.passages import MARKS, passages
from examples.salr_finetune.tagger import difference, f1

ROOT = Path(__file__).resolve().parents[1]


def test_f1() -> None:
    """5 found of 8 given and 10 there are: precision 5/8, recall 1/2, F1 10/18."""
    counts = np.array([[2, 3, 4], [3, 5, 6]])  # of two passages: found, given, there are
    assert f1(counts) == pytest.approx(100 * 10 / 18)
    assert f1(np.array([[0, 0, 7]])) == 0
    assert f1(np.array([[7, 7, 7]])) == 100


def test_difference_and_its_interval() -> None:
    """Two methods that differ by one mark in every second passage of many."""
    there = np.full(400, 10)
    low = np.stack([np.full(400, 5), there, there], 1)
    high = low.copy()
    high[::2, 0] += 1
    mean, left, right = difference([high], [low])
    assert mean == pytest.approx(5.0)  # half a mark of ten
    # The share of such passages among 400 drawn has a standard error of sqrt(1/4/400) = 0.025: in
    # F1 0.25, so that 95 % are within 0.49; the bootstrap of 2000 rounds knows that to a tenth.
    assert (right - left) / 2 == pytest.approx(0.49, rel=0.15)
    assert left < mean < right
    assert difference([low], [low]) == (0, 0, 0)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("salr") / "out"
    command = [sys.executable, "-m", "examples.salr_finetune", "--quick", "-o", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    return out


@pytest.mark.slow
def test_passages() -> None:
    training, held_out = passages()
    assert len(training) > 2 * len(held_out) > 1000
    assert not {p.words for p in training} & {p.words for p in held_out}
    for passage in held_out:
        assert len(passage.words) == len(passage.marks) == 36
    # Marks that tell the label are gone; two in a row ("etc.," and "...") leave one, now and then.
    words = [word for passage in held_out for word in passage.words]
    assert sum(word.endswith((",", ".", ":", ";")) for word in words) < 0.002 * len(words)
    shares = np.bincount([m for p in held_out for m in p.marks], minlength=len(MARKS))
    assert (shares > 0).all()
    assert shares[0] > 0.8 * shares.sum()


@pytest.mark.slow
def test_quick_runs_to_the_artifact(quick: Path) -> None:
    results = json.loads((quick / "results.json").read_text(encoding="utf-8"))
    names = [row["name"] for row in results["methods"]]
    assert names == ["lora", "salr", "salr-onnxruntime"]
    shapes = results["sizes"]["shapes"].values()
    assert sum(row["linears"] for row in shapes) == 36
    for row in shapes:  # one bit and half of f16's values: 0.5625, and headers
        assert 0.5625 < row["sparse"] / row["dense_f16"] <= 0.57
    # f16 adapters of rank 64 + 16 on 24 of 384 × 384 and 12 of 384 × 1536, none of them twice.
    assert results["sizes"]["adapters"] == 2 * 80 * (24 * (384 + 384) + 12 * (384 + 1536))
    assert (quick / "f1.svg").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.slow
def test_quick_learns_with_and_without_mask(quick: Path) -> None:
    """Six steps suffice for the losses of both to fall."""
    losses = {name: np.load(quick / f"{name}-0.npz")["losses"] for name in ("lora", "salr")}
    assert losses["lora"].shape == losses["salr"].shape == (6,)
    for values in losses.values():
        assert np.isfinite(values).all()
        assert values[-1] < values[0]
