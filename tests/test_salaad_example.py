"""examples/salaad_pretrain: perplexity and chart against closed forms, `--quick` as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from examples.line_chart import Panel, svg
from examples.salaad_pretrain.onnx_perplexity import negative_log_likelihood

ROOT = Path(__file__).resolve().parents[1]


def test_negative_log_likelihood() -> None:
    """Logits that are log-probabilities up to a constant: ln 2 + ln 4, whatever the constant."""
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]])) + 700
    total = negative_log_likelihood(logits.astype(np.float32), np.array([[0, 1]]))
    # f32 logits near 700 are rounded to 3e-5.
    assert total == pytest.approx(np.log(8), abs=1e-4)


def test_a_chart_is_xml_with_every_series() -> None:
    points = [(0.0, 1.0), (10.0, 100.0)]
    panels = [
        Panel("a < b", "step", {"one": points, "two": points}, log=True, levels={"goal": 10.0}),
        Panel("flat", "step", {"three": [(1.0, 0.0), (2.0, 0.0)]}, marks=True),
    ]
    root = ET.fromstring(svg(panels))
    texts = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert {"a < b", "one", "two", "goal", "flat", "three", "step"} <= texts
    lines = [e for e in root.iter() if e.tag.endswith("polyline")]
    assert len(lines) == 3
    # On a log axis 1 is at the bottom, and 10 halfway to 100.
    heights = [float(place.split(",")[1]) for place in lines[0].attrib["points"].split()]
    assert heights[0] == pytest.approx(268.0)
    with pytest.raises(ValueError, match="has no point"):
        svg([Panel("empty", "x", {"none": []})])


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("salaad") / "out"
    command = [sys.executable, "-m", "examples.salaad_pretrain", "--quick", "-o", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    return out


@pytest.mark.slow
def test_quick_trains_slices_exports(quick: Path) -> None:
    results = json.loads((quick / "results.json").read_text(encoding="utf-8"))
    training = results["training"]
    blocks = training["salaad"]["blocks"]
    assert len(blocks) == 5  # qkv, o, gate, up, down
    for block in blocks:  # the refit ends at the targets, to the entry
        N, K = block["N"], block["K"]
        assert block["nnz"] == round(training["settings"]["target_density"] * N * K)
        assert block["rank"] <= round(training["settings"]["target_rank"] * min(N, K))
    # X is L + S then, so both are one model, and what onnxruntime runs is it too: in f16, and an
    # embedding of 8 bits.
    salaad = training["salaad"]
    assert salaad["surrogate"] == pytest.approx(salaad["vanilla"], rel=1e-4)
    spectrum = results["spectrum"]
    assert spectrum[0]["torch"] == pytest.approx(salaad["surrogate"], rel=1e-6)
    for row in spectrum:
        assert row["onnxruntime"] == pytest.approx(row["torch"], rel=5e-3)
    assert [row["budget_bytes"] for row in spectrum] == sorted(
        (row["budget_bytes"] for row in spectrum), reverse=True
    )
    assert spectrum[-1]["parameters"] < spectrum[0]["parameters"]
    engines = {row["name"]: row for row in results["engines"]}
    assert set(engines) == {
        "dense-f32", "dense-int4", "salaad-f16", "salaad-i8", "salaad-i4",
    }  # fmt: skip
    dense = training["dense"]["perplexity"]
    assert engines["dense-f32"]["perplexity"] == pytest.approx(dense, rel=1e-4)
    for row in engines.values():
        assert row["text"].startswith("def __init__(self")


@pytest.mark.slow
def test_quick_goes_on_where_it_was(quick: Path) -> None:
    """A second call with the same folder trains nothing and measures the same."""
    before = json.loads((quick / "results.json").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "examples.salaad_pretrain", "--quick", "-o", str(quick)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    assert json.loads((quick / "results.json").read_text(encoding="utf-8")) == before


@pytest.mark.slow
def test_quick_plots(quick: Path) -> None:
    wanted = {
        "training.svg": {"dense", "SALAAD, L + S", "density of S", "target"},
        "spectrum.svg": {"in torch, f32", "in onnxruntime, f16", "dense model"},
    }
    for name, texts in wanted.items():
        found = {e.text for e in ET.parse(quick / name).iter() if e.tag.endswith("text")}
        assert texts <= found
