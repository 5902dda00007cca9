"""The report as a file: what stands on it, whatever was measured; what it refuses."""

from __future__ import annotations

import copy
import json
import re
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from artifact.graphs import write_artifact
from report.reader import Reader
from report.samples import REASON, frontier, manifest, measured

from slc.compiler.artifact.measured import keep_measured, read_measured
from slc.compiler.budget.frontier import point_json
from slc.compiler.errors import RequestError, SlcError
from slc.compiler.report.comparison import memory_row
from slc.compiler.report.latency import histogram, percentiles
from slc.compiler.report.linear_map import linear_map, shade
from slc.compiler.report.plot import Axis
from slc.compiler.report.provenance import command
from slc.compiler.report.report import render, write_report


def schema(package: str, name: str) -> dict:
    found: dict = json.loads(resources.files(f"slc.compiler.{package}").joinpath(name).read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def test_samples_are_what_slc_writes() -> None:
    about = manifest(2, budget=10**9)
    jsonschema.validate(about, schema("artifact", "manifest.schema.json"))
    jsonschema.validate(measured(about), schema("artifact", "measured.schema.json"))
    document = {
        "device": "x", "page": "x.html", "points": [point_json(p) for p in frontier(about)]
    }  # fmt: skip
    jsonschema.validate(document, schema("budget", "frontier.schema.json"))
    del document["points"][0]["session_bytes"]
    with pytest.raises(jsonschema.ValidationError):  # the schema bites
        jsonschema.validate(document, schema("budget", "frontier.schema.json"))


@pytest.mark.parametrize("with_measured", [False, True])
@pytest.mark.parametrize("with_frontier", [False, True])
def test_page_is_whole(with_measured: bool, with_frontier: bool) -> None:
    about = manifest(3, budget=900_000_000)
    found = measured(about) if with_measured else {}
    text = render(about, found, frontier(about) if with_frontier else None, "ab" * 32)
    page = Reader(text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link == "data:," or link.removeprefix("#") in page.ids
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "tiny&lt;llama&gt;" in text
    assert "<llama>" not in text
    assert text.count("data-encoding=") == len(about["linears"])
    assert "no option of S + L is smaller than f32 at &lt;this&gt; size" in text
    assert REASON not in text
    assert ("this artifact" in text) == with_frontier
    assert text.count("not measured yet") == (0 if with_measured else 3)
    assert ("Not measured yet" in text) == (not with_measured)
    assert ("verified: every check passed" in text) == with_measured
    assert not re.search(r"\b(nan|inf|None)\b", text.split("<script")[0])


def test_same_input_same_bytes() -> None:
    pages = {render(manifest(2), measured(manifest(2)), frontier(manifest(2)), "0" * 64)
             for _ in range(2)}  # fmt: skip
    assert len(pages) == 1


def test_bar_is_the_arithmetic() -> None:
    about = manifest(2, budget=2_000_000_000)
    text = render(about, {}, None, "0" * 64)
    widths = [float(w) for w in re.findall(r"class='segment' style='width:([\d.]+)%", text)]
    assert sum(widths) == pytest.approx(100 * about["memory"]["predicted_bytes"] / 2e9, abs=0.01)
    assert len(widths) == 9  # every line but the empty one
    assert "class='mark budget left' style='left:100.000%'" in text


@pytest.mark.parametrize(
    ("size", "budget", "words"),
    [
        (100_000_000, 100_000_000, ["within the budget", "predicted within"]),
        (100_000_001, 100_000_000, ["over the budget", "predicted within"]),
        (105_000_001, None, ["off by more"]),
        (95_000_000, None, ["predicted within"]),
    ],
)
def test_verdicts_on_memory(size: int, budget: int | None, words: list[str]) -> None:
    memory = {"predicted_bytes": 100_000_000, "budget_bytes": budget, "lines": []}
    cells = memory_row(memory, {"measured_bytes": size})
    assert all(word in cells[-1] for word in words)
    assert ("budget" in cells[-1]) == (budget is not None)


def test_histogram_counts_every_sample() -> None:
    samples = [1.0] * 50 + [2.0] * 49 + [900.0]
    marks = percentiles({"samples_ms": samples})
    assert marks[50] == pytest.approx(1.5)
    assert marks[99] == pytest.approx(2 + 0.01 * 898)
    wide = histogram(samples, marks).split("</svg>")[0]
    counts = [int(n) for n in re.findall(r" ms: (\d+)</title>", wide)]
    assert sum(counts) == 100
    assert "the last bar holds 1 up to 900" in wide
    assert percentiles({"p50_ms": 3, "samples_ms": [1.0]}) == {50: 3.0, 90: 1.0, 99: 1.0}
    histogram([5.0] * 20, percentiles({"samples_ms": [5.0] * 20}))  # no width at all


def test_axis() -> None:
    even = Axis(0, 10, 0, 100)
    assert [even(v) for v in (-1, 0, 5, 10, 11)] == [0, 0, 50, 100, 100]
    assert even.ticks(5) == [0, 2, 4, 6, 8, 10]
    assert Axis(0.13, 0.58, 0, 1).ticks(4) == pytest.approx([0.2, 0.4])
    log = Axis(1e-3, 10, 400, 0, log=True)
    assert [round(log(v)) for v in (1e-3, 1e-1, 10)] == [400, 200, 0]
    assert log.ticks() == pytest.approx([1e-3, 1e-2, 1e-1, 1, 10])
    assert Axis(3, 3, 0, 10)(3) == 0


def test_map_shows_bits_by_layer() -> None:
    rows = [
        {"name": f"encoder.layer.{i}.{p}.dense", "encoding": "int4", "bits_per_weight": 4.0 + i}
        for i in range(3)
        for p in ("attention", "output")
    ]
    wide = linear_map([*rows, {**rows[0], "name": "embeddings"}]).split("</svg>")[0]
    assert wide.count("<rect") == 6
    assert ">attention</text>" in wide
    assert "layer.2.output.dense: int4, 6.00 bits" in wide
    assert linear_map([{**rows[0], "name": "first"}, {**rows[0], "name": "second"}]) == ""
    assert shade(0.5) < shade(4) < shade(8) < shade(16) < shade(32) == shade(64) == 1


def test_command_that_makes_it_again() -> None:
    about = manifest(1)
    assert command(about) == (
        "slc export 'tiny<llama>' --device raspberry-pi-5 --context 2048 --mem 1.2GB "
        "--method hessian --calibrate texts.txt -o OUT"
    )
    about["options"] |= {"density": 0.5, "rank": 8, "values": "i4", "adapters": ["task"]}
    assert "--accuracy-level 1 --density 0.5 --rank 8 --values i4" in command(about)
    assert "--adapter PATH=task" in command(about)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "out")


def test_written_beside_the_model_and_outside_the_hashes(out: Path) -> None:
    from slc.compiler.artifact.artifact import Artifact

    path = write_report(out)
    assert path == out / "report.html"
    keep_measured(out, None, "verify", measured(manifest(1))["verify"])
    assert write_report(out) == path  # its own place is made anew
    assert "verified: every check passed" in path.read_text()
    assert Artifact.open(out).check() == []


def test_named_file_is_kept_without_force(out: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_report(out, page)
    with pytest.raises(RequestError, match=r"page\.html exists already: .*--force"):
        write_report(out, page)
    page.write_text("old")
    write_report(out, page, force=True)
    assert page.read_text().startswith("<!doctype html>")
    with pytest.raises(RequestError, match="exists already"):
        write_report(out, tmp_path, force=True)
    with pytest.raises(RequestError, match=r"nowhere/page\.html: got a place .* -o FILE"):
        write_report(out, tmp_path / "nowhere" / "page.html")


def test_parts_of_measured_json_live_together(out: Path, tmp_path: Path) -> None:
    verified = measured(manifest(1))["verify"]
    keep_measured(out, None, "latency", {"run": {"p50_ms": 3.0}})
    keep_measured(out, None, "verify", verified)
    document = json.loads((out / "measured.json").read_text())
    assert set(document) == {"latency", "verify", "manifest_sha256"}
    jsonschema.validate(document, schema("artifact", "measured.schema.json"))
    other = tmp_path / "bench.json"
    other.write_text(json.dumps({"latency": {"run": {"p50_ms": 4.5}}}))
    write_report(out, measured=[other])
    assert "4.5 ms" in (out / "report.html").read_text()
    quantity = {"name": "batch 1, length <8>", "samples_ms": [2.0, 2.5] * 8, "p50_ms": 2.25}
    other.write_text(json.dumps({"artifact": "out", "measured": {"quantities": [quantity]}}))
    text = write_report(out, measured=[other]).read_text()  # the document of slc bench
    row = (
        "batch 1, length &lt;8&gt;</td><td data-head='samples'>16</td><td data-head='fastest'>2 ms"
    )
    assert row in text
    write_manifest_changed(out)
    assert keep_measured(out, None, "verify", verified) == out / "measured.json"
    assert "latency" not in json.loads((out / "measured.json").read_text())  # of another export


def write_manifest_changed(out: Path) -> None:
    document = json.loads((out / "manifest.json").read_text())
    document["options"]["rank"] = 99
    (out / "manifest.json").write_text(json.dumps(document))


BAD_FILES = {
    "no file": (None, "got no such file"),
    "no JSON": ("{", "got a file that can't be read"),
    "a list": ("[]", "got JSON in which the whole is not of type object"),
    "verify that is a number": ('{"verify": 1}', "got JSON in which verify is not of type object"),
    "half a verify": ('{"verify": {"passed": true}}', "got JSON in which verify.* is missing"),
    "times that are text": (
        '{"latency": {"run": {"samples_ms": ["1"]}}}',
        r"got JSON in which latency.run.samples_ms\[0\] is not of type number",
    ),
    "another artifact": ('{"manifest_sha256": "00"}', "got measurements of another artifact"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_measurements(case: str, out: Path, tmp_path: Path) -> None:
    text, words = BAD_FILES[case]
    path = tmp_path / "m.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RequestError, match=f"m.json: {words}.*(wanted|measure)"):
        write_report(out, measured=[path])
    assert not (out / "report.html").exists()


def _frontier_document() -> dict:
    points = [point_json(point) for point in frontier(manifest(1))]
    return {"device": "host", "page": "f.html", "points": points}


def test_frontier_of_a_file(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(_frontier_document()))
    text = write_report(out, frontier=path).read_text()
    assert "this artifact" in text
    fitting = sum(
        one["fits"]
        for point in _frontier_document()["points"]
        for one in point["alternatives"].values()
    )
    assert text.count("<circle") == 2 * (12 + fitting)  # for each of two widths


BAD_FRONTIERS = {
    "another device": (lambda d: d.update(device="jetson"), "got the frontier of jetson, wanted"),
    "no points": (lambda d: d.update(points=[]), "points has 0 entries, fewer than 2"),
    "no error": (lambda d: d["points"][3].pop("error"), r"points\[3\].error is missing"),
    "error that is text": (
        lambda d: d["points"][0].update(error="big"), r"points\[0\].error is not of type number",
    ),
    "no device": (lambda d: d.pop("device"), "device is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FRONTIERS)
def test_bad_frontier(case: str, out: Path, tmp_path: Path) -> None:
    spoil, words = BAD_FRONTIERS[case]
    document = copy.deepcopy(_frontier_document())
    spoil(document)
    path = tmp_path / "f.json"
    path.write_text(json.dumps(document))
    with pytest.raises(RequestError, match=words):
        write_report(out, frontier=path)
    with pytest.raises(RequestError, match=r"nothing\.json: got a file that can't be read"):
        write_report(out, frontier=tmp_path / "nothing.json")


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(SlcError, match=r"has no manifest\.json"):
        write_report(tmp_path)
    with pytest.raises(RequestError, match="got no such file"):
        read_measured(tmp_path / "x.json", "0")
